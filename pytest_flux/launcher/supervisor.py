"""The process that runs a session: child of flux-start, parent of the brokers, the last one to leave.

It is apart from the process that the user started so that neither can be killed without the other noticing: each
holds one end of a pipe, or is the parent of, the other, and takes everything down when the other is gone.
"""

from __future__ import annotations

import marshal
import os
import signal

from pytest_flux.launcher.brokers import Brokers
from pytest_flux.launcher.descendants import become_subreaper, end_descendants, kill_descendants
from pytest_flux.launcher.engine import Engine
from pytest_flux.launcher.leftovers import remove_leftovers
from pytest_flux.launcher.orders import STOP_SIGNALS, Debounce, decode_orders
from pytest_flux.launcher.report import report
from pytest_flux.launcher.rundir import Rundir, prepare_rundir
from pytest_flux.launcher.spawn import name_process
from pytest_flux.launcher.spec import LaunchError, LaunchSpec
from pytest_flux.launcher.terminal import Terminal
from pytest_flux.reactor.reactor import Reactor

# What outlives the brokers is a program that daemonised. It gets this long to end.
_SWEEP_GRACE = 0.5


class Supervisor:
    """Runs the session of a spec.

    ``orders`` is a descriptor to read orders to stop from, and the lifeline: when it ends, all ends. So it is with
    ``lifeline``, if given. To ``notes`` goes what would have to be removed in the supervisor's stead. To ``status``,
    if given, goes a line for what others may wait for: ``rundir PATH``, ``booted RANK``, ``ended RANK CODE``.
    """

    def __init__(
        self,
        spec: LaunchSpec,
        engine: Engine,
        *,
        orders: int,
        notes: int,
        group: int,
        terminal: Terminal | None,
        lifeline: int | None,
        status: int | None,
    ) -> None:
        self._spec = spec
        self._engine = engine
        self._orders = orders
        self._notes = notes
        self._group = group
        self._terminal = terminal
        self._lifeline = lifeline
        self._status = status
        self._debounce = Debounce()
        self._reactor = Reactor()
        self._directories: list[Rundir] = []
        self._brokers: Brokers | None = None
        self._stopped = 0

    def run(self) -> int:
        """The exit code of the session, when nothing of it is left."""
        self._settle()
        try:
            if self._stopped:
                return 128 + self._stopped
            rundir = prepare_rundir(self._spec)
            if self._spec.rundir is not None:
                # Before it is remembered: the sockets in there would be removed as ours.
                rundir.claim()
            self._remember(rundir)
            self._tell(f"rundir {self._directories[0].path}")
            brokers = self._brokers = Brokers(
                self._reactor,
                self._spec,
                self._engine,
                self._directories[0].path,
                self._group,
                ended=self._reactor.stop,
                found=self._remember,
                tell=self._tell,
            )
            brokers.start_all()
            self._reactor.run()
        except LaunchError as error:
            report(str(error))
            return 1
        except OSError as error:
            report(f"{error.filename or 'session'}: {error.strerror}")
            return 1
        else:
            return brokers.exit_code
        finally:
            self._leave(end_descendants(_SWEEP_GRACE))

    def _settle(self) -> None:
        # Out of the group that a terminal, or whoever kills "the process group", would hit along with the brokers.
        if self._group:
            os.setpgid(0, 0)
        name_process("flux-supervisor")
        become_subreaper()
        for signum in STOP_SIGNALS:
            self._reactor.on_signal(signum, self._take_signal)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.set_blocking(self._orders, False)
        self._reactor.on_readable(self._orders, self._take_orders)
        if self._lifeline is not None:
            self._reactor.on_readable(self._lifeline, self._read_lifeline)
        self._take_orders()

    def _remember(self, directory: Rundir) -> None:
        """Have a directory removed at the end, whoever lives to see it."""
        self._directories.append(directory)
        try:
            os.write(self._notes, marshal.dumps(tuple(directory)))
        except BrokenPipeError:
            # Nobody will: we are about to learn that the front is dead.
            return

    def _tell(self, line: str) -> None:
        if self._status is not None:
            try:
                os.write(self._status, os.fsencode(line) + b"\n")
            except OSError:
                return

    def _take_signal(self, signum: int) -> None:
        self._stop(signum, delivered=False)

    def _take_orders(self) -> None:
        try:
            orders = os.read(self._orders, 4096)
        except BlockingIOError:
            return
        if not orders:
            self._perish()
        for signum, delivered in decode_orders(orders):
            self._stop(signum, delivered=delivered)

    def _stop(self, signum: int, *, delivered: bool) -> None:
        if not self._debounce.is_new(signum):
            return
        if self._brokers is not None:
            self._brokers.stop(signum, delivered=delivered)
        else:
            self._stopped = self._stopped or signum

    def _read_lifeline(self) -> None:
        assert self._lifeline is not None
        try:
            alive = os.read(self._lifeline, 4096)
        except BlockingIOError:
            return
        except OSError:
            alive = b""
        if not alive:
            self._perish()

    def _perish(self) -> None:
        """Whom we do this for is gone: take everything down, at once."""
        self._reactor.on_readable(self._orders, None)
        if self._lifeline is not None:
            self._reactor.on_readable(self._lifeline, None)
        if self._brokers is None:
            self._die()
        else:
            self._brokers.after_last_words(self._die)

    def _die(self) -> None:
        self._leave(kill_descendants())
        os._exit(128 + signal.SIGKILL)

    def _leave(self, clean: bool) -> None:
        if not clean:
            report("some processes of the instance could not be killed")
        if self._brokers is not None:
            self._brokers.close()
        remove_leftovers(self._directories)
        if self._terminal is not None:
            self._terminal.restore()

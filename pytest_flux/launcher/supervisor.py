"""The process that runs a session: child of flux-start, parent of the brokers, the last one to end.

The problem: whatever kills `flux-start`, no broker, no job, no socket and no directory may be left. With `flux start`
itself, a SIGTERM to the launcher leaves brokers, initial program and rundir behind. Signal handlers are no answer to
SIGKILL, and test runners, batch systems and the OOM killer send that.

Three ways were open. PR_SET_PDEATHSIG kills children with their parent, but follows the *thread* that forked, is
cleared by set-uid programs, reaches no grandchildren, and is Linux only. A watcher that polls the launcher's pid is
late, and pids are reused. An outside process that holds a pipe (s6, testcontainers' Ryuk) sees the end at once,
however it comes. We took the pipe, and put all the work into the process that holds it.

So `flux-start` is two processes that watch each other. The front (`session.py`) is the parent of the supervisor and
sees its end by SIGCHLD; the supervisor sees the front's end by the end of the pipe ``orders``. The one that is left
kills and removes everything. If both are killed at the same moment, the brokers do (`lifeline.py`), else the sweeper
(`sweeper.py`).

What must stay true:

* The supervisor is in a separate process group: a signal to the group of the brokers, from a terminal or a test
  runner, does not reach it.
* It is a subreaper (Linux): processes of the instance that daemonize become its children, and are found at the end.
* Only the supervisor and the front hold the ends of ``orders``, and the writing ends of the lifeline of the brokers
  and of the sweeper's pipe; brokers must not inherit them.
* A stopped guard is none. SIGCONT wakes the supervisor when the front dies, and the front wakes it at every signal.
* A directory is noted to the front before anything is put into it.
* All waits are bounded: a stop asks, then signals, then kills, then verifies (`stopping.py`, `descendants.py`).
"""

from __future__ import annotations

import marshal
import os
import signal

from pytest_flux.launcher.brokers import Brokers
from pytest_flux.launcher.descendants import (
    become_subreaper,
    end_descendants,
    kill_descendants,
    kill_marked,
    wake_with_parent,
)
from pytest_flux.launcher.engine import Engine
from pytest_flux.launcher.lifeline import Lifeline
from pytest_flux.launcher.orders import STOP_SIGNALS, Debounce, Links, decode_orders
from pytest_flux.launcher.report import report
from pytest_flux.launcher.rundir import Rundir, prepare_rundir, remove_leftovers
from pytest_flux.launcher.spawn import name_process
from pytest_flux.launcher.spec import LaunchError, LaunchSpec
from pytest_flux.reactor.reactor import Reactor

# The time, in seconds, that programs which outlive the brokers (daemons) may take to end.
_SWEEP_GRACE = 0.5


class Supervisor:
    """Runs the session of a spec, whose front it knows by ``links``."""

    def __init__(self, spec: LaunchSpec, engine: Engine, links: Links) -> None:
        self._spec = spec
        self._engine = engine
        self._links = links
        self._debounce = Debounce()
        self._reactor = Reactor()
        self._directories: list[Rundir] = []
        self._brokers: Brokers | None = None
        self._stopped = 0

    def run(self) -> int:
        """Run the session, remove everything, and return the exit code."""
        self._settle()
        try:
            if self._stopped:
                return 128 + self._stopped
            rundir = prepare_rundir(self._spec)
            if self._spec.rundir is not None:
                # Before it is noted: sockets of another session in it would be removed as ours.
                rundir.claim()
            self._remember(rundir)
            self._links.sweeper.mark(rundir.path)
            self._notify(f"rundir {self._directories[0].path}")
            brokers = self._brokers = Brokers(
                self._reactor,
                self._spec,
                self._engine,
                self._directories[0].path,
                self._links.group,
                Lifeline(self._links.watch, rundir),
                ended=self._reactor.stop,
                found=self._remember,
                notify=self._notify,
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
        # Leave the group of the brokers, which a terminal or a test runner signals as a whole.
        if self._links.group:
            os.setpgid(0, 0)
        name_process("flux-supervisor")
        become_subreaper()
        wake_with_parent()
        for signum in STOP_SIGNALS:
            self._reactor.on_signal(signum, self._take_signal)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.set_blocking(self._links.orders, False)
        self._reactor.on_readable(self._links.orders, self._take_orders)
        if self._links.lifeline is not None:
            self._reactor.on_readable(self._links.lifeline, self._read_lifeline)
        self._take_orders()

    def _remember(self, directory: Rundir) -> None:
        """Note a directory that must be removed at the end, by us or by the front."""
        self._directories.append(directory)
        self._links.sweeper.remove(directory)
        try:
            os.write(self._links.notes, marshal.dumps(tuple(directory)))
        except BrokenPipeError:
            # The front is dead; the end of ``orders`` is about to tell us.
            return

    def _notify(self, line: str) -> None:
        if self._links.status is not None:
            try:
                os.write(self._links.status, os.fsencode(line) + b"\n")
            except OSError:
                return

    def _take_signal(self, signum: int) -> None:
        self._stop(signum, delivered=False)

    def _take_orders(self) -> None:
        try:
            orders = os.read(self._links.orders, 4096)
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
        assert self._links.lifeline is not None
        try:
            alive = os.read(self._links.lifeline, 4096)
        except BlockingIOError:
            return
        except OSError:
            alive = b""
        if not alive:
            self._perish()

    def _perish(self) -> None:
        """Kill everything at once: the front, or the owner of the lifeline, is gone."""
        self._reactor.on_readable(self._links.orders, None)
        if self._links.lifeline is not None:
            self._reactor.on_readable(self._links.lifeline, None)
        if self._brokers is None:
            self._die()
        else:
            self._brokers.after_last_words(self._die)

    def _die(self) -> None:
        clean = kill_descendants()
        for directory in self._directories[:1]:
            # Programs that a test runs beside the instance.
            kill_marked(directory.path)
        self._leave(clean)
        os._exit(128 + signal.SIGKILL)

    def _leave(self, clean: bool) -> None:
        if not clean:
            report("some processes of the instance could not be killed")
        if self._brokers is not None:
            self._brokers.close()
        remove_leftovers(self._directories)
        self._links.sweeper.dismiss()
        if self._links.terminal is not None:
            self._links.terminal.restore()

"""The front of a session in test mode: the process that the user has started.

The *front* stays as small as possible. It passes signals on to the supervisor, which does the work, and cleans up if
the supervisor dies; the supervisor cleans up if the front dies (:mod:`pytest_flux.launcher.supervisor` says why). ::

    flux-start            the front: the process id that the user knows
     └─ flux-supervisor   sockets, timers, the PMI server; in a separate process group
         ├─ broker 0      the brokers: in the front's process group, so in the terminal's foreground group if
         └─ broker ...    flux-start is

Both are subreapers (Linux), so no process of the instance can escape them. If both are killed, the brokers clean up
(:mod:`pytest_flux.launcher.lifeline`), else the sweeper (:mod:`pytest_flux.launcher.sweeper`).
"""

from __future__ import annotations

import marshal
import os
import signal
import sys

from pytest_flux.launcher.descendants import become_subreaper, end_descendants, kill_marked, load_prctl
from pytest_flux.launcher.engine import Engine
from pytest_flux.launcher.orders import Debounce, Links, encode_order
from pytest_flux.launcher.report import report
from pytest_flux.launcher.rundir import Rundir, remove_leftovers
from pytest_flux.launcher.spec import PROCESS_LIMITS, LaunchError, LaunchSpec
from pytest_flux.launcher.sweeper import Sweeper
from pytest_flux.launcher.terminal import Terminal
from pytest_flux.reactor.descriptors import open_standard_descriptors

_SI_KERNEL = 0x80
# A supervisor acts on two orders. If there are more, it hangs and is killed.
_MAX_ORDERS = 3
# The time, in seconds, that processes may take to end after their supervisor has died.
_GRACE = 0.5


def run_session(spec: LaunchSpec, engine: Engine, *, lifeline: int | None = None, status: int | None = None) -> int:
    """Start ``spec.size`` brokers, wait until all have ended, remove everything, and return the exit code.

    The exit code is made of the brokers' according to the exit mode; it is 1 if the session fails and 128 + n if
    signal n stops it. SIGTERM, SIGINT and SIGHUP shut the instance down in order; the second one, or
    ``spec.exit_timeout`` seconds (20 if infinite) without the exit of a broker, kills it. If this process is killed,
    or the descriptor ``lifeline`` comes to its end, everything is killed at once. For ``status`` see Links.

    Call it in the main thread of a process without other threads or children. Raises LaunchError if nothing can be
    started.
    """
    open_standard_descriptors()
    terminal = Terminal.save()
    sweeper = Sweeper()
    # Here, because supervisor and brokers need it, too; and meanwhile the sweeper loses its parent.
    load_prctl()
    sweeper.settle()
    become_subreaper()
    # SIGCHLD may be inherited as ignored, and the BSDs lose it if the action is the default, although it is blocked.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGCONT}
    # nohup(1) makes programs ignore SIGHUP; so do we then.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signals.add(signal.SIGHUP)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    orders, give_orders = os.pipe()
    take_notes, notes = os.pipe()
    # Nobody reads the other end before it is closed: brokers inherit it, and see that we and the supervisor are dead.
    watch, _ = os.pipe()
    group = os.getpgrp()
    try:
        pid = os.fork()
    except OSError as error:
        raise LaunchError(f"cannot fork a supervisor: {error.strerror} {PROCESS_LIMITS}") from None
    if pid == 0:
        os.close(give_orders)
        os.close(take_notes)
        _supervise(spec, engine, Links(orders, notes, group, terminal, lifeline, status, watch, sweeper))
    for theirs in (orders, notes, watch):
        os.close(theirs)
    try:
        return _Front(pid, signals, give_orders, take_notes, terminal, sweeper).run()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _supervise(spec: LaunchSpec, engine: Engine, links: Links) -> None:
    code = 1
    try:
        # Imported after the fork, because the front does not need it.
        from pytest_flux.launcher.supervisor import Supervisor

        code = Supervisor(spec, engine, links).run()
    except BaseException:  # noqa: BLE001 - the frames above are the front's
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


class _Front:
    def __init__(
        self,
        pid: int,
        signals: set[signal.Signals],
        orders: int,
        notes: int,
        terminal: Terminal | None,
        sweeper: Sweeper,
    ) -> None:
        self._pid = pid
        self._signals = signals
        self._orders = orders
        self._notes = notes
        self._terminal = terminal
        self._sweeper = sweeper

    def run(self) -> int:
        """Pass signals on until the supervisor has ended, and return the exit code."""
        debounce = Debounce()
        given = 0
        while True:
            signum, from_terminal = _wait_for(self._signals)
            if signum == signal.SIGCHLD:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
                if pid:
                    return self._end(os.waitstatus_to_exitcode(status))
                continue
            # It may be stopped. We get SIGCONT ourselves if somebody of the instance has noticed a death.
            os.kill(self._pid, signal.SIGCONT)
            if signum == signal.SIGCONT:
                continue
            if debounce.is_new(signum):
                given += 1
                try:
                    os.write(self._orders, encode_order(signum, from_terminal))
                except BrokenPipeError:
                    continue
                if given >= _MAX_ORDERS:
                    os.kill(self._pid, signal.SIGKILL)

    def _end(self, code: int) -> int:
        if code >= 0 and not _has_children():
            self._sweeper.dismiss()
            return code
        # The supervisor died, so we clean up. Brokers that it had not noted yet lose their connection to it, and
        # remove their own directories.
        end_descendants(_GRACE)
        directories = self._read_notes()
        for directory in directories[:1]:
            kill_marked(directory.path)
        remove_leftovers(directories)
        self._sweeper.dismiss()
        if code >= 0:
            return code
        report(f"supervisor (pid {self._pid}) {signal.strsignal(-code)}: killed all brokers")
        if self._terminal is not None:
            self._terminal.restore()
        return 128 - code

    def _read_notes(self) -> list[Rundir]:
        # All writers are dead. If one is not quite, a directory that is left is better than waiting for it.
        os.set_blocking(self._notes, False)
        directories = []
        with open(self._notes, "rb", closefd=False) as notes:
            try:
                while True:
                    directories.append(Rundir(*marshal.load(notes)))
            except (EOFError, ValueError, TypeError):
                return directories


def _wait_for(signals: set[signal.Signals]) -> tuple[int, bool]:
    """Wait for one of these signals. Return it, and whether a terminal has sent it, to the whole group.

    Stop and continue signals are not among them: the kernel applies them to the group.
    """
    if not hasattr(signal, "sigwaitinfo"):
        return signal.sigwait(signals), False
    received = signal.sigwaitinfo(signals)
    return received.si_signo, received.si_code == _SI_KERNEL


def _has_children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True

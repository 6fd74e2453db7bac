"""A session of test mode, from the process that the user started.

That process, the *front*, stays as small as it can be: it passes signals on to the supervisor, which does the work,
and cleans up after it should it die. The supervisor does as much for the front. ::

    flux-start            the front: the process id that the user has
     └─ flux-supervisor   sockets, timers, the PMI server; in a process group of its own
         ├─ broker 0      the brokers: in the front's process group, which is the terminal's foreground one if
         └─ broker ...    flux-start was

Both are subreapers (Linux), so that nothing of the instance gets out of their reach. What this cannot survive is
that both are killed at the same moment.
"""

from __future__ import annotations

import marshal
import os
import signal
import sys

from pytest_flux.launcher.descendants import become_subreaper, end_descendants
from pytest_flux.launcher.engine import Engine
from pytest_flux.launcher.leftovers import remove_leftovers
from pytest_flux.launcher.orders import Debounce, encode_order
from pytest_flux.launcher.report import report
from pytest_flux.launcher.rundir import Rundir
from pytest_flux.launcher.spec import PROCESS_LIMITS, LaunchError, LaunchSpec
from pytest_flux.launcher.terminal import Terminal
from pytest_flux.reactor.descriptors import open_standard_descriptors

_SI_KERNEL = 0x80
# More than the two that a supervisor acts on: it does not answer any more.
_MAX_ORDERS = 3
# How long processes have to end whose supervisor is dead.
_GRACE = 0.5


def run_session(spec: LaunchSpec, engine: Engine, *, lifeline: int | None = None, status: int | None = None) -> int:
    """Bring up ``spec.size`` brokers, wait until all have ended, leave nothing behind; the exit code.

    That is the one the exit mode makes of the brokers'; 1 if the session fails; 128 + n if a signal stops it.
    SIGTERM, SIGINT and SIGHUP shut the instance down in order; the second one, or ``spec.exit_timeout`` seconds (20
    if infinite) in which no broker exits, kills it. If this process is killed, or ``lifeline``, a descriptor of the
    caller's, comes to its end, everything is killed at once. ``status``, another one, is told how far things are (see
    Supervisor).

    Must be called in the main thread, and the process must have no other threads or children. Raises LaunchError if
    nothing can be started at all.
    """
    open_standard_descriptors()
    terminal = Terminal.save()
    become_subreaper()
    # Neither inherited as ignored nor, where that loses it although it is blocked (the BSDs), ignored by default.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
    # nohup(1) means that a hangup is to be survived.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signals.add(signal.SIGHUP)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    orders, give_orders = os.pipe()
    take_notes, notes = os.pipe()
    group = os.getpgrp()
    try:
        pid = os.fork()
    except OSError as error:
        raise LaunchError(f"cannot fork a supervisor: {error.strerror} {PROCESS_LIMITS}") from None
    if pid == 0:
        os.close(give_orders)
        os.close(take_notes)
        _supervise(spec, engine, orders, notes, group, terminal, lifeline, status)
    os.close(orders)
    os.close(notes)
    try:
        return _Front(pid, signals, give_orders, take_notes, terminal).run()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _supervise(
    spec: LaunchSpec,
    engine: Engine,
    orders: int,
    notes: int,
    group: int,
    terminal: Terminal | None,
    lifeline: int | None,
    status: int | None,
) -> None:
    code = 1
    try:
        # Not before the fork: the front needs none of it, and brokers start no later for it.
        from pytest_flux.launcher.supervisor import Supervisor

        supervisor = Supervisor(
            spec,
            engine,
            orders=orders,
            notes=notes,
            group=group,
            terminal=terminal,
            lifeline=lifeline,
            status=status,
        )
        code = supervisor.run()
    except BaseException:  # noqa: BLE001 - the frames above are the front's
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


class _Front:
    def __init__(
        self, pid: int, signals: set[signal.Signals], orders: int, notes: int, terminal: Terminal | None
    ) -> None:
        self._pid = pid
        self._signals = signals
        self._orders = orders
        self._notes = notes
        self._terminal = terminal

    def run(self) -> int:
        """Pass signals on until the supervisor has ended; the exit code."""
        debounce = Debounce()
        given = 0
        while True:
            signum, from_terminal = _wait_for(self._signals)
            if signum == signal.SIGCHLD:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
                if pid:
                    return self._end(os.waitstatus_to_exitcode(status))
            elif debounce.is_new(signum):
                given += 1
                try:
                    os.write(self._orders, encode_order(signum, from_terminal))
                except BrokenPipeError:
                    continue
                if given >= _MAX_ORDERS:
                    os.kill(self._pid, signal.SIGKILL)

    def _end(self, code: int) -> int:
        if code >= 0 and not _has_children():
            return code
        # The supervisor did not live to do it: what it has left behind is ours now. Brokers that it had not got to
        # know find themselves cut off from it, and remove their own.
        end_descendants(_GRACE)
        remove_leftovers(self._read_notes())
        if code >= 0:
            return code
        report(f"supervisor (pid {self._pid}) {signal.strsignal(-code)}: killed all brokers")
        if self._terminal is not None:
            self._terminal.restore()
        return 128 - code

    def _read_notes(self) -> list[Rundir]:
        # Everybody who could write is dead. If not quite, better a directory left than waiting for it.
        os.set_blocking(self._notes, False)
        directories = []
        with open(self._notes, "rb", closefd=False) as notes:
            try:
                while True:
                    directories.append(Rundir(*marshal.load(notes)))
            except (EOFError, ValueError, TypeError):
                return directories


def _wait_for(signals: set[signal.Signals]) -> tuple[int, bool]:
    """The next of these signals, and whether it comes from a terminal, which sends to the whole group.

    Stopping and continuing are none of them: the kernel does that to the group.
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

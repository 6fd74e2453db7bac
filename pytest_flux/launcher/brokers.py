"""The brokers of a session: start, watch and stop them, and make the session's exit code of theirs."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Collection
from functools import partial

from pytest_flux.launcher.command import announcement, broker_argv, broker_environ
from pytest_flux.launcher.descendants import signal_descendants
from pytest_flux.launcher.engine import Engine
from pytest_flux.launcher.lifeline import Lifeline
from pytest_flux.launcher.report import report, write_error
from pytest_flux.launcher.rundir import Rundir
from pytest_flux.launcher.spawn import Launch, Spawner
from pytest_flux.launcher.spec import LaunchError, LaunchSpec
from pytest_flux.launcher.statedir import StatedirWatch
from pytest_flux.launcher.stopping import ExitReaper, Stopping
from pytest_flux.reactor.listener import listen
from pytest_flux.reactor.reactor import Reactor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.launcher.control import ControlService
    from pytest_flux.launcher.pmi_server import PmiService

# The time, in seconds, that brokers may take to end by themselves after their session has failed.
_FAILURE_GRACE = 2.0


class _Broker:
    __slots__ = ("argv", "exit_code", "pid", "rank")

    def __init__(self, rank: int, argv: list[str]) -> None:
        self.rank = rank
        self.argv = argv
        self.pid = -1
        self.exit_code = 0


class Brokers:
    """All brokers of one session, in the directory ``rundir`` and the process group ``group``, on one ``lifeline``.

    ``ended`` is called when none is left. ``found`` is called with directories outside of ``rundir`` that the session
    must remove. ``notify`` is called with ``booted RANK`` when a rank has ended its conversation with the PMI server
    (its local socket accepts clients then), and with ``ended RANK CODE``. Raises LaunchError.
    """

    def __init__(
        self,
        reactor: Reactor,
        spec: LaunchSpec,
        engine: Engine,
        rundir: str,
        group: int,
        lifeline: Lifeline,
        *,
        ended: Callable[[], None],
        found: Callable[[Rundir], None],
        notify: Callable[[str], None],
    ) -> None:
        size = spec.size or 0
        # First, because it checks the size.
        self._spawner = Spawner(engine, size, rundir, group, lifeline, wrap=bool(spec.wrap))
        self._reactor = reactor
        self._spec = spec
        self._engine = engine
        self._rundir = rundir
        self._ended = ended
        self._notify = notify
        self._running: dict[int, _Broker] = {}
        self._exit_code = 0
        self._failed = False
        self._connections: dict[int, socket.socket] = {}
        self._brokers: list[_Broker] = []
        for rank in range(size):
            argv = broker_argv(spec, engine, rank, rundir)
            self._brokers.append(_Broker(rank, argv))
            write_error(announcement(spec, argv, rank))
        leader = f"{rundir}/local-0"
        self._statedir = StatedirWatch(reactor, leader, found)
        asked = leader if engine.kind == "system" else None
        self._stopping = Stopping(reactor, self, spec.exit_timeout, asked, rundir)
        self._reaper = ExitReaper(reactor, size, spec.exit_mode, spec.exit_timeout, self._expire)
        self._pmi: PmiService | None = None
        self._control: ControlService | None = None
        self._listener: socket.socket | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of flux-start: according to the exit mode, unless the session failed or was stopped."""
        if self._stopping.signum:
            return 128 + self._stopping.signum
        return 1 if self._failed else self._exit_code

    def running(self) -> Collection[int]:
        """The ranks that run."""
        return self._running.keys()

    def pids(self) -> list[int]:
        """Process ids in the order of ranks; -1 for those that do not run."""
        return [broker.pid for broker in self._brokers]

    def pid(self, rank: int) -> int:
        """Process id of a rank, -1 if it does not run. Raises LookupError if there is no such rank."""
        return self._broker(rank).pid

    def exit_code_of(self, rank: int) -> int:
        """Exit code of a rank that has ended, 128 + n if by signal n; 0 before."""
        return self._broker(rank).exit_code

    def _broker(self, rank: int) -> _Broker:
        if not 0 <= rank < len(self._brokers):
            raise LookupError(f"no rank {rank} in an instance of size {len(self._brokers)}")
        return self._brokers[rank]

    def start_all(self) -> None:
        """Start the ranks of the start mode. If one cannot be executed, end the others."""
        self._listener = listen(f"{self._rundir}/start")
        self._reactor.on_readable(self._listener.fileno(), self._serve_control)
        wanted = self._brokers if self._spec.start_mode == "all" else self._brokers[:1]
        try:
            self._start(wanted)
        except LaunchError as error:
            self._fail(str(error))
            self.signal(signal.SIGTERM)
        # This import takes as long as a broker takes to send its first message, so do it after the start.
        from pytest_flux.launcher.pmi_server import PmiService

        self._pmi = PmiService(
            self._reactor,
            len(self._brokers),
            self._spec.pmi_clique,
            self._abort,
            self._break_protocol,
            lambda rank: self._notify(f"booted {rank}"),
            trace=self._spec.verbose >= 2,
        )
        for rank, connection in self._connections.items():
            self._pmi.serve(rank, connection)

    def _serve_control(self) -> None:
        """Start the service when the first client connects; most sessions have none."""
        from pytest_flux.launcher.control import ControlService

        assert self._listener is not None
        self._control = ControlService(
            self._reactor, f"{self._rundir}/start", self._listener, self, verbose=self._spec.verbose >= 1
        )

    def start(self, rank: int) -> None:
        """Start a rank that does not run. Raises LaunchError if its broker cannot be executed."""
        self._start([self._broker(rank)])

    def _start(self, brokers: list[_Broker]) -> None:
        channels = [socket.socketpair() for _ in brokers]
        launches = []
        for broker, (_, theirs) in zip(brokers, channels, strict=True):
            environ = broker_environ(self._spec, self._engine, broker.rank, self._rundir, os.environ)
            launches.append(Launch(broker.rank, broker.argv, environ, theirs.fileno()))
            if broker.rank == 0 and self._engine.kind == "system":
                self._statedir.begin()
        try:
            self._spawner.spawn(launches)
        finally:
            for broker, launch, (ours, theirs) in zip(brokers, launches, channels, strict=True):
                theirs.close()
                if launch.pid > 0:
                    broker.pid = launch.pid
                    self._watch(broker, ours)
                else:
                    ours.close()
                    if broker.rank == 0:
                        self._statedir.end(0)

    def _watch(self, broker: _Broker, connection: socket.socket) -> None:
        if self._pmi is None:
            self._connections[broker.rank] = connection
        else:
            self._pmi.serve(broker.rank, connection)
        self._running[broker.rank] = broker
        self._reactor.on_child(broker.pid, partial(self._collect, broker))

    def close(self) -> None:
        """Close sockets and cancel timers."""
        self._statedir.close()
        self._stopping.close()
        self._reaper.cancel()
        if self._pmi is not None:
            self._pmi.close()
        if self._control is not None:
            self._control.close()
        elif self._listener is not None:
            self._reactor.on_readable(self._listener.fileno(), None)
            self._listener.close()

    # The ends of brokers

    def _collect(self, broker: _Broker, status: int) -> None:
        assert self._pmi is not None
        self._pmi.finish(broker.rank)
        pid, broker.pid = broker.pid, -1
        del self._running[broker.rank]
        code = os.waitstatus_to_exitcode(status)
        if code and not self._failed:
            reason = signal.strsignal(-code) if code < 0 else f"exited with rc={code}"
            report(f"{broker.rank} (pid {pid}) {reason}")
        broker.exit_code = code if code >= 0 else 128 - code
        if self._spec.exit_mode == "any":
            self._exit_code = max(self._exit_code, broker.exit_code)
        elif broker.rank == 0:
            self._exit_code = broker.exit_code
        if broker.rank == 0:
            self._statedir.end(code)
        # Before the control service answers: its client may rely on this report.
        self._notify(f"ended {broker.rank} {broker.exit_code}")
        if self._control is not None:
            self._control.ended(broker.rank)
        self._reaper.update(self._running)
        self._stopping.broker_ended(broker.rank, code)
        if not self._running:
            self._ended()

    def _expire(self) -> None:
        from pytest_flux.protocol.idset import encode_idset

        killed = self.signal(signal.SIGKILL)
        report(f"Exit timeout: killed rank {encode_idset(killed)}")

    def _abort(self, rank: int, message: str) -> None:
        report(f"{rank}: PMI_Abort(){': ' if message else ''}{message}")
        self.signal(signal.SIGKILL)

    def _break_protocol(self, what: str) -> None:
        self._fail(f"channel_cb: {what}")

    def _fail(self, text: str) -> None:
        """End the session with an error. Brokers see their PMI connections close, and have a moment to report it."""
        if self._failed:
            return
        self._failed = True
        report(text)
        # Later, because the server itself may be the caller.
        self._reactor.call_soon(self._disconnect)
        self._reactor.call_later(_FAILURE_GRACE, self.kill)
        if not self._running:
            self._reactor.call_soon(self._ended)

    def _disconnect(self) -> None:
        if self._pmi is not None:
            self._pmi.close()

    # Stopping

    def stop(self, signum: int, *, delivered: bool = False) -> None:
        """Shut the instance down in order; the second time, kill it (see Stopping)."""
        self._stopping.request(signum, delivered=delivered, early=self._statedir.unknown)

    def signal(self, signum: int) -> list[int]:
        """Signal all brokers that run, and return their ranks."""
        for broker in self._running.values():
            os.kill(broker.pid, signum)
        return sorted(self._running)

    def kill(self) -> None:
        """Kill every process of the instance."""
        self.after_last_words(lambda: signal_descendants(signal.SIGKILL))

    def after_last_words(self, then: Callable[[], None]) -> None:
        """Call ``then`` when rank 0 may be killed (see StatedirWatch)."""
        self._statedir.after_last_words(then)

"""The brokers of a session: started, watched, stopped, and what their ends mean for the exit code."""

from __future__ import annotations

import math
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from functools import partial

from pytest_flux.launcher.command import announcement, broker_argv, broker_environ
from pytest_flux.launcher.descendants import signal_descendants
from pytest_flux.launcher.engine import Engine
from pytest_flux.launcher.reaper import ExitReaper
from pytest_flux.launcher.report import report, write_error
from pytest_flux.launcher.rundir import Rundir
from pytest_flux.launcher.spawn import Spawner
from pytest_flux.launcher.spec import LaunchError, LaunchSpec
from pytest_flux.reactor.listener import listen
from pytest_flux.reactor.reactor import Reactor, Timer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.launcher.control import ControlService
    from pytest_flux.launcher.pmi_server import PmiService
    from pytest_flux.launcher.query import BrokerQuery, Requests

_DEFAULT_PATIENCE = 20.0
# How long brokers may take to end by themselves when their session has failed.
_FAILURE_GRACE = 2.0
# How long brokers may take to follow rank 0, when a session is being stopped, before they are told to.
_FOLLOW_GRACE = 1.0
# How long a broker that is about to be killed may take to say what else has to go.
_LAST_WORDS = 0.5
# How often a broker is asked while it starts up.
_QUERY_INTERVAL = 0.01
# States of a real broker's in which a signal starts its shutdown: in these it has not come, or has not worked yet.
_STARTING = ("join", "config-sync", "init", "quorum")


class _Broker:
    __slots__ = ("argv", "exit_code", "pid", "rank")

    def __init__(self, rank: int, argv: list[str]) -> None:
        self.rank = rank
        self.argv = argv
        self.pid = -1
        self.exit_code = 0


class Brokers:
    """All brokers of one session, in the directory ``rundir`` and the process group ``group``.

    ``ended`` is called when none is left. ``found`` is called with directories outside of ``rundir`` that are the
    session's to remove, ``tell`` with ``booted RANK`` when a rank has ended its conversation with the PMI server
    (from then on its local socket takes clients), and with ``ended RANK CODE``. Raises LaunchError if the session
    cannot be.
    """

    def __init__(
        self,
        reactor: Reactor,
        spec: LaunchSpec,
        engine: Engine,
        rundir: str,
        group: int,
        *,
        ended: Callable[[], None],
        found: Callable[[Rundir], None],
        tell: Callable[[str], None],
    ) -> None:
        size = spec.size or 0
        self._reactor = reactor
        self._spec = spec
        self._engine = engine
        self._rundir = rundir
        self._ended = ended
        self._found = found
        self._tell = tell
        self._running: dict[int, _Broker] = {}
        self._exit_code = 0
        self._failed = False
        self._stop_signal = 0
        self._patience: Timer | None = None
        self._leader_start = 0.0
        self._told: Callable[[], None] | None = None
        self._queries: list[BrokerQuery] = []
        self._connections: dict[int, socket.socket] = {}
        self._statedir_unknown = False
        self._brokers: list[_Broker] = []
        for rank in range(size):
            argv = broker_argv(spec, engine, rank, rundir)
            self._brokers.append(_Broker(rank, argv))
            write_error(announcement(spec, argv, rank))
        self._reaper = ExitReaper(reactor, size, spec.exit_mode, spec.exit_timeout, self._expire)
        self._spawner = Spawner(engine, size, group, wrap=bool(spec.wrap))
        self._pmi: PmiService | None = None
        self._control: ControlService | None = None
        self._listener: socket.socket | None = None

    @property
    def exit_code(self) -> int:
        """What flux-start is to return: as its exit mode says, unless the session failed or was stopped."""
        if self._stop_signal:
            return 128 + self._stop_signal
        return 1 if self._failed else self._exit_code

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
        """Start the ranks that the start mode wants. If one cannot be executed, the others are ended."""
        self._listener = listen(f"{self._rundir}/start")
        self._reactor.on_readable(self._listener.fileno(), self._serve_control)
        wanted = self._brokers if self._spec.start_mode == "all" else self._brokers[:1]
        for broker in wanted:
            try:
                self.start(broker.rank)
            except LaunchError as error:
                self._fail(str(error))
                self._signal(signal.SIGTERM)
                break
        # Importing this takes as long as a broker takes to say its first word, so let it run meanwhile.
        from pytest_flux.launcher.pmi_server import PmiService

        self._pmi = PmiService(
            self._reactor,
            len(self._brokers),
            self._spec.pmi_clique,
            self._abort,
            self._break_protocol,
            lambda rank: self._tell(f"booted {rank}"),
            trace=self._spec.verbose >= 2,
        )
        for rank, connection in self._connections.items():
            self._pmi.serve(rank, connection)

    def _serve_control(self) -> None:
        """The first client has come; most sessions see none."""
        from pytest_flux.launcher.control import ControlService

        assert self._listener is not None
        self._control = ControlService(
            self._reactor, f"{self._rundir}/start", self._listener, self, verbose=self._spec.verbose >= 1
        )

    def start(self, rank: int) -> None:
        """Start the broker of a rank that does not run. Raises LaunchError if it cannot be executed."""
        broker = self._broker(rank)
        environ = broker_environ(self._spec, self._engine, rank, self._rundir, os.environ)
        if rank == 0:
            self._leader_start = time.time()
        ours, theirs = socket.socketpair()
        try:
            broker.pid = self._spawner.spawn(rank, broker.argv, environ, theirs.fileno())
        except LaunchError:
            ours.close()
            raise
        finally:
            theirs.close()
        if self._pmi is None:
            self._connections[rank] = ours
        else:
            self._pmi.serve(rank, ours)
        self._running[rank] = broker
        self._reactor.on_child(broker.pid, partial(self._collect, broker))
        if rank == 0 and self._engine.kind == "system":
            self._statedir_unknown = True
            self._reactor.call_soon(self._ask_statedir)

    def close(self) -> None:
        """Give back sockets and timers."""
        self._cancel_queries()
        self._reaper.cancel()
        if self._pmi is not None:
            self._pmi.close()
        if self._control is not None:
            self._control.close()
        elif self._listener is not None:
            self._reactor.on_readable(self._listener.fileno(), None)
            self._listener.close()

    # Ends

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
            self._cancel_queries()
            if self._statedir_unknown and code < 0:
                from pytest_flux.launcher.statedir import remove_untold_statedir

                remove_untold_statedir(self._leader_start)
            self._statedir_unknown = False
            self._stop_listening()
        if self._control is not None:
            self._control.ended(broker.rank)
        self._tell(f"ended {broker.rank} {broker.exit_code}")
        self._reaper.update(self._running)
        if not self._running:
            self._ended()
        elif self._stop_signal:
            self._be_patient()
            if broker.rank == 0:
                # In an orderly shutdown they are about to follow. If rank 0 did not live to order one, they wait
                # for it in vain.
                self._reactor.call_later(_FOLLOW_GRACE if code >= 0 else 0, self._forward)

    def _expire(self) -> None:
        killed = self._signal(signal.SIGKILL)
        report(f"Exit timeout: killed rank {_ranks(killed)}")

    def _abort(self, rank: int, message: str) -> None:
        report(f"{rank}: PMI_Abort(){': ' if message else ''}{message}")
        self._signal(signal.SIGKILL)

    def _break_protocol(self, what: str) -> None:
        self._fail(f"channel_cb: {what}")

    def _fail(self, text: str) -> None:
        """End the session with an error. Brokers find their PMI connections closed and have a moment to say so."""
        if self._failed:
            return
        self._failed = True
        report(text)
        # Not now: this may be called while the server is at work.
        self._reactor.call_soon(self._disconnect)
        self._reactor.call_later(_FAILURE_GRACE, self.kill)
        if not self._running:
            self._reactor.call_soon(self._ended)

    def _disconnect(self) -> None:
        if self._pmi is not None:
            self._pmi.close()

    # Stopping

    def stop(self, signum: int, *, delivered: bool = False) -> None:
        """Shut the instance down in order, as ``signum`` would; the second time kill everything.

        ``delivered`` says that brokers have got the signal already: a terminal sends it to the whole group.
        """
        if self._stop_signal:
            killed = _ranks(self._running)
            report(f"{signal.Signals(signum).name} while stopping: killed rank {killed}")
            self.kill()
            return
        self._stop_signal = signum
        if not delivered:
            self._forward()
        self._be_patient()
        if self._engine.kind == "system" and 0 in self._running:
            self._ask_state(early=self._statedir_unknown)

    def kill(self) -> None:
        """Kill every process of the instance."""
        self.after_last_words(lambda: signal_descendants(signal.SIGKILL))

    def after_last_words(self, then: Callable[[], None]) -> None:
        """Call back when rank 0 may be killed: at once, or when it has told what nobody else can know.

        That is so for a moment after its start only, and it is not waited for long. Meanwhile the reactor must run.
        """
        if not self._statedir_unknown or 0 not in self._running:
            then()
            return
        self._told = then
        self._reactor.call_later(_LAST_WORDS, self._stop_listening)

    def _stop_listening(self) -> None:
        then, self._told = self._told, None
        if then is not None:
            then()

    def _forward(self) -> None:
        """To rank 0, which orders the others' shutdown; to the others if it is no more."""
        leader = self._brokers[0].pid
        if leader >= 0:
            os.kill(leader, self._stop_signal)
        else:
            self._signal(self._stop_signal)

    def _repeat(self, early: bool, payloads: list[dict[str, Any]]) -> None:
        """A real broker ignores signals while in the first of its states. Repeat it if that may have been so.

        ``early``: the broker had not been heard of yet when it was sent, or was in that state afterwards.
        """
        state = payloads[0].get("state") if payloads else None
        if state == "load-builtins":
            self._ask_state(early=True)
        elif state in _STARTING or (state == "run" and early):
            self._forward()

    def _be_patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        timeout = self._spec.exit_timeout
        self._patience = self._reactor.call_later(
            timeout if math.isfinite(timeout) else _DEFAULT_PATIENCE, self._lose_patience
        )

    def _lose_patience(self) -> None:
        name = signal.Signals(self._stop_signal).name
        report(f"No broker exited in time after {name}: killed rank {_ranks(self._running)}")
        self.kill()

    def _signal(self, signum: int) -> list[int]:
        """Signal all brokers that run; their ranks."""
        for broker in self._running.values():
            os.kill(broker.pid, signum)
        return sorted(self._running)

    # Questions to rank 0

    def _socket(self) -> str:
        return f"{self._rundir}/local-0"

    def _ask_statedir(self) -> None:
        from pytest_flux.launcher.statedir import QUESTIONS

        self._query(QUESTIONS, self._take_statedir)

    def _ask_state(self, *, early: bool) -> None:
        from pytest_flux.launcher.query import STATE

        # At once: the more time passes, the less the answer tells of the state in which the signal came.
        self._query(STATE, partial(self._repeat, early), interval=0)

    def _query(
        self,
        requests: Requests,
        answered: Callable[[list[dict[str, Any]]], None],
        interval: float = _QUERY_INTERVAL,
    ) -> None:
        from pytest_flux.launcher.query import BrokerQuery

        query = BrokerQuery(self._reactor, self._socket(), requests, answered, interval=interval)
        self._queries.append(query)

    def _cancel_queries(self) -> None:
        for query in self._queries:
            query.cancel()
        self._queries.clear()

    def _take_statedir(self, payloads: list[dict[str, Any]]) -> None:
        self._statedir_unknown = False
        from pytest_flux.launcher.statedir import temporary_statedir

        statedir = temporary_statedir(payloads)
        if statedir is not None:
            self._found(statedir)
        self._stop_listening()


def _ranks(ranks: Iterable[int]) -> str:
    from pytest_flux.protocol.idset import encode_idset

    return encode_idset(ranks)

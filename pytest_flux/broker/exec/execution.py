"""One job under execution, as rank 0 sees it: its shells, its logs, and its result.

The life of a job has the states of ``State``. It starts shells on all ranks of R, and waits for them twice: a task
may begin only when all shells are ready, and what follows from the end of a task waits until all tasks have begun.
These barriers are counted apart from the state, because they go on while a job is being ended: a shell that was told
to run before an exception came says so afterwards, and ``shell.start`` belongs into the log all the same.

A job ends in one of three ways:

* All its shells exit: RUNNING -> OVER, or earlier if they could not start.
* A fatal exception comes, from a user or from the job manager: any state -> ENDING. If tasks may run, they are
  signalled until they end; before that, shells are just destroyed. Then all shells exit, and the job is OVER. If the
  leading shell exits before others, the event ``shell-exit`` is logged at once and lists them: -> DRAINING.
* A shell gives up. The first one that does decides the job's status. Its reason goes to the job manager as a request
  to raise an exception, so the job ends in the second way, or in the first if all shells were faster.

flux-core divides the same work between job-exec (rank 0) and the leading shell. Both sides' events are written here,
in the order in which flux-core writes them. What must stay true: ``complete`` and ``done`` are logged once, after
everything else, and only then are resources released; nothing that a shell reports after that has any effect.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.exec.ending import ExitPolicy, KillLadder, LimitWarning, kill_config
from pytest_flux.broker.exec.guest import Guest, Streams
from pytest_flux.broker.exec.link import Link
from pytest_flux.broker.exec.messages import (
    Command,
    Destroy,
    Die,
    ExceptionNote,
    Exchange,
    Exited,
    Finish,
    GaveUp,
    Kill,
    Log,
    OutputLines,
    PmiBarrier,
    Ready,
    Report,
    Run,
    Running,
    StdinData,
    TaskExit,
    TasksDone,
    Write,
)
from pytest_flux.broker.exec.options import WARNING, ShellFailure, failure_of, nested, shell_options
from pytest_flux.broker.exec.placement import Placement, place
from pytest_flux.broker.exec.shells import Shells, service_name
from pytest_flux.broker.exec.terminal import SESSION, terminal_options
from pytest_flux.broker.exec.work import Work
from pytest_flux.protocol.fluid import f58_for
from pytest_flux.protocol.idset import encode_idset
from pytest_flux.protocol.resource_set import ResourceSet
from pytest_flux.protocol.wait_status import exit_code, signal_text

if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.kvs import Kvs
    from pytest_flux.broker.router import Router
    from pytest_flux.reactor.reactor import Reactor


class State(Enum):
    """Where a job is in its life."""

    NEW = auto()
    """Nothing has been done."""
    RECORDING = auto()
    """The event ``start`` must be safe before a shell is started."""
    PREPARING = auto()
    """Shells do everything that can fail before a task begins."""
    LAUNCHING = auto()
    """Shells start their tasks."""
    RUNNING = auto()
    """All tasks have begun."""
    ENDING = auto()
    """A fatal exception was raised: the tasks are being killed."""
    DRAINING = auto()
    """The same, and the leading shell has exited before others."""
    OVER = auto()
    """Everything has ended."""


_AFTER = {
    State.NEW: {State.RECORDING, State.OVER},
    State.RECORDING: {State.PREPARING, State.ENDING, State.OVER},
    State.PREPARING: {State.LAUNCHING, State.ENDING, State.OVER},
    State.LAUNCHING: {State.RUNNING, State.ENDING, State.OVER},
    State.RUNNING: {State.ENDING, State.OVER},
    State.ENDING: {State.DRAINING, State.OVER},
    State.DRAINING: {State.OVER},
    State.OVER: set[State](),
}
"""The legal transitions."""

_DOOMED = (State.ENDING, State.DRAINING)


class Execution:
    """See the module. ProtocolError if R makes no sense."""

    def __init__(
        self,
        reactor: Reactor,
        router: Router,
        attributes: Attributes,
        config: Mapping[str, Any],
        kvs: Kvs,
        shells: Shells,
        work: Work,
        log: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._router = router
        self._debug = log
        self._attributes = attributes
        self._config = config
        self._work = work
        self.userid = work.userid
        self._options = shell_options(work.jobspec)
        self._resources = ResourceSet.decode(work.resources)
        self._state = State.NEW
        self._guest = Guest(kvs, reactor, work.job_id, work.userid)
        self._streams = Streams(self._guest, self._log)
        self._links = {
            rank: Link(router, shells, rank, work.job_id, self._report, self.lose) for rank in self._resources
        }
        self._leader = next(iter(self._resources))
        self._critical = set(self._links)
        self._not_ready = set(self._links)
        self._not_running = set(self._links)
        self._in_barrier: dict[int, dict[str, str]] = {}
        self._statuses: dict[int, int] = {}
        self._leader_done = False
        self._early_exit: TaskExit | None = None
        self._given_up: GaveUp | None = None
        self._failure: ShellFailure | None = None
        self._placement: Placement | None = None
        self._ladder = KillLadder(reactor, kill_config(config), self._kill, self._kill_shells, self._abandon)
        self._exit_policy: ExitPolicy | None = None
        self._warning: LimitWarning | None = None

    @property
    def is_settled(self) -> bool:
        """Whether its tasks run or have ended, so that nothing will happen by itself."""
        return self._state in (State.RUNNING, State.OVER)

    def _enter(self, state: State) -> None:
        if state not in _AFTER[self._state]:
            raise AssertionError(f"a job in {self._state.name} cannot enter {state.name}")
        self._state = state

    def _command(self, command: Command) -> None:
        for link in list(self._links.values()):
            link.command(command)

    # -- beginning

    def begin(self) -> None:
        """Start the shells."""
        self._guest.log("init")
        if nested(self._work.jobspec, "attributes", "system", "exec", "bulkexec", "mock_exception") == "init":
            self._fail_to_start("mock init exception generated")
            return
        self._guest.log("starting")
        self._enter(State.RECORDING)
        self._work.callbacks.started(self._start_shells)

    def _fail_to_start(self, note: str) -> None:
        """End before there is a shell (flux-core's job-exec/bulkexec.c, for tests)."""
        self._enter(State.OVER)
        self._work.callbacks.exception("exec", 0, note)
        self._guest.log("done")
        self._guest.end(self._work.release)

    def _start_shells(self) -> None:
        if self._state is State.OVER:
            return
        if self._state in _DOOMED:
            for rank in self._links.keys() - self._statuses.keys():
                self._shell_ended(rank, signal.SIGKILL)
            return
        self._enter(State.PREPARING)
        try:
            self._placement = place(self._work.jobspec, self._resources, self._options)
            self._streams.configure(self._options)
            self._exit_policy = ExitPolicy(self._reactor, self._options, self._doomed)
        except Exception as error:  # noqa: BLE001 - see failure_of
            # The shells find most failures themselves, and report them.
            self._failure = failure_of(error)
        ntasks = self._placement.ntasks if self._placement is not None else 0
        self._guest.begin("output", stdout=ntasks, stderr=ntasks)
        self._guest.begin("input", stdin=1)
        for rank, link in list(self._links.items()):
            if rank not in self._statuses:
                link.start(self._work, self._resources, self._placement)

    def _initialized(self) -> None:
        """All shells are ready."""
        service = service_name(self._work.userid, self._work.job_id)
        context: dict[str, object] = {"service": service, "leader-rank": self._leader, "size": len(self._links)}
        terminal = terminal_options(self._options)
        if terminal is not None and terminal.interactive:
            context["pty"] = SESSION
            if terminal.capture:
                context["capture"] = 1
        self._guest.log("shell.init", context)
        if self._state is State.PREPARING:
            self._enter(State.LAUNCHING)
        try:
            if self._failure is not None:
                raise self._failure
            self._warning = LimitWarning(self._reactor, self._options, self._log, self._kill)
            self._warning.arm(self._resources.expiration)
        except Exception as error:  # noqa: BLE001 - see failure_of
            failure = failure_of(error)
            self._links[self._leader].command(Die(failure.text, component=failure.component))
            return
        self._command(Run())

    def _all_running(self) -> None:
        """All tasks have begun."""
        assert self._placement is not None
        if self._state is State.LAUNCHING:
            self._enter(State.RUNNING)
        blocks = [list(block) for block in self._placement.taskmap.blocks]
        self._guest.log("shell.start", {"taskmap": {"version": 1, "map": blocks}})
        if self._early_exit is not None:
            early, self._early_exit = self._early_exit, None
            self._task_ended(early)

    # -- what shells report

    def _report(self, rank: int, report: Report) -> None:
        if isinstance(report, OutputLines):
            self._streams.put_out(*report)
        elif isinstance(report, Ready):
            self._not_ready.discard(rank)
            if not self._not_ready:
                self._initialized()
        elif isinstance(report, Running):
            self._not_running.discard(rank)
            if not self._not_running:
                self._all_running()
        elif isinstance(report, TaskExit):
            self._task_ended(report)
        elif isinstance(report, TasksDone):
            self._leader_done = True
            self._check_finish()
        elif isinstance(report, PmiBarrier):
            self._in_barrier[rank] = report.values
            self._check_barrier()
        elif isinstance(report, StdinData):
            self._pass_on(report)
        elif isinstance(report, ExceptionNote):
            self._raise(report.note)
        elif isinstance(report, GaveUp):
            if self._given_up is None:
                # What one shell finds, others find too. The first speaks for all.
                self._given_up = report
                self._raise(report.note, report.wait_status)
        elif isinstance(report, Exited):
            if os.WIFSIGNALED(report.status) and self._state not in _DOOMED:
                self._shell_killed(rank, report.status)
            self._shell_ended(rank, report.status)

    def _log(self, level: int, message: str, component: str) -> None:
        self._links[self._leader].command(Log(level, message, component))

    def _task_ended(self, ended: TaskExit) -> None:
        if self._not_running and self._state not in _DOOMED:
            # The barrier at the start comes first, although a task of another shell may be faster.
            self._early_exit = self._early_exit or ended
        elif self._exit_policy is not None and not self._exit_policy.has_begun and self._placement is not None:
            info = ended.info
            self._guest.log("shell.task-exit", info)
            shell = self._placement.taskmap.node_of(info["rank"])
            host = self._attributes.host_of(self._placement.ranks[shell])
            self._exit_policy.begin(self._program, "task", info["rank"], host, info["wait_status"])

    @property
    def _program(self) -> str:
        return str(self._work.jobspec["tasks"][0]["command"][0])

    def _doomed(self, note: str, code: int, status: int | None) -> None:
        self._links[self._leader].command(Die(note, code, "task-exit", status))

    def _check_barrier(self) -> None:
        if len(self._in_barrier) == len(self._links):
            values = {key: value for of_shell in self._in_barrier.values() for key, value in of_shell.items()}
            self._in_barrier.clear()
            self._command(Exchange(values))

    def _pass_on(self, data: StdinData) -> None:
        try:
            self._streams.take_input(*data)
        except ShellFailure as failure:
            self._links[self._leader].command(Die(failure.text, component=failure.component))
            return
        self._command(Write(data.io))

    # -- signals and exceptions

    def _kill(self, signum: int) -> None:
        self._command(Kill(signum))

    def _kill_shells(self, signum: int) -> None:
        # A shell passes on what does not kill it.
        self._command(Destroy() if signum == signal.SIGKILL else Kill(signum))

    def _abandon(self, limit: str) -> None:
        """End without the shells that survive everything, and let no other job run where they are."""
        job_id = f58_for(self._work.job_id, os.environ)
        self._debug(f"job {job_id} exceeded {limit}. Draining active ranks")
        reason = f"unkillable user processes for job {job_id}"
        drain = {"targets": encode_idset(self._active), "reason": reason, "mode": "update"}
        self._router.rpc("resource.drain", drain, lambda _: self._command(Destroy()))

    @property
    def _active(self) -> list[int]:
        """The ranks whose shells have not ended."""
        return [rank for rank in self._links if rank not in self._statuses]

    def stats(self) -> dict[str, object]:
        """What ``flux module stats job-exec`` shows of a job."""
        critical = [shell for shell, rank in enumerate(self._links) if rank in self._critical]
        return {
            "implementation": "bulkexec",
            "ns": f"job-{self._work.job_id}",
            "critical_ranks": encode_idset(critical),
            "multiuser": 0,
            "has_namespace": 1,
            "exception_in_progress": int(self._state in _DOOMED),
            "started": int(self._state not in (State.NEW, State.RECORDING)),
            "running": int(self._state is State.RUNNING),
            "finalizing": 0,
            "expiration": self._resources.expiration,
            "kill_timeout": self._ladder.timeout,
            "kill_count": self._ladder.count,
            "kill_shell_count": self._ladder.shell_count,
            "total_shells": len(self._links),
            "active_shells": len(self._active),
            "active_ranks": encode_idset(self._active),
        }

    def _raise(self, note: str, status: int | None = None) -> None:
        """Raise an exception that a shell reports in the way in which users raise theirs."""
        request: dict[str, Any] = {"id": self._work.job_id, "type": "exec", "severity": 0, "note": note}
        if status is not None:
            request["wait_status"] = status
        self._router.rpc("job-manager.raise", request, lambda _: None)

    def terminate(self, kind: str) -> None:
        """A fatal exception of that type has been posted."""
        if self._state is State.OVER:
            return
        if self._state not in _DOOMED:
            self._enter(State.ENDING)
        signum = signal.SIGALRM if kind == "timeout" else kill_config(self._config).term_signal
        if self._not_ready:
            # No task has begun, and no shell has set up yet how it handles signals.
            self._command(Destroy(int(signum)))
            return
        self._ladder.start(signum)

    def expiration(self, expiration: float) -> None:
        """The time limit has changed."""
        if self._warning is not None:
            self._warning.arm(expiration)

    # -- end

    def set_critical(self, shells: set[int]) -> None:
        """Let the job survive the loss of all shells but these."""
        self._critical = {rank for shell, rank in enumerate(self._links) if shell in shells}

    def lose(self, rank: int) -> None:
        """A broker that has a shell of this job has gone."""
        link = self._links.get(rank)
        if link is None or rank in self._statuses or self._state is State.OVER:
            return
        link.cut()
        shell, host = list(self._links).index(rank), self._attributes.host_of(rank)
        text = f"node failure on {host} (shell rank {shell})"
        if rank in self._critical:
            if rank != self._leader:
                self._log(WARNING, text, "exception")
            if self._state not in _DOOMED:
                self._enter(State.ENDING)
                self._work.callbacks.exception("exec", 0, f"node failure on {host} (rank {rank})")
        else:
            self._work.callbacks.exception("node-failure", 2, text)
            if self._exit_policy is not None:
                self._exit_policy.begin(self._program, "shell", shell, host, None)
        self._not_ready.discard(rank)
        self._not_running.discard(rank)
        self._shell_ended(rank, 0)

    def _shell_killed(self, rank: int, status: int) -> None:
        """The process of a shell was killed.

        That ends the job if others wait for the shell (flux-core's job-exec/bulkexec.c); later, they go on without it
        (shell/exception.c).
        """
        shell, host = list(self._links).index(rank), self._attributes.host_of(rank)
        if rank in self._not_ready:
            text = f"{host} (ranks {rank}) terminated before first barrier"
            self._work.callbacks.exception("exec", 0, text)
            return
        if rank == self._leader:
            return
        self._log(WARNING, f"shell rank {shell} (on {host}): {signal_text(os.WTERMSIG(status))}", "exception")
        if rank in self._not_running:
            self._not_running.discard(rank)
            if not self._not_running:
                self._all_running()
        if self._exit_policy is not None:
            self._exit_policy.begin(self._program, "shell", shell, host, None)

    def _check_finish(self) -> None:
        """Let the leading shell exit, if its tasks and all other shells have ended.

        Until then it is there to log messages, and to end the job if one of the others hangs.
        """
        if self._leader_done and self._links.keys() - self._statuses.keys() == {self._leader}:
            self._links[self._leader].command(Finish())

    def _shell_ended(self, rank: int, status: int) -> None:
        self._statuses[rank] = status
        self._check_finish()
        active = self._active
        if active and not (rank == self._leader and self._state is State.ENDING):
            return
        if self._leader in self._statuses and self._state not in (State.DRAINING, State.OVER):
            context: dict[str, object] = {"rank": self._leader, "wait_status": self._statuses[self._leader]}
            if active:
                context["active_ranks"] = encode_idset(active)
                self._enter(State.DRAINING)
            self._guest.log("shell-exit", context)
        if not active:
            self._complete()

    def _complete(self) -> None:
        if self._state is State.OVER:
            return
        is_doomed = self._state in _DOOMED
        self._enter(State.OVER)
        self._ladder.stop()
        if self._exit_policy is not None:
            self._exit_policy.stop()
        if self._warning is not None:
            self._warning.cancel()
        status = max(self._statuses.values())
        if is_doomed:
            # A shell may end a job by an exception although its tasks had no fault (exit-timeout).
            status = status or 1 << 8
            if self._given_up is not None and self._given_up.wait_status is not None:
                status = exit_code(self._given_up.wait_status) << 8
        self._guest.log("complete", {"status": status})
        self._work.callbacks.finished(status)
        self._guest.log("done")
        self._guest.end(self._work.release)

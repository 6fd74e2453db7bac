"""One job under execution, as rank 0 sees it: its shells, its logs, and what it comes to."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.exec import options
from pytest_flux.broker.exec.doom import Doom
from pytest_flux.broker.exec.failure import ShellFailure
from pytest_flux.broker.exec.guest import Guest
from pytest_flux.broker.exec.kill_ladder import KillLadder, kill_config
from pytest_flux.broker.exec.limit_warning import LimitWarning
from pytest_flux.broker.exec.link import Link
from pytest_flux.broker.exec.output import WARNING
from pytest_flux.broker.exec.placement import Placement, place
from pytest_flux.broker.exec.stdin import service_name
from pytest_flux.broker.exec.streams import TOO_MUCH_INPUT, Streams
from pytest_flux.broker.exec.task import exit_code
from pytest_flux.broker.exec.terminal import SESSION, terminal_options
from pytest_flux.broker.exec.work import Work
from pytest_flux.protocol.idset import encode_idset
from pytest_flux.protocol.resource_set import ResourceSet

if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.exec.shells import Shells
    from pytest_flux.broker.kvs import Kvs
    from pytest_flux.broker.router import Router
    from pytest_flux.reactor.reactor import Reactor


class Execution:
    """See the module. ProtocolError where R makes no sense."""

    def __init__(
        self,
        reactor: Reactor,
        router: Router,
        attributes: Attributes,
        config: dict[str, Any],
        kvs: Kvs,
        shells: Shells,
        work: Work,
    ) -> None:
        self._reactor = reactor
        self._router = router
        self._attributes = attributes
        self._config = config
        self._work = work
        self.job_id = work.job_id
        self.userid = work.userid
        self.jobspec = work.jobspec
        self._set = ResourceSet.decode(work.resources)
        self._guest = Guest(kvs, reactor, work.job_id, work.userid)
        self._links = {rank: Link(router, shells, rank, work.job_id, self._report, self.lose) for rank in self._set}
        self._leader = next(iter(self._set))
        self._critical = set(self._links)
        self._statuses: dict[int, int] = {}
        self._waiting: dict[str, set[int]] = {"ready": set(self._links), "running": set(self._links)}
        self._exchange: dict[int, dict[str, str]] = {}
        self._streams = Streams(self._guest, self._log)
        self._held_exit: dict[str, Any] | None = None
        self._ladder = KillLadder(self._reactor, kill_config(self._config), self._kill, self._destroy)
        self._doom: Doom | None = None
        self._warning: LimitWarning | None = None
        self._in_exception = False
        self._exception_status: int | None = None
        self._is_over = False
        self._told_exit = self._is_given_up = False
        self._failure: ShellFailure | None = None
        self._placement: Placement | None = None
        self._shell_options = options.shell_options(work.jobspec)

    # -- beginning

    def begin(self) -> None:
        """Start the shells."""
        self._guest.log("init")
        self._guest.log("starting")
        self._work.callbacks.started(self._start_shells)

    def _start_shells(self) -> None:
        if self._is_over:
            return
        if self._in_exception:
            for rank in self._links.keys() - self._statuses.keys():
                self._shell_ended(rank, signal.SIGKILL)
            return
        try:
            self._placement = place(self.jobspec, self._set, self._shell_options)
            self._streams.configure(self._shell_options)
            self._doom = Doom(self._reactor, self._shell_options, self._doomed)
        except ShellFailure as failure:
            # Of most, the shells come to the same conclusion, and say so.
            self._failure = failure
        ntasks = self._placement.ntasks if self._placement is not None else 0
        self._guest.begin("output", stdout=ntasks, stderr=ntasks)
        self._guest.begin("input", stdin=1)
        for rank, link in list(self._links.items()):
            if rank not in self._statuses:
                link.start(self._work, self._set, self._placement)

    def _initialized(self) -> None:
        service = service_name(self.userid, self.job_id)
        context: dict[str, object] = {"service": service, "leader-rank": self._leader, "size": len(self._links)}
        terminal = terminal_options(self._shell_options)
        if terminal is not None and terminal.interactive:
            context["pty"] = SESSION
            if terminal.capture:
                context["capture"] = 1
        self._guest.log("shell.init", context)
        try:
            if self._failure is not None:
                raise self._failure
            self._warning = LimitWarning(self._reactor, self._shell_options, self._log, self._kill)
            self._warning.arm(self._set.expiration)
        except ShellFailure as failure:
            self._links[self._leader].command("die", text=failure.text, component=failure.component)
            return
        for link in list(self._links.values()):
            link.command("run")

    def _running(self) -> None:
        assert self._placement is not None
        blocks = [list(block) for block in self._placement.taskmap.blocks]
        self._guest.log("shell.start", {"taskmap": {"version": 1, "map": blocks}})
        if self._held_exit is not None:
            held, self._held_exit = self._held_exit, None
            self._task_ended(held)

    # -- what shells report

    def _report(self, rank: int, name: str, particulars: dict[str, Any]) -> None:
        if name == "output":
            self._streams.put_out(**particulars)
        elif name in self._waiting:
            self._waiting[name].discard(rank)
            if not self._waiting[name]:
                (self._initialized if name == "ready" else self._running)()
        elif name == "task-exit":
            self._task_ended(particulars)
        elif name == "pmi":
            self._exchange[rank] = particulars["values"]
            self._check_exchange()
        elif name == "stdin":
            self._pass_on(particulars["io"], particulars["size"])
        elif name == "raise":
            self._raise(particulars["note"])
        elif name == "die" and not self._is_given_up:
            # What one shell finds, others find too. The first says it for them all.
            self._is_given_up = True
            status = particulars["wait_status"]
            if status is not None:
                self._exception_status = exit_code(status) << 8
            self._raise(particulars["note"], status)
        elif name == "exit":
            self._shell_ended(rank, particulars["status"])

    def _log(self, level: int, message: str, component: str) -> None:
        self._links[self._leader].command("log", level=level, message=message, component=component)

    def _task_ended(self, info: dict[str, Any]) -> None:
        if self._waiting["running"] and not self._in_exception:
            # The barrier at the start comes first, although a task of another shell may be faster.
            self._held_exit = self._held_exit or info
        elif self._doom is not None and not self._doom.has_begun and self._placement is not None:
            self._guest.log("shell.task-exit", info)
            shell = self._placement.taskmap.node_of(info["rank"])
            host = self._attributes.host_of(self._placement.ranks[shell])
            self._doom.begin(self.jobspec["tasks"][0]["command"][0], "task", info["rank"], host, info["wait_status"])

    def _doomed(self, note: str, code: int, status: int | None) -> None:
        self._links[self._leader].command("die", text=note, code=code, component="task-exit", wait_status=status)

    def _check_exchange(self) -> None:
        if len(self._exchange) == len(self._links):
            values = {key: value for of_shell in self._exchange.values() for key, value in of_shell.items()}
            self._exchange.clear()
            for link in list(self._links.values()):
                link.command("exchange", values=values)

    def _pass_on(self, io: dict[str, Any], size: int) -> None:
        if not self._streams.take_input(io, size):
            self._links[self._leader].command("die", text=TOO_MUCH_INPUT)
            return
        for link in list(self._links.values()):
            link.command("write", io=io)

    # -- signals and exceptions

    def _kill(self, signum: int) -> None:
        for link in list(self._links.values()):
            link.command("kill", signum=signum)

    def _destroy(self) -> None:
        for link in list(self._links.values()):
            link.command("destroy")

    def _raise(self, note: str, status: int | None = None) -> None:
        """An exception that a shell reports goes the way of those that users raise."""
        request: dict[str, Any] = {"id": self.job_id, "type": "exec", "severity": 0, "note": note}
        if status is not None:
            request["wait_status"] = status
        self._router.rpc("job-manager.raise", request, lambda _: None)

    def terminate(self, kind: str) -> None:
        """A fatal exception of that type has been posted."""
        if self._is_over:
            return
        self._in_exception = True
        if self._waiting["ready"]:
            # No task has begun: there is nothing that a signal could reach.
            self._destroy()
            return
        self._ladder.start(signal.SIGALRM if kind == "timeout" else kill_config(self._config).term_signal)

    def expiration(self, expiration: float) -> None:
        """The time limit has changed."""
        if self._warning is not None:
            self._warning.arm(expiration)

    # -- end

    def set_critical(self, shells: set[int]) -> None:
        """Only these shells' loss is the job's end."""
        self._critical = {rank for shell, rank in enumerate(self._links) if shell in shells}

    def lose(self, rank: int) -> None:
        """A broker with a shell of this job is gone."""
        link = self._links.get(rank)
        if link is None or rank in self._statuses or self._is_over:
            return
        link.cut()
        shell, host = list(self._links).index(rank), self._attributes.host_of(rank)
        text = f"node failure on {host} (shell rank {shell})"
        if rank in self._critical:
            if rank != self._leader:
                self._log(WARNING, text, "exception")
            if not self._in_exception:
                self._in_exception = True
                self._work.callbacks.exception("exec", 0, f"node failure on {host} (rank {rank})")
        else:
            self._work.callbacks.exception("node-failure", 2, text)
            if self._doom is not None:
                self._doom.begin(self.jobspec["tasks"][0]["command"][0], "shell", shell, host, None)
        for waiting in self._waiting.values():
            waiting.discard(rank)
        self._shell_ended(rank, 0)

    def _shell_ended(self, rank: int, status: int) -> None:
        self._statuses[rank] = status
        active = [other for other in self._links if other not in self._statuses]
        leader_failed = rank == self._leader and self._in_exception
        if active and not leader_failed:
            return
        if self._leader in self._statuses and not self._is_over and not self._told_exit:
            context: dict[str, object] = {"rank": self._leader, "wait_status": self._statuses[self._leader]}
            if active:
                context["active_ranks"] = encode_idset(active)
            self._told_exit = True
            self._guest.log("shell-exit", context)
        if not active:
            self._complete()

    def _complete(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._ladder.stop()
        if self._doom is not None:
            self._doom.stop()
        if self._warning is not None:
            self._warning.cancel()
        status = max(self._statuses.values())
        if self._in_exception:
            # A job may be ended by an exception of a shell whose tasks had no fault (exit-timeout).
            status = (status or 1 << 8) if self._exception_status is None else self._exception_status
        self._guest.log("complete", {"status": status})
        self._work.callbacks.finished(status)
        self._guest.log("done")
        self._guest.end(self._work.release)

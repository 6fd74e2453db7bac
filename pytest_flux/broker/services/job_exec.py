"""`job-shell`, at every broker, for its job shells; `job-exec`, on rank 0, for clients."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.exec.ending import kill_config
from pytest_flux.broker.exec.messages import Exited, OutputLines, Report, decode_command, encode_report
from pytest_flux.broker.service import ALL, Answer, Request, Service, _Later, method
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.idset import decode_idset
from pytest_flux.protocol.resource_set import ResourceSet

if TYPE_CHECKING:
    from pytest_flux.broker.exec.job_exec import JobExec
    from pytest_flux.broker.exec.shells import Shells
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router


class JobShellService(Service):
    """The way from jobs, on rank 0, to their shells here (see exec/messages.py)."""

    name = "job-shell"

    def __init__(self, router: Router, log: BrokerLog, shells: Shells) -> None:
        super().__init__(router, log)
        self._shells = shells

    @method("start")
    def start(self, request: Request) -> _Later:
        """``{id, userid, jobspec, R}`` → ``{report, particulars}`` until the shell has ended."""
        if not request.message.is_streaming:
            raise FluxError(errno.EPROTO)
        later = self.hold(request)
        job_id = request.field("id", int)

        def report(told: Report) -> None:
            if isinstance(told, OutputLines):
                self._shells.count(job_id, len(told.text))
            request.respond(encode_report(told))
            if isinstance(told, Exited):
                self.release(request)
                request.finish()

        self._shells.start(
            job_id,
            request.field("userid", int),
            request.field("jobspec", dict),
            ResourceSet.decode(request.field("R", dict)),
            report,
        )
        return later

    @method("command")
    def command(self, request: Request) -> Answer:
        """``{id, command, particulars}``, without answer."""
        self._shells.command(request.field("id", int), decode_command(request.json()))
        return None


class JobExecService(Service):
    """What clients ask of job execution (flux-core's job-exec)."""

    name = "job-exec"

    def __init__(self, router: Router, log: BrokerLog, executor: JobExec, config: dict[str, Any]) -> None:
        super().__init__(router, log)
        self._exec = executor
        self._config = config

    @method("critical-ranks", roles=ALL)
    def critical_ranks(self, request: Request) -> Answer:
        """``{id, ranks}``: a job survives the loss of all shells but these."""
        shells = set(decode_idset(request.field("ranks", str)))
        userid = None if request.is_owner else request.message.userid
        self._exec.set_critical(request.field("id", int), shells, userid)
        return None

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """→ how jobs are killed."""
        config = kill_config(self._config)
        return {
            "kill-timeout": config.timeout,
            "term-signal": int(config.term_signal),
            "kill-signal": int(config.kill_signal),
        }

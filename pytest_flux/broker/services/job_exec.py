"""`job-shell`, at every broker, for its job shells; `job-exec`, on rank 0, for clients."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.exec.ending import find_signal, kill_config
from pytest_flux.broker.exec.messages import Exited, OutputLines, Report, decode_command, encode_report
from pytest_flux.broker.service import ALL, Answer, Request, Service, _Later, method
from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.idset import decode_idset
from pytest_flux.protocol.resource_set import ResourceSet

if TYPE_CHECKING:
    from pytest_flux.broker.exec.job_exec import JobExec
    from pytest_flux.broker.exec.shells import Shells
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.modules import Arguments
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

    def __init__(self, router: Router, log: BrokerLog, executor: JobExec, config: Mapping[str, Any]) -> None:
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

    @method("override", roles=ALL)
    def override(self, request: Request) -> Answer:
        """``{jobid, event, status?}``: start or finish a test job that has ``exec.test.override`` set."""
        event, job_id = request.field("event", str), request.field("jobid", int)
        self._exec.override(job_id, event, request.field("status", int, 0), request.message.userid)
        return None

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """→ how jobs are run and killed, and what is configured about that."""
        config = kill_config(self._config)
        table = self._config.get("exec")
        told = table if isinstance(table, dict) else {}
        return {
            "method": told.get("method", _METHOD),
            "kill-timeout": config.timeout,
            "term-signal": signal.Signals(config.term_signal).name,
            "kill-signal": signal.Signals(config.kill_signal).name,
            "max-kill-count": config.max_count,
            "max-kill-timeout": config.max_timeout,
            "effective-max-kill-timeout": config.effective_max_timeout,
            "jobs": self._exec.stats(),
            "config": {
                "default_cwd": os.getcwd(),
                "default_job_shell": told.get("job-shell", "flux-shell"),
                "exec_service": told.get("service", "rexec"),
                "sdexec_stop_timer_sec": told.get("sdexec-stop-timer-sec", ceil(config.effective_max_timeout)),
                **{name: told[key] for name, key in _OPTIONAL if key in told},
            },
        }


_METHOD = "bulk-exec"
_OPTIONAL = (("flux_imp_path", "imp"), ("sdexec_properties", "sdexec-properties"))


def check_arguments(arguments: Arguments) -> None:
    """Check the values of the module's arguments. FluxError EINVAL, in flux-core's words."""
    for name in ("kill-timeout", "max-kill-timeout"):
        if name in arguments:
            try:
                seconds = parse_duration(arguments[name])
            except ProtocolError:
                seconds = 0.0
            if not seconds:
                raise FluxError(errno.EINVAL, f"invalid {name}: {arguments[name]}")
    for name in ("kill-signal", "term-signal"):
        if name in arguments and find_signal(arguments[name]) is None:
            raise FluxError(errno.EINVAL, f"invalid {name}: {arguments[name]}")
    if arguments.get("method", _METHOD) != _METHOD:
        raise FluxError(errno.EINVAL, f"unknown exec.method '{arguments['method']}'")

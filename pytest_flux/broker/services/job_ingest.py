"""`job-ingest`: takes jobs in. It unwraps J, checks and completes the jobspec, and gives the job an id (RFC 16)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.jobs.job import Job
from pytest_flux.broker.jobs.pipeline import Pipeline
from pytest_flux.broker.jobs.store import encode_value
from pytest_flux.broker.service import ALL, LATER, Answer, Request, Service, _Later, method
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.fluid import FluidGenerator, fluid_timestamp, kvs_key
from pytest_flux.protocol.hostlist import decode_hostlist
from pytest_flux.protocol.job_state import (
    FLAG_DEBUG,
    FLAG_NOVALIDATE,
    FLAG_WAITABLE,
    URGENCY_DEFAULT,
    URGENCY_MAX,
    URGENCY_MIN,
)
from pytest_flux.protocol.jobspec import decode_jobspec, system_attributes
from pytest_flux.protocol.signed_jobspec import unwrap_none

if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.jobs.manager import JobManager
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.modules import Arguments
    from pytest_flux.broker.router import Router

_FLAGS = FLAG_DEBUG | FLAG_WAITABLE | FLAG_NOVALIDATE


class JobIngestService(Service):
    """Validates at once and in this process; flux-core starts Python workers for that."""

    name = "job-ingest"

    def __init__(
        self,
        router: Router,
        log: BrokerLog,
        manager: JobManager,
        attributes: Attributes,
        arguments: Arguments,
    ) -> None:
        super().__init__(router, log)
        self._manager = manager
        self._batch = manager.batch
        self._attributes = attributes
        self._generator: FluidGenerator | None = None
        self._hosts: frozenset[str] | None = None
        self._pipeline = Pipeline(manager.config, arguments, manager.scheduler, self._known_hosts)
        self._is_shut_down = False
        self._counts = {"requests": 0, "errors": 0}

    def _now(self) -> int:
        return int(self._manager.clock.monotonic() * 1000)

    @property
    def _fluids(self) -> FluidGenerator:
        if self._generator is None:
            begin = fluid_timestamp(self._manager.table.max_jobid) + 1
            self._generator = FluidGenerator(self.router.rank, begin, self._now())
        return self._generator

    @method("submit", roles=ALL)
    def submit(self, request: Request) -> _Later:
        """``{J, urgency, flags}`` → ``{id}`` when the job is in the KVS."""
        if self._is_shut_down:
            raise FluxError(errno.ENOSYS)
        self._counts["requests"] += 1
        try:
            self._submit(request)
        except (FluxError, ProtocolError):
            self._counts["errors"] += 1
            raise
        return LATER

    def _submit(self, request: Request) -> None:
        try:
            signed, urgency, flags = (
                request.field("J", str),
                request.field("urgency", int),
                request.field("flags", int),
            )
        except ProtocolError as error:
            raise FluxError(errno.EPROTO, f"error decoding job request: {error}") from None
        _check_credentials(request, urgency, flags)
        jobspec = self._unwrap(request, signed)
        try:
            self._pipeline.process(jobspec, flags)
        except ProtocolError as error:
            # flux-core's validator answers 1 (EPERM) for every refusal.
            raise FluxError(errno.EPERM, str(error)) from None
        self._admit(request, signed, jobspec, urgency, flags)

    @staticmethod
    def _unwrap(request: Request, signed: str) -> dict[str, Any]:
        try:
            data, signer = unwrap_none(signed)
        except ProtocolError as error:
            raise FluxError(errno.EINVAL, f"could not unwrap jobspec: {error}") from None
        if signer != request.message.userid:
            raise FluxError(errno.EPERM, f"signer={signer} != requestor={request.message.userid}")
        if not request.is_owner:
            raise FluxError(errno.EPERM, "only instance owner can use sign-type=none")
        try:
            return decode_jobspec(data)
        except ProtocolError as error:
            raise FluxError(errno.EINVAL, str(error)) from None

    def _known_hosts(self) -> frozenset[str]:
        if self._hosts is None:
            hostlist = self._attributes.get("hostlist") or ""
            self._hosts = frozenset(decode_hostlist(hostlist))
        return self._hosts

    def _admit(self, request: Request, signed: str, jobspec: dict[str, Any], urgency: int, flags: int) -> None:
        environment = system_attributes(jobspec).pop("environment", None)
        # The order of members is kept, as in flux-core.
        encoded = encode_value(jobspec)
        job = Job(self._fluids.generate(self._now()), jobspec, encoded)
        job.environment = environment if isinstance(environment, dict) else None
        self._manager.submit(job, request.message.userid, urgency, flags)
        self._batch.put(kvs_key(job.id, "J"), signed.encode())
        self._batch.put(kvs_key(job.id, "jobspec"), encoded)

        def committed(errnum: int) -> None:
            if errnum:
                request.error(errnum, "KVS commit failed")
            else:
                request.respond({"id": job.id})

        self._batch.afterwards(committed, preserve=True)

    @method("getinfo")
    def getinfo(self, request: Request) -> Answer:
        """→ ``{timestamp}``: the clock of job ids."""
        return {"timestamp": self._fluids.timestamp(self._now())}

    @method("shutdown")
    def shutdown(self, request: Request) -> Answer:
        """→ empty: refuse jobs from now on."""
        self._is_shut_down = True
        return None

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """→ ``{pipeline: {frobnicator, validator}}``, in the shape of flux-core's crews."""
        idle = {"running": 0, "requests": 0, "errors": 0, "trash": 0, "backlog": 0, "pids": []}
        return {"pipeline": {"frobnicator": idle, "validator": {**idle, **self._counts}}}


def _check_credentials(request: Request, urgency: int, flags: int) -> None:
    if flags & ~_FLAGS:
        raise FluxError(errno.EPROTO, "invalid job flags")
    if not request.is_owner and flags & FLAG_NOVALIDATE:
        raise FluxError(errno.EPERM, "only the instance owner can submit with FLUX_JOB_NOVALIDATE")
    if not URGENCY_MIN <= urgency <= URGENCY_MAX:
        raise FluxError(errno.EINVAL, f"urgency range is [{URGENCY_MIN}:{URGENCY_MAX}]")
    if not request.is_owner and urgency > URGENCY_DEFAULT:
        text = f"only the instance owner can submit with urgency >{URGENCY_DEFAULT}"
        raise FluxError(errno.EINVAL, text)
    if not request.is_owner and flags & FLAG_WAITABLE:
        raise FluxError(errno.EINVAL, "only the instance owner can submit with FLUX_JOB_WAITABLE")

"""Jobs that only take time: ``attributes.system.exec.test`` of a jobspec (flux-core's job-exec/testexec.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.exec.guest import Guest
from pytest_flux.broker.exec.options import nested
from pytest_flux.broker.exec.work import Work
from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.reactor.timers import Timer

if TYPE_CHECKING:
    from pytest_flux.broker.kvs import Kvs
    from pytest_flux.reactor.reactor import Reactor


def is_mock(jobspec: dict[str, Any]) -> bool:
    """Whether a jobspec asks for such a job."""
    return isinstance(nested(jobspec, "attributes", "system", "exec", "test"), dict)


class MockExecution:
    """One such job. The methods are those of Execution."""

    def __init__(self, reactor: Reactor, kvs: Kvs, work: Work) -> None:
        self._work = work
        self.userid = work.userid
        self._reactor = reactor
        self._guest = Guest(kvs, reactor, work.job_id, work.userid, quiet=True)
        system = work.jobspec["attributes"]["system"]
        self._test: dict[str, Any] = system["exec"]["test"]
        self._duration = float(system.get("duration") or 0.0)
        self._timer: Timer | None = None
        self._is_over = self._is_running = False
        self._in_exception = False

    @property
    def is_settled(self) -> bool:
        """See Execution."""
        return True

    def begin(self) -> None:
        """Start the timer."""
        self._guest.log("init")
        if self._test.get("mock_exception") == "init":
            self._work.callbacks.exception("exec", 0, "mock initialization exception generated")
            self._finalize()
            return
        self._guest.log("starting")
        try:
            self._duration = parse_duration(str(self._test["run_duration"]))
        except (KeyError, ProtocolError):
            pass
        if not self._test.get("override"):
            self._run()
        if self._test.get("mock_exception") == "run":
            self._work.callbacks.exception("exec", 0, "mock run exception generated")

    def override(self, event: str, status: int) -> None:
        """Start or finish the job, if it waits for that. FluxError EINVAL otherwise (flux-core's testexec.c)."""
        if not self._test.get("override"):
            raise FluxError(errno.EINVAL, "Job not in exec override mode")
        if event == "start":
            if self._is_running:
                raise FluxError(errno.EINVAL, "Job already running")
            self._run()
        elif event == "finish":
            if not self._is_running:
                raise FluxError(errno.EINVAL, "Job not running")
            self._complete(status)
        else:
            raise FluxError(errno.EINVAL, "Invalid event")

    def _run(self) -> None:
        self._is_running = True
        if self._duration > 0:
            self._timer = self._reactor.clock.call_later(
                self._duration, lambda: self._complete(int(self._test.get("wait_status", 0)))
            )
        self._work.callbacks.started(lambda: None)
        self._guest.log("recoverable")

    def terminate(self, kind: str) -> None:
        """See Execution."""
        self._in_exception = True
        self._complete(14 if kind == "timeout" else 15)

    def stats(self) -> dict[str, object]:
        """See Execution."""
        return {"implementation": "testexec", "running": int(self._is_running)}

    def expiration(self, expiration: float) -> None:
        """See Execution."""

    def set_critical(self, shells: set[int]) -> None:
        """See Execution."""

    def lose(self, rank: int) -> None:
        """See Execution."""

    def _complete(self, status: int) -> None:
        if self._is_over:
            return
        if self._in_exception:
            status = status or 1 << 8
        self._guest.log("complete", {"status": status})
        self._work.callbacks.finished(status)
        self._finalize()

    def _finalize(self) -> None:
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._guest.log("done")
        self._guest.end(self._work.release)

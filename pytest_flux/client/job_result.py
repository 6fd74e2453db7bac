"""The result of a job, from its event log (RFC 21, "Event Descriptions"), as `flux job status` reports it."""

from __future__ import annotations

from pytest_flux.protocol.job_state import RESULTS, job_result
from pytest_flux.protocol.wait_status import describe_failure, exit_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.protocol.eventlog import Event


class JobResult:
    """Filled by :meth:`add`, event by event; complete once the job is inactive.

    ``values`` has the members of flux-core's result object: ``id``, ``t_submit``, ``t_run``, ``t_cleanup``,
    ``waitstatus``, ``exception_occurred`` and, if so, ``exception_type``, ``exception_note`` and
    ``exception_severity``; unknown ones are absent.
    """

    __slots__ = ("values",)

    def __init__(self, jobid: int) -> None:
        self.values: dict[str, Any] = {"id": jobid, "exception_occurred": False}

    def __repr__(self) -> str:
        from pytest_flux.protocol.fluid import f58

        return f"<JobResult {f58(self.id)}: {self.name.lower()}, exit code {self.exit_code}>"

    def add(self, event: Event) -> None:
        """Take one event of the job's main log."""
        name, context = event["name"], event.get("context", {})
        if name == "submit":
            self.values["t_submit"] = event["timestamp"]
        elif name == "alloc":
            self.values["t_run"] = event["timestamp"]
        elif name == "finish":
            self.values["t_cleanup"] = event["timestamp"]
            self.values["waitstatus"] = context["status"]
        elif name == "exception":
            self._add_exception(context)

    def _add_exception(self, context: dict[str, Any]) -> None:
        # flux-core: a less severe one does not replace a more severe one, except that severity 0 is always replaced.
        before = self.values.get("exception_severity", -1)
        if self.values["exception_occurred"] and 0 < before < context["severity"]:
            return
        self.values["exception_occurred"] = True
        for key in ("type", "note", "severity"):
            self.values[f"exception_{key}"] = context[key]

    @property
    def id(self) -> int:
        """The job."""
        return int(self.values["id"])

    @property
    def waitstatus(self) -> int | None:
        """The highest wait status of its shells, as of waitpid(); None if it never ran."""
        return self.values.get("waitstatus")

    @property
    def result(self) -> int:
        """One of ``protocol.job_state.RESULTS``."""
        succeeded = "t_run" in self.values and self.waitstatus == 0
        return job_result(succeeded, self.values.get("exception_type"))

    @property
    def name(self) -> str:
        """The result in words: COMPLETED, FAILED, CANCELED, TIMEOUT."""
        return next(name for name, value in RESULTS.items() if value == self.result)

    @property
    def succeeded(self) -> bool:
        """Whether every task exited with 0."""
        return self.name == "COMPLETED"

    @property
    def exit_code(self) -> int:
        """The exit code that a shell reports: 128 plus the number of a signal; 1 for a job that never ran."""
        if self.waitstatus is None:
            return 0 if self.succeeded else 1
        return exit_code(self.waitstatus)

    @property
    def return_code(self) -> int:
        """The return code as in Python: a signal is negative. 1 for a job that only an exception ended."""
        if self.waitstatus is None:
            return 1
        import os

        return os.waitstatus_to_exitcode(self.waitstatus)

    def json(self) -> dict[str, Any]:
        """The result object of flux-core's ``flux_job_result()``."""
        return {**self.values, "result": self.result}

    def check(self) -> None:
        """Raise JobFailed unless the job succeeded."""
        if not self.succeeded:
            raise JobFailed(self)


class JobFailed(RuntimeError):
    """A job did not succeed. ``result`` has the details."""

    def __init__(self, result: JobResult) -> None:
        from pytest_flux.protocol.fluid import f58

        how = describe_failure(result.waitstatus) if result.waitstatus else ""
        if result.values["exception_occurred"]:
            how = f"{result.values['exception_type']}: {result.values['exception_note']}"
        super().__init__(f"job {f58(result.id)} {result.name.lower()}" + (f" ({how})" if how else ""))
        self.result = result


class JobOutput:
    """The output of a job, by stream. ``redirects`` are files that streams went to instead, ``log`` has messages."""

    __slots__ = ("log", "redirects", "stderr", "stdout")

    def __init__(self) -> None:
        self.stdout = b""
        self.stderr = b""
        self.redirects: list[dict[str, Any]] = []
        self.log: list[dict[str, Any]] = []

    def __repr__(self) -> str:
        return f"<JobOutput stdout={self.stdout!r}, stderr={self.stderr!r}>"

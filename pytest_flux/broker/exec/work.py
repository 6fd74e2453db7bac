"""One job to be executed, as the job manager hands it over."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_flux.protocol.signed_jobspec import unwrap_none

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.start import Callbacks


class Work(NamedTuple):
    """A job to be executed.

    ``jobspec`` has its environment. ``callbacks`` get the job's progress; ``done`` is called when nothing is left to
    do.
    """

    job_id: int
    userid: int
    jobspec: dict[str, Any]
    resources: dict[str, Any]
    callbacks: Callbacks
    done: Callable[[], None]

    def release(self) -> None:
        """Give the job's resources back: everything is over."""
        self.done()
        self.callbacks.released("all", final=True)


def full_jobspec(jobspec: dict[str, Any], environment: dict[str, Any] | None) -> dict[str, Any]:
    """A jobspec with the environment that its copy in the KVS lacks (RFC 16, "Job data")."""
    if environment is None:
        return jobspec
    attributes = jobspec["attributes"]
    system = {**attributes.get("system", {}), "environment": environment}
    return {**jobspec, "attributes": {**attributes, "system": system}}


def signed_environment(signed: bytes) -> dict[str, Any]:
    """The environment in a signed jobspec, J (RFC 15)."""
    jobspec = json.loads(unwrap_none(signed.decode())[0])
    found = jobspec["attributes"]["system"].get("environment")
    return found if isinstance(found, dict) else {}

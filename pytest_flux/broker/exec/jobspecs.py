"""Jobspecs with their environment, which the copy in the KVS lacks."""

from __future__ import annotations

import json
from typing import Any

from pytest_flux.protocol.signed_jobspec import unwrap_none


def full_jobspec(jobspec: dict[str, Any], environment: dict[str, Any] | None) -> dict[str, Any]:
    """A jobspec with the environment that its copy in the KVS lacks (RFC 12)."""
    if environment is None:
        return jobspec
    attributes = jobspec["attributes"]
    system = {**attributes.get("system", {}), "environment": environment}
    return {**jobspec, "attributes": {**attributes, "system": system}}


def signed_environment(signed: bytes) -> dict[str, Any]:
    """The environment in a signed jobspec, J."""
    jobspec = json.loads(unwrap_none(signed.decode())[0])
    found = jobspec["attributes"]["system"].get("environment")
    return found if isinstance(found, dict) else {}

"""What a job's tasks find in the PMI key-value space from the start (flux-core's shell/pmi/pmi.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_flux.broker.exec.options import nested
from pytest_flux.protocol import pmi
from pytest_flux.protocol.fluid import f58

if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.protocol.taskmap import Taskmap


def pmi_name(job_id: int, starttime: float, program: str) -> str:
    """The name of a job's key-value space: for ``flux``, whose brokers take it for that, the job id.

    MPICH names its shared memory on the host after it. First jobs have the same id in all our instances, and must not
    find what another, killed maybe, has there.
    """
    name = f58(job_id)
    return name if program.rpartition("/")[2].startswith("flux") else f"{name}.{starttime:.6f}"


def pmi_values(attributes: Attributes, taskmap: Taskmap, options: dict[str, Any]) -> dict[str, str]:
    """Where tasks run, and what an instance needs to know that is a job of this one. What is too long is left out."""
    level = attributes.get("instance-level") or "0"
    values = {"flux.instance-level": str(int(level) + 1) if level.isdigit() else "1"}
    hint = attributes.get("tbon.interface-hint")
    if hint is not None:
        values["flux.tbon-interface-hint"] = hint
    if not nested(options, "pmi-simple", "nomap"):
        values["PMI_process_mapping"] = taskmap.encode_pmi()
        values["flux.taskmap"] = taskmap.encode_wrapped()
    return {key: value for key, value in values.items() if len(value) < pmi.VALLEN_MAX}

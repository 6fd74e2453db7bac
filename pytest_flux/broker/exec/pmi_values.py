"""What a job's tasks find in the PMI key-value space from the start (flux-core's shell/pmi/pmi.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_flux.broker.exec.options import nested
from pytest_flux.protocol import pmi

if TYPE_CHECKING:
    from pytest_flux.broker.broker import Broker
    from pytest_flux.protocol.taskmap import Taskmap


def pmi_values(broker: Broker, taskmap: Taskmap, options: dict[str, Any]) -> dict[str, str]:
    """Where tasks run, and what an instance needs to know that is a job of this one. What is too long is left out."""
    level = broker.attributes.get("instance-level") or "0"
    values = {"flux.instance-level": str(int(level) + 1) if level.isdigit() else "1"}
    hint = broker.attributes.get("tbon.interface-hint")
    if hint is not None:
        values["flux.tbon-interface-hint"] = hint
    if not nested(options, "pmi-simple", "nomap"):
        values["PMI_process_mapping"] = taskmap.encode_pmi()
        values["flux.taskmap"] = taskmap.encode_wrapped()
    return {key: value for key, value in values.items() if len(value) < pmi.VALLEN_MAX}

"""Where we differ from the recordings, case by case, each with its reason and with what we do instead."""

from __future__ import annotations

from typing import Any, NamedTuple


class Difference(NamedTuple):
    """Why a case differs, and the outcome that takes the recorded one's place."""

    reason: str
    instead: dict[str, Any]


DIFFERENCES = {
    "bad-broker": Difference(
        "Flux says only `flux_exec: No such file or directory`; we name the path and what is missing.",
        {
            "stderr": "flux-start: ./flux-broker: cannot execute its interpreter /badinterp: "
            "No such file or directory\n"
        },
    ),
}

"""Whether a node has what is said of it (flux-core's rlist_verify): its name, and at least those cores."""

from __future__ import annotations

from pytest_flux.protocol.resource_set import Node, ids_of, text_of


def verify(rank: int, expected: Node, actual: Node | None) -> str:
    """What is wrong, in flux-core's words; nothing if all is there, or the broker is not."""
    if actual is None:
        return ""
    complaints = []
    if expected.hostname != actual.hostname:
        complaints.append(f"rank {rank} got hostname '{actual.hostname}', expected '{expected.hostname}'")
    missing = expected.cores & ~actual.cores
    if missing:
        ids = text_of(missing)
        shown = f"[{ids}]" if len(ids_of(missing)) > 1 else ids
        complaints.append(f"rank {rank} ({actual.hostname}) missing resources: core{shown}")
    return "\n".join(complaints)

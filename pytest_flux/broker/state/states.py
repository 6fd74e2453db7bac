"""The states in a broker's life, and which event leads from which to which (flux-core's state_machine.c)."""

from __future__ import annotations

STATES = (
    "load-builtins",
    "join",
    "config-sync",
    "init",
    "quorum",
    "run",
    "cleanup",
    "shutdown",
    "finalize",
    "goodbye",
    "unload-builtins",
    "exit",
)
"""In the order of flux-core's numbers, which `state-machine.monitor` sends."""

NUMBER = {name: number for number, name in enumerate(STATES)}

NEXT = {
    ("load-builtins", "builtins-success"): "join",
    ("load-builtins", "builtins-fail"): "unload-builtins",
    ("join", "parent-ready"): "config-sync",
    ("join", "parent-none"): "config-sync",
    ("join", "parent-fail"): "shutdown",
    ("config-sync", "sync-success"): "init",
    ("config-sync", "sync-none"): "init",
    ("config-sync", "sync-fail"): "shutdown",
    ("init", "rc1-success"): "quorum",
    ("init", "rc1-none"): "quorum",
    ("init", "rc1-ignorefail"): "quorum",
    ("init", "rc1-fail"): "shutdown",
    ("init", "panic"): "shutdown",
    ("quorum", "quorum-full"): "run",
    ("quorum", "quorum-fail"): "shutdown",
    ("quorum", "panic"): "shutdown",
    ("run", "rc2-success"): "cleanup",
    ("run", "rc2-fail"): "cleanup",
    ("run", "panic"): "shutdown",
    ("run", "shutdown"): "cleanup",
    ("run", "parent-fail"): "cleanup",
    ("run", "rc2-none"): "run",
    ("cleanup", "cleanup-success"): "shutdown",
    ("cleanup", "cleanup-none"): "shutdown",
    ("cleanup", "cleanup-fail"): "shutdown",
    ("shutdown", "children-complete"): "finalize",
    ("shutdown", "children-none"): "finalize",
    ("finalize", "rc3-success"): "goodbye",
    ("finalize", "rc3-none"): "goodbye",
    ("finalize", "rc3-fail"): "goodbye",
    ("goodbye", "goodbye"): "unload-builtins",
    ("unload-builtins", "builtins-done"): "exit",
    ("unload-builtins", "builtins-unload-fail"): "exit",
}
"""State and event to the next state; every other event is ignored."""

# What the states of the parent mean for a broker in state join, quorum or run.
_JOIN = {"quorum": "parent-ready", "run": "parent-ready"}
_QUORUM = {"init": "quorum-full", "run": "quorum-full"}
_RUN = {"shutdown": "shutdown"}
_PATIENT = {
    "join": frozenset(STATES[:4]),
    "quorum": frozenset(("load-builtins", "join", "config-sync", "quorum")),
    "run": frozenset(STATES[: NUMBER["shutdown"]]),
}
FAILURE = {"join": "parent-fail", "config-sync": "sync-fail", "quorum": "quorum-fail", "run": "parent-fail"}
"""The event that means, in each state, that the parent cannot be followed any more."""


def follow_parent(state: str, parent: str) -> str | None:
    """The event that the parent's state means for a broker in ``state``; None if it has to wait."""
    if state not in _PATIENT or parent in _PATIENT[state]:
        return None
    ready = {"join": _JOIN, "quorum": _QUORUM, "run": _RUN}[state]
    return ready.get(parent, FAILURE[state])

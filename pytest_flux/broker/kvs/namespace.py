"""One namespace (RFC 11): a root that changes, who waits for it to change, and how it is checkpointed."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.kvs.watch import Watchers
from pytest_flux.protocol.blobref import decode_blobref
from pytest_flux.protocol.errors import FluxError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flux.broker.kvs.transaction import Transaction
    from pytest_flux.broker.kvs.tree import Tree

PRIMARY = "primary"
"""The namespace that always exists."""

# Of the value of a checkpoint.
_VERSIONS = (0, 1)


class Namespace:
    """Root and sequence number, and the transactions that will change them, in order."""

    __slots__ = ("flags", "name", "owner", "queue", "ref", "sequence", "waiters", "watchers")

    def __init__(self, name: str, owner: int, ref: str, sequence: int = 0, flags: int = 0) -> None:
        self.name = name
        self.owner = owner
        self.ref = ref
        self.sequence = sequence
        self.flags = flags
        self.queue: list[Transaction] = []
        self.waiters: dict[Waiter, None] = {}
        self.watchers = Watchers()

    def take_mergeable(self) -> list[Transaction]:
        """Take the first transaction of the queue and those behind it that may become one root with it."""
        queue, count = self.queue, 1
        while count < len(queue) and queue[0].merges_with(queue[count]):
            count += 1
        self.queue = queue[count:]
        return queue[:count]

    def take_ready(self) -> list[Waiter]:
        """Take everybody who waited for this version or an older one."""
        if not self.waiters:
            return []
        ready = [waiter for waiter in self.waiters if waiter.sequence <= self.sequence]
        for waiter in ready:
            del self.waiters[waiter]
        return ready


class Waiter:
    """Someone who waits for a sequence number. ``done`` gets None or an error."""

    __slots__ = ("done", "sequence")

    def __init__(self, sequence: int, done: Callable[[FluxError | None], None]) -> None:
        self.sequence = sequence
        self.done = done


def encode_checkpoint(ref: str, sequence: int, timestamp: float) -> dict[str, object]:
    """The value of a checkpoint, as flux-core's kvs_checkpoint.c writes it."""
    return {"version": 1, "rootref": ref, "sequence": sequence, "timestamp": timestamp}


def choose_checkpoint(found: list[Any], tree: Tree, complain: Callable[[str], None]) -> tuple[str, int] | None:
    """Root and sequence number of the newest checkpoint whose root can be read; None if there are no checkpoints.

    flux-core takes the newest and does not start if that cannot be read. FluxError EINVAL if none can be read.
    """
    problem = ""
    for index, value in enumerate(found):
        try:
            ref, sequence = _decode(value)
            tree.directory(ref, is_root=True)
        except FluxError as error:
            reason = f"checkpoint {index}{_name(value)}: {error.text or error.strerror}"
            problem = problem or reason
            complain(reason)
            continue
        if index:
            complain(f"beginning with the older checkpoint {index}{_name(value)}")
        return ref, sequence
    if problem:
        raise FluxError(errno.EINVAL, f"the KVS cannot be read: {problem}")
    return None


def _decode(value: Any) -> tuple[str, int]:  # noqa: ANN401 - JSON
    try:
        ref, sequence, version = value["rootref"], value.get("sequence", 0), value["version"]
        decode_blobref(ref)
    except (KeyError, TypeError, AttributeError, ProtocolError) as error:
        raise FluxError(errno.EINVAL, f"it makes no sense ({error})") from None
    if type(sequence) is not int or version not in _VERSIONS:
        raise FluxError(errno.EINVAL, "it is of an unknown version")
    return ref, sequence


def _name(value: Any) -> str:  # noqa: ANN401 - JSON
    if not isinstance(value, dict):
        return ""
    return f" (sequence {value.get('sequence', 0)!r:.20}, {value.get('rootref')!s:.50})"

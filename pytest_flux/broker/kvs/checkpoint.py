"""Which checkpoint a store begins with."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.blobref import decode_blobref
from pytest_flux.protocol.errors import FluxError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flux.broker.kvs.tree import Tree

_VERSIONS = (0, 1)


def choose_checkpoint(found: list[Any], tree: Tree, complain: Callable[[str], None]) -> tuple[str, int] | None:
    """Root and sequence number of the newest checkpoint, or of an older one where the root of that is gone.

    None where there are none. flux-core takes the newest, and does not start where that is of no use. Raises
    FluxError EINVAL if no checkpoint is of use.
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

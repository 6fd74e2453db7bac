"""Bytes from one connection to another: how brokers are reached through ssh, and through `flux proxy`."""

from __future__ import annotations

import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_CHUNK = 1 << 16


def relay(pairs: Sequence[tuple[int, int]]) -> None:
    """Copy from the first descriptor of each pair to the second, until one of the sources is at its end."""
    poll = select.poll()
    targets = dict(pairs)
    for source in targets:
        poll.register(source, select.POLLIN)
    while True:
        for source, _ in poll.poll():
            try:
                data = os.read(source, _CHUNK)
                write_all(targets[source], data)
            except OSError:
                return
            if not data:
                return


def write_all(fd: int, data: bytes) -> None:
    """Write all of it. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]

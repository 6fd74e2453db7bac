"""The parts of a sparse file that have data."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def data_extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield where data begin and end, as far as the file system knows."""
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
        except (OSError, AttributeError) as error:
            if getattr(error, "errno", None) != errno.ENXIO:
                yield end, size
            return
        yield start, end


def data_chunks(descriptor: int, size: int, chunk_size: int) -> Iterator[tuple[int, bytes]]:
    """Yield offset and bytes of each piece of data. ``chunk_size`` is the most a piece can have; 0 means no limit."""
    for start, end in data_extents(descriptor, size):
        for offset in range(start, end, chunk_size or end - start):
            yield offset, os.pread(descriptor, min(chunk_size or end, end - offset), offset)

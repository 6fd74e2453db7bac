"""Bytes that wait in a file, first in, first out: what a slow peer has not read yet must not fill our memory."""

from __future__ import annotations

import os


class Spool:
    """A file without a name in ``directory``, made when it is first needed. Methods raise OSError."""

    __slots__ = ("_begin", "_directory", "_end", "_fd")

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._fd = -1
        self._begin = self._end = 0

    def __len__(self) -> int:
        return self._end - self._begin

    def write(self, data: bytes | memoryview) -> None:
        """Add to the end."""
        if self._fd < 0:
            self._fd = _nameless(self._directory)
        while data:
            written = os.pwrite(self._fd, data, self._end)
            self._end += written
            data = data[written:]

    def read(self, size: int) -> bytes:
        """Take at most ``size`` bytes from the beginning."""
        data = os.pread(self._fd, min(size, len(self)), self._begin)
        self._begin += len(data)
        if self._begin == self._end:
            # Everything was read: give the room back.
            os.ftruncate(self._fd, 0)
            self._begin = self._end = 0
        return data

    def close(self) -> None:
        """Forget everything."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._begin = self._end = 0


def _nameless(directory: str) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC
    if hasattr(os, "O_TMPFILE"):
        try:
            return os.open(directory, flags | os.O_TMPFILE, 0o600)
        except OSError:
            # Not every file system can do it.
            pass
    path = f"{directory}/.spool-{os.getpid()}-{os.urandom(8).hex()}"
    fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(path)
    return fd

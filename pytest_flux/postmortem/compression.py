"""Archives in files and pipes, compressed or not: the first bytes decide when reading, the name when writing."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

from pytest_flux.protocol.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PIECE = 1 << 18
"""Bytes that are read, and at most decompressed, at a time."""

_MEMORY_MAX = 256 << 20
# Decompressed, event logs and values become ten or twenty times as large; zeros with gzip a thousand times.
_RATIO_MAX, _GIVEN_MIN = 200, 2 << 30
_FORMATS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.lz4")


def _inflate() -> Any:  # noqa: ANN401 - decompressors have no common type
    import zlib

    return _Inflater(zlib.decompressobj(wbits=31))


def _bunzip() -> Any:  # noqa: ANN401
    import bz2

    return bz2.BZ2Decompressor()


def _unxz() -> Any:  # noqa: ANN401
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY_MAX)


def _unlz4() -> Any:  # noqa: ANN401
    import lz4.frame  # type: ignore[import-untyped]

    return lz4.frame.LZ4FrameDecompressor()


_MAGIC: tuple[tuple[bytes, Callable[[], Any]], ...] = (
    (b"\x1f\x8b", _inflate),
    (b"BZh", _bunzip),
    (b"\xfd7zXZ\0", _unxz),
    (b"\x04\x22\x4d\x18", _unlz4),
)
_NOT_READ = ((b"\x28\xb5\x2f\xfd", "zstd"), (b"PK\x03\x04", "zip"), (b"\x1f\x9d", "compress"), (b"7z\xbc\xaf", "7z"))


class _Inflater:
    """zlib's decompressor with the methods of the others."""

    def __init__(self, decompressor: Any) -> None:  # noqa: ANN401
        self._decompressor = decompressor

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return cast("bytes", self._decompressor.decompress(self._decompressor.unconsumed_tail + data, max_length))

    @property
    def needs_input(self) -> bool:
        return not self._decompressor.unconsumed_tail

    @property
    def eof(self) -> bool:
        return bool(self._decompressor.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._decompressor.unused_data)


class Pieces:
    """The content of an archive, decompressed, in pieces of bounded size.

    Iterating raises ProtocolError for a damaged archive or an unknown compression, and OSError.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._is_plain = False

    def __iter__(self) -> Iterator[bytes]:
        first = self._file.read(PIECE)
        for magic, name in _NOT_READ:
            if first.startswith(magic):
                raise ProtocolError(f"archives of the format {name} are not understood")
        make = next((make for magic, make in _MAGIC if first.startswith(magic)), None)
        if make is not None:
            yield from _decompress(self._file, first, make)
            return
        self._is_plain = True
        while first:
            yield first
            first = self._file.read(PIECE)

    def skip(self, count: int) -> bool:
        """Skip the next ``count`` bytes, if the file has them and is not compressed. Returns whether it did."""
        if not self._is_plain or not self._file.seekable():
            return False
        position = self._file.tell()
        enough = position + count <= self._file.seek(0, os.SEEK_END)
        self._file.seek(position + count if enough else position)
        return enough


def _decompress(file: IO[bytes], data: bytes, make: Callable[[], Any]) -> Iterator[bytes]:
    """Decompress. Several streams one after another count as one, as with gzip."""
    decompressor = make()
    taken, given = len(data), 0
    while True:
        try:
            piece = decompressor.decompress(data, PIECE)
        except Exception as error:  # noqa: BLE001 - each library has its own
            raise ProtocolError(f"the compressed archive is damaged ({error})") from None
        data = b""
        given += len(piece)
        if given > _GIVEN_MIN and given > _RATIO_MAX * taken:
            raise ProtocolError(f"the compressed archive becomes more than {_RATIO_MAX} times as large")
        if piece:
            yield piece
        if decompressor.eof:
            data = decompressor.unused_data
            if not data:
                data = file.read(PIECE)
                taken += len(data)
            if not data.strip(b"\0"):
                return
            decompressor = make()
        elif decompressor.needs_input:
            data = file.read(PIECE)
            taken += len(data)
            if not data:
                raise ProtocolError("the compressed archive is truncated")


def check_name(path: str) -> None:
    """Raise FluxError EINVAL, in libarchive's words, unless the name has the suffix of a known format."""
    from pytest_flux.protocol.errors import FluxError

    if path != "-" and not path.endswith(_FORMATS):
        raise FluxError(errno.EINVAL, f"No such format '{path}'")


@contextmanager
def create(path: str, stdout: IO[bytes] | None = None) -> Iterator[IO[bytes]]:
    """An archive to write to; ``-`` is ``stdout``. A file gets its name when it is complete.

    Raises FluxError for a name of no known format, OSError.
    """
    check_name(path)
    if path == "-":
        assert stdout is not None
        yield stdout
        stdout.flush()
        return
    if os.path.exists(path) and not os.path.isfile(path):
        # A pipe or a device stays what it is.
        with open(path, "wb") as file, _compressor(path, file) as archive:
            yield archive
        return
    path = os.path.realpath(path)
    temporary = f"{path}.{os.getpid()}-{os.urandom(3).hex()}"
    try:
        with open(temporary, "xb") as file:
            with _compressor(path, file) as archive:
                yield archive
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


@contextmanager
def _compressor(path: str, file: IO[bytes]) -> Iterator[IO[bytes]]:
    made: Any = file
    if path.endswith(("gz", ".tgz")):
        import gzip

        made = gzip.GzipFile("", "wb", 6, file, mtime=0)
    elif path.endswith("bz2"):
        import bz2

        made = bz2.BZ2File(file, "wb")
    elif path.endswith("xz"):
        import lzma

        made = lzma.LZMAFile(file, "wb")  # noqa: SIM115 - closed below
    elif path.endswith("lz4"):
        import lz4.frame

        made = lz4.frame.LZ4FrameFile(file, "wb")
    yield made
    if made is not file:
        made.close()

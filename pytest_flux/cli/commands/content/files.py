"""`flux archive`: keep files in the KVS, and copy them from there, on any broker.

An archive is the value of the key ``archive.NAME``: a JSON array of file system objects (RFC 37). A small file is in
its object. Of a large one, the object lists blobs, which are in the content store; ``archive.NAME_blobs`` refers to
these too, if they must outlive a garbage collection.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from pytest_flux.cli.command import SIZE_UNITS, Command, CommandError, Context, reason
from pytest_flux.cli.commands.content.content import BlobClient
from pytest_flux.client.kvs import PRIMARY, WAITCREATE, Kvs, value_of
from pytest_flux.options import Option
from pytest_flux.postmortem.extents import data_chunks, data_extents
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.blobref import blobref_of
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.json_value import compact

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pytest_flux.client import Flux
    from pytest_flux.options import Options

    FileObject = dict[str, Any]
    StoreChunk = Callable[[bytes], str]

_LIST_WIDTH, _CONTENTS_WIDTH = 120, 80
"""Sizes of flux-core's buffers for a line of `list` and of `extract -t`."""


# -- file system objects (RFC 37)


def describe_file(path: str, *, chunk_size: int, small: int, store: StoreChunk) -> FileObject:
    """Return the file system object of a file. ``store`` gets the data of a large one. Raises OSError, ValueError."""
    status = os.lstat(path)
    mode = status.st_mode
    file: FileObject = {"path": path.lstrip("/") or "."}
    times = {"mtime": int(status.st_mtime), "ctime": int(status.st_ctime), "mode": mode}
    if stat.S_ISLNK(mode):
        return {**file, "data": os.readlink(path), **times}
    if stat.S_ISDIR(mode):
        return {**file, **times}
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: unsupported file type")
    return {**file, **_describe_data(path, status.st_size, chunk_size, small, store), "size": status.st_size, **times}


def _describe_data(path: str, size: int, chunk_size: int, small: int, store: StoreChunk) -> FileObject:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if size > small or not any(True for _ in data_extents(descriptor, size)):
            blobs = [[at, len(data), store(data)] for at, data in data_chunks(descriptor, size, chunk_size)]
            return {"encoding": "blobvec", "data": blobs} if blobs else {}
        file.seek(0)
        data = file.read()
    try:
        return {"encoding": "utf-8", "data": data.decode()}
    except UnicodeDecodeError:
        from base64 import b64encode

        return {"encoding": "base64", "data": b64encode(data).decode()}


class Extraction:
    """Creates files from their objects, as libarchive does without any of its flags for owners, modes and times."""

    def __init__(self, load: Callable[[str], bytes], *, overwrite: bool) -> None:
        self._load = load
        self._overwrite = overwrite

    def extract(self, file: FileObject) -> None:
        """Create one file, and the directories above it. Raises ValueError, OSError."""
        path, mode, data = file["path"], file["mode"], file.get("data")
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            raise ValueError(f"{path}: unknown file type (mode=0{mode:o})")
        if stat.S_ISLNK(mode) and not isinstance(data, str):
            raise ValueError(f"{path}: missing symlink data")
        if parent := os.path.dirname(path):
            os.makedirs(parent, exist_ok=True)
        if stat.S_ISDIR(mode):
            if not os.path.isdir(path):
                os.mkdir(path, mode & 0o7777)
            return
        if os.path.lexists(path):
            if not self._overwrite:
                if data is None or stat.S_ISLNK(mode):
                    return
                raise ValueError(f"{path}: write: Attempt to overwrite existing file")
            os.unlink(path)
        if stat.S_ISLNK(mode):
            os.symlink(data or "", path)
        else:
            self._write(path, file)

    def _write(self, path: str, file: FileObject) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, file["mode"] & 0o777)
        with open(descriptor, "wb") as out:
            for offset, data in self._pieces(path, file):
                out.seek(offset)
                out.write(data)
            out.flush()
            if "size" in file:
                os.ftruncate(descriptor, file["size"])

    def _pieces(self, path: str, file: FileObject) -> Iterator[tuple[int, bytes]]:
        encoding, data = file.get("encoding"), file.get("data")
        if data is None:
            return
        if encoding == "blobvec":
            for offset, size, ref in data:
                yield offset, self._blob(path, offset, size, ref)
        elif encoding is None:
            yield 0, compact(data).encode()
        elif encoding == "utf-8" and isinstance(data, str):
            yield 0, data.encode()
        elif encoding == "utf-8":
            raise ValueError(f"{path}: unexpected data type for utf8")
        elif encoding == "base64":
            from base64 import b64decode

            try:
                yield 0, b64decode(data, validate=True)
            except (TypeError, ValueError):
                raise ValueError(f"{path}: could not decode base64 file data") from None
        else:
            raise ValueError(f"{path}: unknown RFC 37 encoding {encoding}")

    def _blob(self, path: str, offset: int, size: int, ref: str) -> bytes:
        what = f"{path}: error loading offset={offset} size={size} from {ref}"
        try:
            blob = self._load(ref)
        except FluxError as error:
            raise ValueError(f"{what}: {reason(error)}") from None
        if len(blob) != size:
            raise ValueError(f"{what}: unexpected size {len(blob)}")
        return blob


def _line(file: FileObject, size: int, *, long: bool) -> str:
    mode = file.get("mode")
    if not isinstance(mode, int) or "path" not in file:
        return "invalid fileref"
    kind = "f" if stat.S_ISREG(mode) else "l" if stat.S_ISLNK(mode) else "d" if stat.S_ISDIR(mode) else "?"
    text = f"{kind} 0{mode & 0o777:o} {file.get('size', 0):8} {file['path']}" if long else file["path"]
    return text if len(text) < size else text[: size - 2] + "+"


# -- archives


class _Archive:
    """An archive in the KVS."""

    def __init__(self, flux: Flux, options: Options) -> None:
        self.name = options.get("name", "main")
        self.key = f"archive.{self.name}"
        self.blobs_key = f"{self.key}_blobs"
        self.flux = flux
        self.kvs = Kvs(flux, None if options.has("no-force-primary") else PRIMARY)

    def find(self) -> list[FileObject] | None:
        """Return the files, or None if there is no archive of that name."""
        try:
            return list(self.kvs.get_json(self.key))
        except (FluxError, ValueError):
            return None

    def load(self, flags: int = 0, timeout: float | None = None) -> list[FileObject]:
        """Return the files. Raises CommandError."""
        try:
            import json

            return list(json.loads(value_of(self.kvs.lookup(self.key, flags).get(timeout)).value()))
        except TimeoutError:
            raise CommandError(f"{self.key}: key was not created within timeout window") from None
        except FluxError as error:
            raise CommandError(f"KVS lookup {self.key}: {os.strerror(error.errnum)}") from None
        except (TypeError, ValueError):
            raise CommandError(f"KVS lookup {self.key}: {os.strerror(errno.EPROTO)}") from None

    def remove(self, context: Context) -> None:
        """Remove the archive and the references to its blobs, as far as they exist."""
        try:
            self.kvs.transaction().unlink(self.key).unlink(self.blobs_key).commit()
        except FluxError as error:
            context.log(f"unlink {self.key},{self.blobs_key}: {os.strerror(error.errnum)}")
        try:
            self.flux.rpc("content.mmap-remove", {"tag": self.name}, nodeid=0).get()
        except FluxError as error:
            context.log(f"unmap {self.name}: {reason(error)}")


_NAME = Option("name", "n", "NAME", usage="The archive's name (default: main)")
_NAMESPACE = Option("no-force-primary", usage="Use the default namespace, not always the primary one")
CREATE_OPTIONS = (
    _NAME,
    _NAMESPACE,
    Option("directory", "C", "DIR", usage="Change to this directory first"),
    Option("verbose", "v", "[LEVEL]", optional=True, usage="Print the names of files"),
    Option("overwrite", usage="Replace an archive of that name"),
    Option("append", usage="Add to an archive of that name"),
    Option("preserve", usage="Keep the data when the instance is restarted with garbage collection"),
    Option("mmap", usage="Let the broker of rank 0 map large files (an embedded broker copies them)"),
    Option("chunksize", argument="N[KMG]", hidden=True, usage="The largest blob in bytes (default: 1M; 0: no limit)"),
    Option("small-file-threshold", argument="N[KMG]", hidden=True, usage="The largest small file (default: 1K)"),
)
REMOVE_OPTIONS = (_NAME, _NAMESPACE, Option("force", "f", usage="Do not complain if there is none of that name"))
EXTRACT_OPTIONS = (
    _NAME,
    Option("verbose", "v", "[LEVEL]", optional=True, usage="Print the names of files on stderr"),
    Option("directory", "C", "DIR", usage="Change to this directory first"),
    Option("overwrite", usage="Replace files that exist"),
    Option("waitcreate", argument="[FSD]", optional=True, usage="Wait for the archive (for so long at the most)"),
    _NAMESPACE,
    Option("list-only", "t", usage="Print the names of files only"),
)
LIST_OPTIONS = (
    _NAME,
    _NAMESPACE,
    Option("long", "l", usage="Print type, mode and size, too"),
    Option("raw", usage="Print the objects as they are (RFC 37)"),
)


def create(options: Options, context: Context) -> int:
    """Put files into an archive."""
    if not options.arguments:
        raise context.command.usage_error()
    chunk_size, small = _size(options, "chunksize", "1M"), _size(options, "small-file-threshold", "1K")
    with context.open() as flux:
        archive = _Archive(flux, options)
        _check(flux, options)
        _change_directory(options)
        files: list[FileObject] = []
        if options.has("overwrite"):
            archive.remove(context)
        elif (found := archive.find()) is not None:
            if not options.has("append"):
                raise CommandError(f"{archive.key}: key exists")
            files = found
        changes = archive.kvs.transaction()
        writer = _Writer(archive, mapped=options.has("mmap"))
        for path in _walk(options.arguments):
            if options.integer("verbose", 0):
                print(path)
            files.append(writer.add(path, chunk_size, small))
        for number, ref in enumerate(writer.blobs if options.has("preserve") else ()):
            changes.put_entry(f"{archive.blobs_key}.{number}", treeobj.valref([ref]))
        try:
            changes.put_json(archive.key, files).commit()
        except FluxError as error:
            raise CommandError(f"kvs commit: {reason(error)}") from None
    return 0


class _Writer:
    """Makes objects of files, and stores the data of large ones. ``blobs`` are the references to these data."""

    def __init__(self, archive: _Archive, *, mapped: bool) -> None:
        self.blobs: list[str] = []
        self._archive = archive
        self._mapped = mapped
        self._client = BlobClient(archive.flux, bypass=False)
        self._hash = archive.flux.getattr("content.hash")
        self._client.learn_hash()

    def add(self, path: str, chunk_size: int, small: int) -> FileObject:
        """Return the object of a file. Raises CommandError."""
        try:
            file = describe_file(path, chunk_size=chunk_size, small=small, store=self._take)
            if self._mapped and file.get("encoding") == "blobvec":
                self._map(path, chunk_size)
        except FluxError as error:
            raise CommandError(f"{path}: error storing blob: {reason(error)}") from None
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise CommandError(str(error)) from None
        return file

    def _take(self, data: bytes) -> str:
        if self._mapped:
            return blobref_of(self._hash, data)
        self.blobs.append(self._client.store(data))
        return self.blobs[-1]

    def _map(self, path: str, chunk_size: int) -> None:
        request = {"path": os.path.realpath(path), "chunksize": chunk_size, "tag": self._archive.name}
        try:
            self._archive.flux.rpc("content.mmap-add", request, nodeid=0).get()
        except FluxError as error:
            raise CommandError(f"{path}: {reason(error)}") from None


def _check(flux: Flux, options: Options) -> None:
    if options.has("mmap"):
        if flux.rank:
            raise CommandError("--mmap only works on the rank 0 broker")
        for name in ("preserve", "no-force-primary"):
            if options.has(name):
                raise CommandError(f"--mmap cannot work with --{name}")
    if options.has("overwrite") and options.has("append"):
        raise CommandError("--overwrite and --append cannot be used together")


def _change_directory(options: Options) -> None:
    directory = options.get("directory")
    if directory is not None:
        try:
            os.chdir(directory)
        except OSError as error:
            raise CommandError(f"chdir {directory}: {error.strerror}") from None


def _walk(paths: list[str]) -> Iterator[str]:
    """Yield each path, and before a directory what is in it. Raises CommandError."""
    for path in paths:
        try:
            is_directory = stat.S_ISDIR(os.lstat(path).st_mode)
            if is_directory:
                with os.scandir(path) as entries:
                    names = [entry.name for entry in entries]
                yield from _walk([os.path.join(path, name) for name in names])
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from None
        if path != ".":
            yield path


def _size(options: Options, name: str, default: str) -> int:
    text = options.get(name, default) or ""
    number = text.rstrip("kKMGTPE")
    unit = text[len(number) :]
    if not number.isdigit() or unit not in SIZE_UNITS:
        raise CommandError(f"Invalid argument for option '{name}': {text}")
    return int(number) << SIZE_UNITS[unit]


def _pattern(options: Options, context: Context) -> str | None:
    if len(options.arguments) > 1:
        raise context.command.usage_error()
    return options.arguments[0] if options.arguments else None


def _select(files: list[FileObject], pattern: str | None, context: Context) -> list[FileObject]:
    if pattern is None:
        return files
    from fnmatch import fnmatchcase

    found = [file for file in files if fnmatchcase(str(file.get("path", "")), pattern)]
    if not found:
        context.log(f"No files matched pattern '{pattern}'")
    return found


def extract(options: Options, context: Context) -> int:
    """Copy files from an archive."""
    pattern = _pattern(options, context)
    flags = WAITCREATE if options.has("waitcreate") else 0
    timeout = None
    if options.get("waitcreate") is not None:
        from pytest_flux.protocol.duration import parse_duration

        try:
            timeout = parse_duration(options.get("waitcreate") or "")
        except ValueError:
            raise CommandError(f"could not parse --waitcreate timeout: {os.strerror(errno.EINVAL)}") from None
    _change_directory(options)
    with context.open() as flux:
        archive = _Archive(flux, options)
        files = _select(archive.load(flags, timeout), pattern, context)
        if options.has("list-only"):
            for file in files:
                print(_line(file, _CONTENTS_WIDTH, long=options.has("verbose")))
            return 0
        extraction = Extraction(BlobClient(flux, bypass=False).load, overwrite=options.has("overwrite"))
        for file in files:
            if options.integer("verbose", 0):
                sys.stderr.write(f"{file.get('path')}\n")
            _extract(extraction, file)
    return 0


def _extract(extraction: Extraction, file: FileObject) -> None:
    try:
        extraction.extract(file)
    except OSError as error:
        raise CommandError(f"{file['path']}: {error.strerror}") from None
    except KeyError as error:
        raise CommandError(f"error decoding fileref object: Object item not found: {error.args[0]}") from None
    except ValueError as error:
        raise CommandError(str(error)) from None


def list_files(options: Options, context: Context) -> int:
    """Print the names of the files in an archive."""
    pattern = _pattern(options, context)
    with context.open() as flux:
        files = _select(_Archive(flux, options).load(), pattern, context)
    for file in files:
        if options.has("raw"):
            sys.stdout.write(compact(file))
        else:
            print(_line(file, _LIST_WIDTH, long=options.has("long")))
    return 0


def remove(options: Options, context: Context) -> int:
    """Remove an archive."""
    if options.arguments:
        raise context.command.usage_error()
    with context.open() as flux:
        archive = _Archive(flux, options)
        if not options.has("force") and archive.find() is None:
            raise CommandError(f"{archive.key} does not exist")
        archive.remove(context)
    return 0


def filemap(options: Options, context: Context) -> int:
    """Refuse: flux-core has deprecated the command."""
    del options, context
    raise CommandError("This command is deprecated.  Use flux-archive(1) instead.")


COMMANDS = (
    Command(
        "flux archive",
        summary="Keep files in the KVS",
        subcommands=(
            Command(
                "flux archive create",
                create,
                usage="[-n NAME] [-C DIR] [--preserve] PATH ...",
                summary="Put files into an archive",
                options=CREATE_OPTIONS,
            ),
            Command(
                "flux archive remove",
                remove,
                usage="[-n NAME] [-f]",
                summary="Remove an archive",
                options=REMOVE_OPTIONS,
            ),
            Command(
                "flux archive extract",
                extract,
                usage="[-n NAME] [--overwrite] [-C DIR] [PATTERN]",
                summary="Copy files from an archive",
                options=EXTRACT_OPTIONS,
            ),
            Command(
                "flux archive list",
                list_files,
                usage="[-n NAME] [PATTERN]",
                summary="List the files in an archive",
                options=LIST_OPTIONS,
            ),
        ),
    ),
    Command("flux filemap", filemap, usage="[...]", summary="Deprecated: use flux archive"),
)

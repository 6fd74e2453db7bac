"""`flux dump` and `flux restore`: the key-value store as a tar archive."""

from __future__ import annotations

import os
import sys
import time

from pytest_flux.cli.command import SIZE_UNITS, Command, CommandError, Context, explaining, reason
from pytest_flux.cli.commands.content.content import BlobClient, choose_checkpoint, is_kvs_running
from pytest_flux.client.kvs import Kvs
from pytest_flux.options import Option
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.errors import FluxError, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import IO

    from pytest_flux.client import Flux
    from pytest_flux.options import Options
    from pytest_flux.postmortem.archive import ArchiveWriter, Item, Restored
    from pytest_flux.protocol.kvs_tree import TreeBuilder

DUMP_OPTIONS = (
    Option("verbose", "v", usage="List keys on stderr as they are archived"),
    Option("quiet", "q", usage="Show no progress"),
    Option("checkpoint", usage="Dump the newest checkpoint"),
    Option("no-cache", usage="Go past the content cache"),
    Option("ignore-failed-read", usage="Leave out what cannot be loaded"),
    Option("sd-notify", usage="Tell systemd, by way of the broker, how far it is"),
    Option("maxreqs", argument="N", usage="Have at most N requests waiting (default 2)"),
)


def root_of_kvs(flux: Flux) -> str:
    """Return the root of the namespace that commands use. Raises CommandError."""
    with explaining("error fetching current KVS root"):
        return str(Kvs(flux).getroot()["rootref"])


class Progress:
    """Shows progress: for each of the first keys, then for every hundredth. ``done`` is "archived" or "restored"."""

    def __init__(self, flux: Flux, options: Options, program: str, done: str) -> None:
        self._flux = flux
        self._program = program
        self._done = done
        self.verbose = options.has("verbose")
        self.shown = not self.verbose and not options.has("quiet")
        self._notifies = options.has("sd-notify")

    def key(self, name: str, count: int, text: str) -> None:
        """Count one more key; there are ``count`` now."""
        if self.verbose:
            sys.stderr.write(f"{name}\n")
        if count % 100 == 0 or count < 10:
            self._tell(text, count)

    def end(self, text: str) -> None:
        """Show the line for the end."""
        if self.shown:
            sys.stderr.write(f"\r{self._program}: {text}\n")

    def note(self, line: str) -> None:
        """Write a line between those of the progress."""
        sys.stderr.write(f"\r{line}\n" if self.shown else f"{line}\n")

    def _tell(self, text: str, count: int) -> None:
        if self.shown:
            sys.stderr.write(f"\r{self._program}: {text}")
            sys.stderr.flush()
        if self._notifies:
            status = f"{self._program}(1) has {self._done} {count} keys"
            self._flux.post("state-machine.sd-notify", {"status": status})


def dump(options: Options, context: Context) -> int:
    """Write every key of the store to an archive."""
    if len(options.arguments) != 1:
        raise context.command.usage_error()
    from pytest_flux.postmortem.archive import ArchiveWriter
    from pytest_flux.postmortem.compression import create

    path = options.arguments[0]
    if options.integer("maxreqs", 2) <= 0:
        raise CommandError("invalid value for maxreqs")
    with context.open() as flux:
        client = BlobClient(flux, bypass=options.has("no-cache"))
        progress = Progress(flux, options, "flux-dump", "archived")
        root, timestamp = choose_checkpoint(client) if options.has("checkpoint") else (root_of_kvs(flux), time.time())
        try:
            with create(path, sys.stdout.buffer) as file:
                writer = ArchiveWriter(file, timestamp)
                _write(client, root, writer, progress, options)
                writer.close()
        except ProtocolError as error:
            raise CommandError(str(error)) from None
        except OSError as error:
            if isinstance(error, (BrokenPipeError, FluxError)):
                raise
            if isinstance(error, (FileNotFoundError, PermissionError)):
                raise CommandError(f"Failed to open '{path}'") from None
            raise CommandError(f"{path}: {error.strerror}") from None
        progress.end(f"archived {writer.keys} keys")
    return 0


def _write(client: BlobClient, root: str, writer: ArchiveWriter, progress: Progress, options: Options) -> None:
    from pytest_flux.protocol.kvs_tree import walk

    for found in walk(client.load, root):
        name = "/".join(found.path)
        try:
            if found.problem:
                why = f": {os.strerror(found.errnum)}" if found.errnum else ""
                raise FluxError(found.errnum, f"{name}: {found.problem}{why}")
            written = writer.add(found)
        except FluxError as error:
            # flux-core skips blobs that are lost, but stops at damaged ones.
            if not error.errnum:
                raise CommandError(error.text or "") from None
            sys.stderr.write(f"{error.text}\n")
            if not options.has("ignore-failed-read"):
                raise SystemExit(1) from None
            continue
        if written:
            progress.key(name, writer.keys, f"archived {writer.keys} keys")


RESTORE_OPTIONS = (
    Option("verbose", "v", usage="List keys on stderr as they are restored"),
    Option("quiet", "q", usage="Show no progress"),
    Option("checkpoint", usage="Have the KVS begin with it when it is loaded"),
    Option("key", argument="KEY", usage="Restore to a key of the KVS"),
    Option("no-cache", usage="Go past the content cache"),
    Option("size-limit", argument="SIZE", usage="Leave out values of more than SIZE bytes"),
    Option("maxreqs", argument="N", usage="Have at most N requests waiting (default 256)"),
    Option("sd-notify", usage="Tell systemd, by way of the broker, how far it is"),
)

_SHORT_DIGITS = 8


def restore(options: Options, context: Context) -> int:
    """Store what is in an archive."""
    if len(options.arguments) != 1:
        raise context.command.usage_error()
    if options.integer("maxreqs", 256) <= 0:
        raise CommandError("invalid value for maxreqs")
    with context.open() as flux, _open(options.arguments[0]) as file:
        client = BlobClient(flux, bypass=options.has("no-cache"))
        client.learn_hash()
        if options.has("checkpoint"):
            if is_kvs_running(flux):
                raise CommandError("please unload kvs module before using --checkpoint")
            restored = _restore(client, file, options)
            _tell(options, context, restored, "checkpoint for next KVS start")
            with explaining("error updating checkpoint"):
                client.put_checkpoint(restored.rootref, restored.timestamp)
        elif options.has("key"):
            key = options.get("key") or ""
            restored = _restore(client, file, options)
            _tell(options, context, restored, f"KVS key '{key}'")
            _commit(flux, key, restored.rootref)
        else:
            raise CommandError("Please specify a restore target with --checkpoint or --key")
        if not options.has("no-cache"):
            try:
                flux.rpc("content.flush", nodeid=0).get()
            except FluxError as error:
                context.log(f"error flushing content cache: {reason(error)}")
    return 0


def _open(path: str) -> AbstractContextManager[IO[bytes]]:
    if path == "-":
        from contextlib import nullcontext

        return nullcontext(sys.stdin.buffer)
    try:
        return open(path, "rb")
    except OSError:
        raise CommandError(f"Failed to open '{path}'") from None


def _restore(client: BlobClient, file: IO[bytes], options: Options) -> Restored:
    from pytest_flux.postmortem.archive import SIZE_MAX, restore_archive, too_large

    limit = _size(options.get("size-limit", "0") or "") or SIZE_MAX
    progress = Progress(client.flux, options, "flux-restore", "restored")

    def told(item: Item, builder: TreeBuilder) -> None:
        complaint = too_large(item, limit)
        if complaint:
            progress.note(complaint)
            return
        target = item.member.target
        name = f"{item.member.name} -> {target}" if target else item.member.name
        progress.key(name, builder.keys, f"restored {builder.keys} keys ({builder.blobs} blobs)")

    try:
        with explaining("error storing blob"):
            restored = restore_archive(file, client.store, size_limit=limit, progress=told)
    except ProtocolError as error:
        raise CommandError(str(error)) from None
    progress.end(f"restored {restored.keys} keys ({restored.blobs} blobs)")
    return restored


def _size(text: str) -> int:
    number = text.rstrip("kKMGTPE")
    unit = text[len(number) :]
    if not number.isdigit() or unit not in SIZE_UNITS:
        raise CommandError(f"Invalid argument for option 'size-limit': {text}")
    return int(number) << SIZE_UNITS[unit]


def _tell(options: Options, context: Context, restored: Restored, where: str) -> None:
    if not options.has("quiet"):
        short = restored.rootref[: restored.rootref.index("-") + 1 + _SHORT_DIGITS]
        context.log(f"writing snapshot {short} to {where}")


def _commit(flux: Flux, key: str, rootref: str) -> None:
    op = {"key": key, "flags": 0, "dirent": treeobj.dirref(rootref).json()}
    with explaining(f"error updating {key}"):
        flux.rpc("kvs.commit", {"namespace": Kvs(flux).namespace, "flags": 0, "ops": [op]}).get()


COMMANDS = (
    Command(
        "flux dump",
        dump,
        usage="[OPTIONS] OUTFILE",
        summary="Write the KVS to a tar archive",
        options=DUMP_OPTIONS,
    ),
    Command(
        "flux restore",
        restore,
        usage="[OPTIONS] INFILE",
        summary="Read a tar archive into the KVS",
        options=RESTORE_OPTIONS,
    ),
)

"""`flux dump`: the key-value store as a tar archive."""

from __future__ import annotations

import os
import sys
import time

from pytest_flux.cli.commands.archive_common import BlobClient, Progress, choose_checkpoint, root_of_kvs
from pytest_flux.cli.commands.command import Command, CommandError, Context
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.options import Options
    from pytest_flux.postmortem.archive import ArchiveWriter

OPTIONS = (
    Option("verbose", "v", usage="List keys on stderr as they are archived"),
    Option("quiet", "q", usage="Show no progress"),
    Option("checkpoint", usage="Dump the newest checkpoint"),
    Option("no-cache", usage="Go past the content cache"),
    Option("ignore-failed-read", usage="Leave out what cannot be loaded"),
    Option("sd-notify", usage="Tell systemd, by way of the broker, how far it is"),
    Option("maxreqs", argument="N", usage="Have at most N requests waiting (default 2)"),
)


def run(options: Options, context: Context) -> int:
    """Walk through the store and write what is there."""
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
        except FluxError as error:
            raise CommandError(error.text or os.strerror(error.errnum)) from None
        except ProtocolError as error:
            raise CommandError(str(error)) from None
        except OSError as error:
            if isinstance(error, BrokenPipeError):
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
                reason = f": {os.strerror(found.errnum)}" if found.errnum else ""
                raise FluxError(found.errnum, f"{name}: {found.problem}{reason}")
            written = writer.add(found)
        except FluxError as error:
            # What is damaged, in contrast to lost, is nothing that flux-core goes on after.
            if not error.errnum:
                raise CommandError(error.text or "") from None
            sys.stderr.write(f"{error.text}\n")
            if not options.has("ignore-failed-read"):
                raise SystemExit(1) from None
            continue
        if written:
            progress.key(name, writer.keys, f"archived {writer.keys} keys")


COMMAND = Command(
    "flux dump", run, usage="[OPTIONS] OUTFILE", summary="Write the KVS to a tar archive", options=OPTIONS
)

"""`flux restore`: a dump archive into the key-value store."""

from __future__ import annotations

import os
import sys

from pytest_flux.cli.commands.archive_common import BlobClient, Progress, is_kvs_running
from pytest_flux.cli.commands.command import Command, CommandError, Context
from pytest_flux.options import Option
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.errors import FluxError, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import IO

    from pytest_flux.client import Flux
    from pytest_flux.options import Options
    from pytest_flux.postmortem.archive import Item, Restored
    from pytest_flux.protocol.kvs_tree import TreeBuilder

OPTIONS = (
    Option("verbose", "v", usage="List keys on stderr as they are restored"),
    Option("quiet", "q", usage="Show no progress"),
    Option("checkpoint", usage="Have the KVS begin with it when it is loaded"),
    Option("key", argument="KEY", usage="Restore to a key of the KVS"),
    Option("no-cache", usage="Go past the content cache"),
    Option("size-limit", argument="SIZE", usage="Leave out values of more than SIZE bytes"),
    Option("maxreqs", argument="N", usage="Have at most N requests waiting (default 256)"),
    Option("sd-notify", usage="Tell systemd, by way of the broker, how far it is"),
)

_UNITS = {"": 0, "k": 10, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50, "E": 60}
_SHORT_DIGITS = 8


def run(options: Options, context: Context) -> int:
    """Store what the archive holds."""
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
            try:
                client.put_checkpoint(restored.rootref, 0, restored.timestamp)
            except FluxError as error:
                raise CommandError(f"error updating checkpoint: {_reason(error)}") from None
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
                context.log(f"error flushing content cache: {_reason(error)}")
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
        restored = restore_archive(file, client.store, size_limit=limit, progress=told)
    except ProtocolError as error:
        raise CommandError(str(error)) from None
    except FluxError as error:
        raise CommandError(f"error storing blob: {_reason(error)}") from None
    progress.end(f"restored {restored.keys} keys ({restored.blobs} blobs)")
    return restored


def _size(text: str) -> int:
    number = text.rstrip("kKMGTPE")
    unit = text[len(number) :]
    if not number.isdigit() or unit not in _UNITS:
        raise CommandError(f"Invalid argument for option 'size-limit': {text}")
    return int(number) << _UNITS[unit]


def _tell(options: Options, context: Context, restored: Restored, where: str) -> None:
    if not options.has("quiet"):
        short = restored.rootref[: restored.rootref.index("-") + 1 + _SHORT_DIGITS]
        context.log(f"writing snapshot {short} to {where}")


def _commit(flux: Flux, key: str, rootref: str) -> None:
    namespace = os.environ.get("FLUX_KVS_NAMESPACE") or "primary"
    op = {"key": key, "flags": 0, "dirent": treeobj.dirref(rootref).json()}
    try:
        flux.rpc("kvs.commit", {"namespace": namespace, "flags": 0, "ops": [op]}).get()
    except FluxError as error:
        raise CommandError(f"error updating {key}: {_reason(error)}") from None


def _reason(error: FluxError) -> str:
    return error.text or os.strerror(error.errnum)


COMMAND = Command(
    "flux restore", run, usage="[OPTIONS] INFILE", summary="Read a tar archive into the KVS", options=OPTIONS
)

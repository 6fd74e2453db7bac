"""`flux content`: load and store blobs by their hash."""

from __future__ import annotations

import errno
import os
import sys
import time

from pytest_flux.cli.command import Command, CommandError, Context, explaining, naming
from pytest_flux.cli.stdio import write
from pytest_flux.options import Option
from pytest_flux.protocol.blobref import decode_blobref, encode_blobref
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.json_value import compact
from pytest_flux.protocol.message import NODEID_ANY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pytest_flux.client import Flux
    from pytest_flux.options import Options


class BlobClient:
    """Loads and stores blobs. ``bypass`` asks the backing store of rank 0, not the caches in front of it."""

    def __init__(self, flux: Flux, *, bypass: bool) -> None:
        self.flux = flux
        self._service, self._nodeid = ("content-backing", 0) if bypass else ("content", NODEID_ANY)
        self._hash = "sha1"

    def load(self, ref: str) -> bytes:
        """Return a blob. Raises FluxError."""
        try:
            digest = decode_blobref(ref)
        except ProtocolError as error:
            raise FluxError(errno.EINVAL, str(error)) from None
        return self.flux.rpc(f"{self._service}.load", digest, nodeid=self._nodeid).get_bytes()

    def learn_hash(self) -> None:
        """Ask which hash the instance uses."""
        self._hash = self.flux.getattr("content.hash")

    def store(self, blob: bytes) -> str:
        """Store a blob, and return its reference. Raises FluxError."""
        digest = self.flux.rpc(f"{self._service}.store", blob, nodeid=self._nodeid).get_bytes()
        return encode_blobref(self._hash, digest)

    def checkpoints(self) -> list[Any]:
        """Return the checkpoints, newest first. Raises FluxError."""
        found = self.flux.rpc(f"{self._service}.checkpoint-get", nodeid=0).get().get("value")
        return found if isinstance(found, list) else [found]

    def put_checkpoint(self, ref: str, timestamp: float) -> None:
        """Let the KVS begin with this root when it is loaded next. Raises FluxError."""
        value = {"version": 1, "rootref": ref, "sequence": 0, "timestamp": timestamp}
        self.flux.rpc(f"{self._service}.checkpoint-put", {"value": value}, nodeid=0).get()


def choose_checkpoint(client: BlobClient) -> tuple[str, float]:
    """Return root and time of the newest checkpoint. Raises CommandError."""
    try:
        with explaining("error fetching checkpoints"):
            value = client.checkpoints()[0]
        return str(value["rootref"]), float(value.get("timestamp", 0))
    except (LookupError, TypeError, ValueError, AttributeError):
        raise CommandError(f"error fetching checkpoints: {os.strerror(errno.EPROTO)}") from None


def is_kvs_running(flux: Flux) -> bool:
    """Return whether a KVS runs. It would not notice changes that bypass it."""
    try:
        flux.rpc("kvs.getroot", {"namespace": "primary", "flags": 0}).get()
    except FluxError as error:
        return error.errnum != errno.ENOSYS
    return True


LOAD_OPTIONS = (Option("bypass-cache", "b", usage="Load from the backing store of rank 0"),)
STORE_OPTIONS = (
    Option("bypass-cache", "b", usage="Store in the backing store of rank 0"),
    Option("chunksize", argument="N", usage="Make blobs of at most N bytes; 0, the default, means one blob"),
)
LIST_OPTIONS = (
    Option("no-header", "n", usage="Print no line of headings"),
    Option("json", "j", usage="Print checkpoints as they are, in JSON"),
)


def load(options: Options, context: Context) -> int:
    """Write blobs to stdout, one after the other."""
    refs: Iterator[str] = iter(options.arguments)
    if not options.arguments:
        refs = (line.removesuffix("\n") for line in sys.stdin)
    count = 0
    with context.open() as flux:
        client = BlobClient(flux, bypass=options.has("bypass-cache"))
        for ref in refs:
            count += 1
            with naming("error loading blob"):
                write(client.load(ref))
    if not count:
        raise CommandError("no blobrefs were specified")
    return 0


def store(options: Options, context: Context) -> int:
    """Store stdin, print blobrefs."""
    size = options.integer("chunksize", 0)
    if options.arguments or size < 0:
        raise context.command.usage_error()
    with context.open() as flux:
        client = BlobClient(flux, bypass=options.has("bypass-cache"))
        client.learn_hash()
        data = sys.stdin.buffer.read()
        size = size or len(data) or 1
        for start in range(0, len(data) or 1, size):
            with naming("error storing blob"):
                ref = client.store(data[start : start + size])
            print(ref)
    return 0


def flush(options: Options, context: Context) -> int:
    """Write all blobs to disk."""
    return _call("content.flush", options, context)


def dropcache(options: Options, context: Context) -> int:
    """Drop blobs from memory that are on disk."""
    return _call("content.dropcache", options, context)


def _call(topic: str, options: Options, context: Context) -> int:
    if options.arguments:
        raise context.command.usage_error()
    with context.open() as flux, naming(topic):
        flux.rpc(topic).get()
    return 0


def list_checkpoints(options: Options, context: Context) -> int:
    """Print checkpoints of the KVS, the newest first."""
    if options.arguments:
        raise context.command.usage_error()
    with context.open() as flux:
        if not options.has("no-header") and not options.has("json"):
            print(f"{'Index':<10} {'Sequence':<10} {'Time':<20} Rootref", flush=True)
        with naming("kvs_checkpoint_lookup"):
            checkpoints = BlobClient(flux, bypass=False).checkpoints()
    for index, checkpoint in enumerate(checkpoints):
        try:
            print(_format(index, checkpoint, options))
        except (TypeError, KeyError, ValueError):
            raise CommandError(f"error parsing checkpoint: {os.strerror(errno.EPROTO)}") from None
    return 0


def _format(index: int, checkpoint: dict[str, Any], options: Options) -> str:
    if options.has("json"):
        return compact(checkpoint)
    # flux-core prints local time, too, with a Z behind it.
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.localtime(checkpoint.get("timestamp", 0)))
    return f"{index:<10} {checkpoint.get('sequence', 0):<10} {moment:<20} {checkpoint['rootref']}"


def update_checkpoint(options: Options, context: Context) -> int:
    """Let the KVS begin with another root next time."""
    if len(options.arguments) != 1:
        raise context.command.usage_error()
    ref = options.arguments[0]
    with context.open() as flux:
        if is_kvs_running(flux):
            raise CommandError("please unload kvs module before updating checkpoint")
        try:
            decode_blobref(ref)
        except ProtocolError:
            raise CommandError(f"invalid blobref specified: {os.strerror(errno.EINVAL)}") from None
        with naming("checkpoint update failed"):
            BlobClient(flux, bypass=True).put_checkpoint(ref, time.time())
    return 0


COMMANDS = (
    Command(
        "flux content",
        summary="Load and store blobs by their hash",
        subcommands=(
            Command(
                "flux content load",
                load,
                usage="[OPTIONS] BLOBREF ...",
                summary="Write blobs to stdout; blobrefs come from stdin if none is given",
                options=LOAD_OPTIONS,
            ),
            Command("flux content store", store, summary="Store stdin, print blobrefs", options=STORE_OPTIONS),
            Command("flux content dropcache", dropcache, summary="Drop from memory what is on disk"),
            Command("flux content flush", flush, summary="Have all blobs be on disk"),
            Command(
                "flux content checkpoint",
                summary="Look at the KVS's checkpoints",
                subcommands=(
                    Command(
                        "flux content checkpoint list",
                        list_checkpoints,
                        summary="List checkpoints, the newest first",
                        options=LIST_OPTIONS,
                    ),
                    Command(
                        "flux content checkpoint update",
                        update_checkpoint,
                        usage="[OPTIONS] blobref",
                        summary="Have the KVS begin with another root next time",
                    ),
                ),
            ),
        ),
    ),
)

"""What the subcommands of `flux kvs` share."""

from __future__ import annotations

import errno
import os
import sys

from pytest_flux.cli.commands.command import CommandError
from pytest_flux.client.kvs import Kvs
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from pytest_flux.client import Flux
    from pytest_flux.options import Options

NAMESPACE = Option("namespace", "N", "NS", usage="Use this namespace (default: FLUX_KVS_NAMESPACE, or primary)")
AT = Option("at", "a", "TREEOBJ", usage="Look in the snapshot of which this is the root")
RESULT = (
    Option("treeobj-root", "O", usage="Print the new root as RFC 11 object"),
    Option("blobref", "b", usage="Print the blobref of the new root"),
    Option("sequence", "s", usage="Print the sequence number of the new root"),
)


def open_kvs(flux: Flux, options: Options) -> Kvs:
    """The namespace that the options name."""
    return Kvs(flux, options.get("namespace"))


def snapshot(kvs: Kvs, options: Options, key: str) -> Kvs:
    """The same, as it was at what ``--at`` says. Raises CommandError, which names ``key``."""
    if not options.has("at"):
        return kvs
    import json

    try:
        return Kvs(kvs.flux, kvs.namespace, at=json.loads(options.get("at") or ""))
    except ValueError:
        raise CommandError(f"{key}: {os.strerror(errno.EINVAL)}") from None


def naming(what: str) -> AbstractContextManager[None]:
    """Report errors of the store as those of ``what``."""
    from contextlib import contextmanager

    @contextmanager
    def manager() -> Iterator[None]:
        try:
            yield
        except FluxError as error:
            raise CommandError(f"{what}: {os.strerror(error.errnum)}") from None
        except ProtocolError:
            raise CommandError(f"{what}: {os.strerror(errno.EPROTO)}") from None

    return manager()


def encode(text: str) -> bytes:
    """The bytes of a word of the command line, or of a key."""
    return text.encode("utf-8", "surrogateescape")


def write(data: bytes) -> None:
    """Bytes on stdout, at once."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def c_string(data: bytes) -> bytes:
    """What printf of a C program makes of a value: it ends at the first NUL."""
    return data.partition(b"\0")[0]


def window_width(options: Options) -> int:
    """Columns to write to; 0 for no limit. Raises OptionExit."""
    width = options.integer("width", -1)
    if width >= 0:
        return width
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        columns = os.environ.get("COLUMNS", "")
        return int(columns) if columns.isdigit() else 80

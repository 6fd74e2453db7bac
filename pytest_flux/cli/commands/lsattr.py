"""`flux lsattr`: list broker attributes."""

from __future__ import annotations

import os

from pytest_flux.cli.commands.command import Command, CommandError, Context
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client import Rpc
    from pytest_flux.options import Options

OPTIONS = (Option("values", "v", usage="With their values"),)


def run(options: Options, context: Context) -> int:
    """Print the names, sorted."""
    if options.arguments:
        raise context.command.usage_error()
    with context.open() as flux:
        try:
            names = flux.lsattr()
        except FluxError as error:
            raise CommandError(f"attr.list: {os.strerror(error.errnum)}") from None
        if not options.has("values"):
            print("\n".join(names))
            return 0
        # All at once: the answers cost one round trip together.
        for name, rpc in [(name, flux.rpc("attr.get", {"name": name})) for name in names]:
            print(f"{name:<40}{_value(rpc)}")
    return 0


def _value(rpc: Rpc) -> str:
    """The value, or a dash for an attribute that has none."""
    try:
        return str(rpc.get()["value"])
    except FluxError:
        return "-"


COMMAND = Command("flux lsattr", run, usage="[-v]", summary="List broker attributes", options=OPTIONS)

"""`flux getattr`: print a broker attribute."""

from __future__ import annotations

import os

from pytest_flux.cli.commands.command import Command, CommandError, Context
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.options import Options


def run(options: Options, context: Context) -> int:
    """Print the value of the attribute."""
    if len(options.arguments) != 1:
        raise context.command.usage_error()
    name = options.arguments[0]
    with context.open() as flux:
        try:
            print(flux.getattr(name))
        except FluxError as error:
            raise CommandError(f"{name}: {os.strerror(error.errnum)}") from None
    return 0


COMMAND = Command("flux getattr", run, usage="name", summary="Print a broker attribute")

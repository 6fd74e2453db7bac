"""`flux setattr`: set a broker attribute."""

from __future__ import annotations

from pytest_flux.cli.commands.command import Command, CommandError, Context, reason
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.options import Options

OPTIONS = (Option("force", "f", usage="Set it even if it is not meant to change at run time"),)


def run(options: Options, context: Context) -> int:
    """Set the attribute."""
    if len(options.arguments) != 2:
        raise context.command.usage_error()
    name, value = options.arguments
    with context.open() as flux:
        try:
            flux.setattr(name, value, force=options.has("force"))
        except FluxError as error:
            raise CommandError(f"{name}: {reason(error)}") from None
    return 0


COMMAND = Command("flux setattr", run, usage="name value", summary="Set a broker attribute", options=OPTIONS)

"""`flux relay`: the far end of an ssh connection to a broker."""

from __future__ import annotations

from pytest_flux.cli.commands.command import Command, CommandError, Context
from pytest_flux.client.connector import connect, relay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.options import Options


def run(options: Options, context: Context) -> int:
    """Connect stdin and stdout to the broker's socket."""
    if len(options.arguments) != 1:
        raise context.command.usage_error()
    path = options.arguments[0]
    try:
        broker = connect(path if "://" in path else f"local://{path}")
    except (OSError, ValueError) as error:
        raise CommandError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    relay([(0, broker.fileno()), (broker.fileno(), 1)])
    return 0


COMMAND = Command("flux relay", run, usage="[OPTIONS] path", summary="Relay messages between stdio and a broker")

"""`flux broker`: be one broker, as `flux start` asks for it."""

from __future__ import annotations

from pytest_flux.cli.commands.command import Command, Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.options import Options


def run(options: Options, context: Context) -> int:
    """Be it."""
    del context
    from pytest_flux.broker.main import main

    return main(options.arguments)


COMMAND = Command("flux-broker", run, takes_all=True)

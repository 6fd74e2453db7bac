"""`flux start`: start an instance. It is `flux-start`, with its options."""

from __future__ import annotations

from pytest_flux.cli.commands.command import Command, Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.options import Options


def run(options: Options, context: Context) -> int:
    """Start it."""
    del context
    from pytest_flux.cli.flux_start import main

    return main(options.arguments)


COMMAND = Command("flux-start", run, takes_all=True)

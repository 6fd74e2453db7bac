"""`flux pkill`: cancel the jobs that `flux pgrep` finds."""

from __future__ import annotations

from pytest_flux.cli.arguments import ArgumentCommand
from pytest_flux.cli.commands.pgrep import CHOICE, kill
from pytest_flux.options import Option

COMMAND = ArgumentCommand(
    "flux-pkill",
    kill,
    usage="[OPTIONS] EXPRESSION...",
    summary="Cancel jobs by name or range of ids",
    options=(*CHOICE, Option("wait", usage="Wait until they are over")),
)

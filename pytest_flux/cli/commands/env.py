"""`flux env`: the environment that commands run in."""

from __future__ import annotations

import os
import sys

from pytest_flux.cli.commands.command import Command, CommandError, Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.cli.options import Options


def run(options: Options, context: Context) -> int:
    """Print the variables that `flux` sets or reads, or become the command that is given."""
    del context
    if not options.arguments:
        names = sorted(name for name in os.environ if name == "PATH" or name.startswith("FLUX_"))
        sys.stdout.writelines(f'export {name}="{os.environ[name]}"\n' for name in names)
        return 0
    sys.stdout.flush()
    program = options.arguments[0]
    try:
        os.execvp(program, options.arguments)
    except OSError as error:
        raise CommandError(f"execvp ({program}): {error.strerror}") from None


COMMAND = Command(
    "flux env",
    run,
    usage="[OPTIONS...] [COMMAND...]",
    summary="Print the environment of commands, or run COMMAND in it",
    prefix="flux",
)

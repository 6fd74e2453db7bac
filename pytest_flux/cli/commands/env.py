"""`flux env`: the environment that commands run in."""

from __future__ import annotations

import os
import sys

from pytest_flux.cli.commands.command import Command, CommandError, Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.options import Options


def run(options: Options, context: Context) -> int:
    """Print the variables that `flux` sets or reads, or become the command that is given."""
    del context
    if not options.arguments:
        names = sorted(name for name in os.environ if name == "PATH" or name.startswith("FLUX_"))
        sys.stdout.writelines(f'export {name}="{os.environ[name]}"\n' for name in names)
        return 0
    program = options.arguments[0]
    raise CommandError(f"execvp ({program}): {become(program, options.arguments)}")


def become(program: str, words: list[str]) -> str:
    """Be another program, found by way of PATH if its name has no slash; why not, if that fails."""
    import signal

    sys.stdout.flush()
    # Python ignores it, and what is ignored stays so in the other program.
    previous = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvp(program, words)
    except OSError as error:
        signal.signal(signal.SIGPIPE, previous)
        return str(error.strerror)


COMMAND = Command(
    "flux env",
    run,
    usage="[OPTIONS...] [COMMAND...]",
    summary="Print the environment of commands, or run COMMAND in it",
    prefix="flux",
)

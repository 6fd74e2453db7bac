"""`flux env` and `flux python`, and the environment in which `flux` runs commands."""

from __future__ import annotations

import os
import sys

from pytest_flux import python_path
from pytest_flux.cli.command import Command, CommandError, Context
from pytest_flux.cli.commands.instance.attr import find_attribute

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.options import Options

_PATHS = ("PATH", "PYTHONPATH")


def env(options: Options, context: Context) -> int:
    """Print the variables that `flux` sets or reads, or execute the command that is given."""
    del context
    _add_python_path()
    if not options.arguments:
        names = sorted(name for name in os.environ if name in _PATHS or name.startswith("FLUX_"))
        sys.stdout.writelines(f'export {name}="{os.environ[name]}"\n' for name in names)
        return 0
    program = options.arguments[0]
    raise CommandError(f"execvp ({program}): {become(program, options.arguments)}")


def python(options: Options, context: Context) -> int:
    """Become the Python interpreter of the instance, with a PYTHONPATH on which it finds the package flux."""
    words = options.arguments
    if words[:1] == ["--help"]:
        # Python prints its own help at -h.
        sys.stdout.write(context.command.parser().help())
        return 0
    if words[:1] == ["--get-path"]:
        print(python_path.stand_in())
        return 0
    if words[:1] == ["--list-versions"]:
        sys.stdout.writelines(f"{name}\n" for name in _python_versions())
        return 0
    _add_python_path()
    program = os.environ.get("PYTEST_FLUX_PYTHON") or sys.executable
    raise CommandError(f"execvp ({program}): {become(program, [program, *words])}")


def _add_python_path() -> None:
    """Set PYTHONPATH as flux-core's commands do: FLUX_PYTHONPATH_PREPEND, the bindings, what was there."""
    places = [os.environ.get("FLUX_PYTHONPATH_PREPEND"), python_path.with_stand_in(os.environ)]
    parts = dict.fromkeys(part for place in places if place for part in place.split(os.pathsep))
    os.environ["PYTHONPATH"] = os.pathsep.join(parts)


def _python_versions() -> list[str]:
    """Return the names of the interpreters that stand beside the commands, as `python3.11` for `flux-python3.11`."""
    places = [place for place in os.environ.get("FLUX_EXEC_PATH", "").split(":") if os.path.isdir(place)]
    names = {name.removeprefix("flux-") for place in places for name in os.listdir(place)}
    return sorted(name for name in names if name.startswith("python") and name[6:7].isdigit())


def become(program: str, words: list[str]) -> str:
    """Execute a program, searched in PATH if its name has no slash. Return the reason if that fails."""
    import signal

    sys.stdout.flush()
    # Python ignores SIGPIPE, and the program would inherit that.
    previous = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvp(program, words)
    except OSError as error:
        signal.signal(signal.SIGPIPE, previous)
        return str(error.strerror)


def enter_parent(options: Options, context: Context) -> int:
    """Set FLUX_URI and FLUX_KVS_NAMESPACE to those of the parent instance, if there is one."""
    del options
    with context.open() as flux:
        uri = find_attribute(flux, "parent-uri")
        if uri is None:
            return 0
        namespace = find_attribute(flux, "parent-kvs-namespace")
    os.environ["FLUX_URI"] = uri
    os.environ.pop("FLUX_KVS_NAMESPACE", None)
    if namespace is not None:
        os.environ["FLUX_KVS_NAMESPACE"] = namespace
    return 0


def enter_root(options: Options, context: Context) -> int:
    """Set them to those of the outermost instance."""
    with context.open() as flux:
        level = flux.getattr("instance-level")
    if not level.isdecimal():
        raise CommandError(f"got invalid instance-level attribute: {level}")
    for _ in range(int(level)):
        enter_parent(options, context)
    return 0


COMMANDS = (
    Command(
        "flux env",
        env,
        usage="[OPTIONS...] [COMMAND...]",
        summary="Print the environment of commands, or run COMMAND in it",
        prefix="flux",
    ),
    Command("flux python", python, usage="[PYTHON ARGUMENTS...]", summary="Run Python", takes_all=True),
)

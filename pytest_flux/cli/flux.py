"""The `flux` command of embedded instances. It works with real instances as well."""

from __future__ import annotations

import os
import sys

from pytest_flux.cli.command import Command, run_command
from pytest_flux.cli.commands import LACKING, find_entry
from pytest_flux.cli.commands.help import FluxParser, similar_commands
from pytest_flux.options import OptionExit
from pytest_flux.protocol.fluid import wants_ascii, write_ascii

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from pytest_flux.options import Options

# These decide which programs are found, and which instance and namespace a command acts on.
_VARIABLES = ("PATH", "FLUX_URI", "FLUX_KVS_NAMESPACE", "FLUX_EXEC_PATH")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit code. Without ``argv``, act as the program, which ^C ends."""
    if argv is not None:
        return _dispatch(argv)
    write_ascii(wants_ascii(os.environ))
    _behave_as_program()
    try:
        status = _dispatch(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        _end_by_signal("SIGINT")
    except BrokenPipeError:
        # Nobody reads our output any more. Until here the signal is ignored: a broker that hangs up sends it, too.
        _end_by_signal("SIGPIPE")
    return status


def _dispatch(argv: Sequence[str]) -> int:
    try:
        options = FluxParser().parse(argv)
    except OptionExit as end:
        sys.stderr.write(end.text)
        return end.status
    if options.has("version"):
        return _run("version", [], verbose=False)
    if not options.arguments:
        sys.stderr.write(FluxParser().help())
        return 1
    status = _enter_instance(options)
    if status:
        return status
    if options.has("verbose"):
        sys.stdout.writelines(f"{name}={os.environ[name]}\n" for name in _VARIABLES if name in os.environ)
        sys.stdout.flush()
    return _run(options.arguments[0], options.arguments[1:], verbose=options.has("verbose"))


def _behave_as_program() -> None:
    """Write UTF-8 as a C program does, and put this `flux` into the PATH of the programs that it starts."""
    import io

    # Our connection to the broker would take the place of a standard descriptor that is closed.
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(spare)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
        elif stream is None:
            setattr(sys, name, io.TextIOWrapper(io.FileIO(os.devnull, "w")))
    if os.path.basename(sys.argv[0]) == "flux":
        os.environ["PATH"] = path_with(os.environ.get("PATH", os.defpath), os.path.dirname(sys.argv[0]))


def _end_by_signal(name: str) -> NoReturn:
    """End by a signal, as a C program without handlers does: shells look at it."""
    import signal

    signum = signal.Signals[name]
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    os._exit(128 + signum)


def path_with(path: str, directory: str) -> str:
    """Return ``path``, changed so that a search for `flux` finds the one in ``directory``."""
    places = path.split(os.pathsep)
    directory = os.path.realpath(directory)
    for index, place in enumerate(places):
        if os.path.realpath(place) == directory:
            return path
        if os.access(os.path.join(place, "flux"), os.X_OK):
            return os.pathsep.join((*places[:index], directory, *places[index:]))
    return os.pathsep.join((*places, directory))


def _enter_instance(options: Options) -> int:
    """Set FLUX_URI as --parent and --root say. Return an exit code, 0 if all is well."""
    levels = options.count("parent")
    if not levels and not options.has("root"):
        return 0
    from pytest_flux.cli.commands.instance.env import enter_parent, enter_root

    step = enter_root if options.has("root") else enter_parent
    for _ in range(1 if options.has("root") else levels):
        status = run_command(Command("flux", step), [])
        if status:
            return status
    return 0


def _run(name: str, arguments: Sequence[str], *, verbose: bool) -> int:
    entry = find_entry(name)
    if entry is not None:
        return run_command(entry.load(), arguments)
    if "/" in name:
        return _complain(f"{name}: {_execute(name, [name, *arguments], verbose)}")
    if name in LACKING:
        _try_next_flux(name, arguments, verbose)
        return _complain(
            f"`{name}' is a command of flux-core, which embedded instances do not have yet.",
            "Start the instance with a real broker (flux-start --broker=system) where flux-core is installed.",
        )
    for directory in _search_path():
        path = os.path.join(directory, f"flux-{name}")
        if os.access(path, os.X_OK):
            _execute(path, [name, *arguments], verbose)
    _try_next_flux(name, arguments, verbose)
    return _complain(f"`{name}' is not a flux command.  See 'flux --help'", *similar_commands(name))


def _execute(path: str, words: list[str], verbose: bool) -> str:
    """Execute a program. Return the reason if that fails."""
    from pytest_flux.cli.commands.instance.env import become

    if verbose:
        sys.stderr.write(f"flux: trying to exec {path}\n")
    return become(path, words)


def _try_next_flux(name: str, arguments: Sequence[str], verbose: bool) -> None:
    """Become the next `flux` on PATH that is not ours, if there is one: it has commands that we lack."""
    for place in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(place, "flux")
        try:
            with open(path, "rb") as file:
                # Ours are small programs that name their package.
                is_ours = b"pytest_flux" in file.read(4096)
        except OSError:
            continue
        if not is_ours and os.access(path, os.X_OK):
            _execute(path, ["flux", name, *arguments], verbose)


def _search_path() -> list[str]:
    """Return the directories where programs called flux-NAME count as commands."""
    variables = ("FLUX_EXEC_PATH_PREPEND", "FLUX_EXEC_PATH", "PATH")
    return [place for name in variables for place in os.environ.get(name, "").split(":") if place]


def _complain(*lines: str) -> int:
    sys.stderr.writelines(f"flux: {line}\n" for line in lines)
    return 1


if __name__ == "__main__":
    sys.exit(main())

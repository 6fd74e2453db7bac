"""Find the broker to run: that of an installed Flux, or the embedded one."""

from __future__ import annotations

import errno
import os

from pytest_flux.launcher.spec import LaunchError
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: The package's own broker. Its directory is the FLUX_EXEC_PATH of embedded instances.
EMBEDDED_BROKER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "libexec", "flux-broker")

#: The directory of an installed Flux's broker, below its prefix.
_SYSTEM_DIRECTORY = "/libexec/flux/cmd"

#: Seconds after which a `flux` command that does not answer is not taken for Flux's.
PATIENCE = 10.0
_MAX_ANSWER = 2**24


class Engine(NamedTuple):
    """A program that runs as broker: ``kind`` is ``system`` or ``embedded``, ``broker`` the path.

    ``environ`` has the changes to make in the environment of its processes: None removes a variable.
    """

    kind: str
    broker: str
    environ: dict[str, str | None]

    def apply(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the environment with the engine's changes."""
        merged = {**environ, **self.environ}
        return {name: value for name, value in merged.items() if value is not None}

    def prefix(self, environ: Mapping[str, str]) -> str:
        """The prefix of the installed Flux; '' if it is unknown or the engine is embedded."""
        if self.kind == "system":
            for directory in (os.path.dirname(self.broker), *_exec_path(self.apply(environ))):
                if directory.endswith(_SYSTEM_DIRECTORY):
                    return directory[: -len(_SYSTEM_DIRECTORY)]
        return ""


def find_engine(choice: str, environ: Mapping[str, str], rehearsal: bool = False) -> Engine:
    """Find the broker for ``auto``, ``system``, ``embedded``, or a path. Raises LaunchError.

    ``auto`` takes the first of: a broker in FLUX_EXEC_PATH_PREPEND or FLUX_EXEC_PATH, the broker of a
    ``flux`` on PATH, the embedded broker. ``system`` is the same, passing over the embedded one.

    In a ``rehearsal`` nothing is started afterwards: ``flux`` commands are asked for their environment only if their
    broker is not obvious, and the changes to the environment are incomplete.
    """
    if choice == "embedded":
        return _embedded()
    if choice not in ("auto", "system"):
        return _at_path(choice, environ, rehearsal)
    kinds = ("system",) if choice == "system" else ("system", "embedded")
    broker = _search(_exec_path(environ), kinds)
    if broker is not None:
        return _with_broker(broker, environ, rehearsal)
    for engine in _installed(_on_path(environ), environ, rehearsal):
        if engine.kind in kinds:
            return engine
    if choice == "system":
        raise LaunchError(_not_found(environ))
    return _embedded()


def installed_flux(environ: Mapping[str, str]) -> str | None:
    """The path of the first `flux` on PATH that is of an installed Flux; other programs have that name, too."""
    for command in _on_path(environ):
        if any(engine.kind == "system" for engine in _installed([command], environ, rehearsal=True)):
            return command
    return None


def _embedded() -> Engine:
    if not os.path.isfile(EMBEDDED_BROKER):
        raise LaunchError(f"embedded broker: {EMBEDDED_BROKER}: {os.strerror(errno.ENOENT)}")
    return Engine("embedded", EMBEDDED_BROKER, {})


def _at_path(path: str, environ: Mapping[str, str], rehearsal: bool) -> Engine:
    problem = 0
    try:
        os.stat(path)
    except OSError as error:
        problem = error.errno or errno.ENOENT
    else:
        if os.path.isdir(path):
            problem = errno.EISDIR
        elif not os.access(path, os.X_OK):
            problem = errno.EACCES
    if problem:
        reason = os.strerror(problem)
        raise LaunchError(f"--broker={path}: {reason} (auto, system, embedded or the path of a broker is expected)")
    return _with_broker(path if "/" in path else f"./{path}", environ, rehearsal)


def _with_broker(broker: str, environ: Mapping[str, str], rehearsal: bool) -> Engine:
    """The engine of a given broker, with the environment of an installed Flux if there is one."""
    kind = _kind(broker)
    # With a real broker in FLUX_EXEC_PATH, a `flux` command has started us and has set the other variables too.
    if kind == "embedded" or _search(_directories(environ, "FLUX_EXEC_PATH"), ("system",)) is not None:
        return Engine(kind, broker, {})
    directory, commands = os.path.dirname(broker), _on_path(environ)
    if directory.endswith(_SYSTEM_DIRECTORY):
        commands.insert(0, directory[: -len(_SYSTEM_DIRECTORY)] + "/bin/flux")
    for engine in _installed(commands, environ, rehearsal):
        if engine.kind == "system":
            return Engine(kind, broker, engine.environ)
    return Engine(kind, broker, {})


def _installed(commands: Iterable[str], environ: Mapping[str, str], rehearsal: bool) -> Iterator[Engine]:
    """The engines of the `flux` commands that are Flux's; other programs have that name too."""
    base = _without_embedded(environ)
    first_on_path = next(iter(_on_path(environ)), None)
    for command in commands:
        # Called by name, `flux start` leaves PATH alone; otherwise it changes PATH so that `flux` means itself.
        name = "flux" if command == first_on_path else command
        answer = (_guess_environment(command, base) if rehearsal else {}) or _ask_environment(command, name, base)
        broker = _search(_exec_path(answer), ("system", "embedded"))
        if broker is not None:
            changes: dict[str, str | None] = dict.fromkeys(environ.keys() - answer.keys())
            changes.update((name, value) for name, value in answer.items() if environ.get(name) != value)
            yield Engine(_kind(broker), broker, changes)


def _guess_environment(command: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Guess the environment of a `flux` command in the directory of an installation; {} if it is not in one."""
    prefix = os.path.dirname(os.path.dirname(os.path.realpath(command)))
    directory = prefix + _SYSTEM_DIRECTORY
    return {**environ, "FLUX_EXEC_PATH": directory} if _search([directory], ("system",)) else {}


def _ask_environment(command: str, name: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program run by ``command`` (called by ``name``); empty without a valid answer.

    Other programs are called `flux`, too: the answer of one that fails, hangs or does not stop writing is ignored. An
    installed Flux answers within milliseconds.
    """
    # A subcommand with a slash is executed as a program, in exactly the environment that `flux start` would have
    # (`flux env` would add PYTHONPATH). Importing subprocess would take longer than the command. start_program of the
    # reactor is not used: it changes the descriptors of this process, which may be pytest's.
    reader, writer = os.pipe()
    try:
        pid = os.posix_spawn(
            command,
            [name, "/usr/bin/env", "-0"],
            environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, writer, 1),
                (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
            ],
        )
    except OSError:
        os.close(reader)
        return {}
    finally:
        os.close(writer)
    try:
        answer = _read_all(reader)
    finally:
        os.close(reader)
        # It has exited, or is another program that hangs. The answer counts, not the exit status.
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    if not answer.endswith(b"\0"):
        return {}
    entries = (os.fsdecode(entry).partition("=") for entry in answer[:-1].split(b"\0"))
    return {name: value for name, equals, value in entries if equals}


def _read_all(reader: int) -> bytes:
    """Read up to end of file; nothing if that takes too long or is too much."""
    import select
    import time

    poll = select.poll()
    poll.register(reader, select.POLLIN)
    deadline = time.monotonic() + PATIENCE
    answer = bytearray()
    while len(answer) <= _MAX_ANSWER and poll.poll(max(0, deadline - time.monotonic()) * 1000):
        piece = os.read(reader, 65536)
        if not piece:
            return bytes(answer)
        answer += piece
    return b""


def _search(directories: Iterable[str], kinds: tuple[str, ...]) -> str | None:
    """The first executable ``flux-broker``, named as Flux names it: ``./flux-broker`` in directory ``.``."""
    for directory in directories:
        path = f"{directory}/flux-broker"
        if os.access(path, os.X_OK) and os.path.isfile(path) and _kind(path) in kinds:
            return path
    return None


def _kind(broker: str) -> str:
    try:
        return "embedded" if os.path.samefile(broker, EMBEDDED_BROKER) else "system"
    except OSError:
        return "system"


def _directories(environ: Mapping[str, str], name: str) -> list[str]:
    return [directory for directory in environ.get(name, "").split(":") if directory]


def _exec_path(environ: Mapping[str, str]) -> list[str]:
    return _directories(environ, "FLUX_EXEC_PATH_PREPEND") + _directories(environ, "FLUX_EXEC_PATH")


def _on_path(environ: Mapping[str, str]) -> list[str]:
    """Every executable ``flux`` on PATH, in order."""
    commands = [f"{directory}/flux" for directory in _directories({"PATH": os.defpath, **environ}, "PATH")]
    return [command for command in commands if os.access(command, os.X_OK) and os.path.isfile(command)]


def _without_embedded(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without our own directory in Flux's search path, as an installed Flux should see it."""
    cleaned = dict(environ)
    for name in ("FLUX_EXEC_PATH_PREPEND", "FLUX_EXEC_PATH"):
        kept = [directory for directory in _directories(environ, name) if _search([directory], ("embedded",)) is None]
        if name in cleaned:
            cleaned[name] = ":".join(kept)
    return cleaned


def _not_found(environ: Mapping[str, str]) -> str:
    names = ("FLUX_EXEC_PATH_PREPEND", "FLUX_EXEC_PATH")
    places = [f"{name} ({environ.get(name, 'not set')})" for name in names]
    commands = _on_path(environ)
    place = f"what {', '.join(commands)} says of it" if commands else "a flux command on PATH: there is none"
    return f"Could not locate broker in {', '.join(places)} or by {place}"

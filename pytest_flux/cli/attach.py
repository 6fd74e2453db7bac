"""`flux-start --attach`: run a shell or a command inside an instance that runs already."""

from __future__ import annotations

import os
import tempfile

from pytest_flux.client.environment import ask_environment
from pytest_flux.client.handle import Flux
from pytest_flux.client.uri import resolve
from pytest_flux.launcher.spec import LaunchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import NoReturn

_PATIENCE = 10.0
# What a program needs beside FLUX_*; the rest of the environment stays the user's.
_PATHS = ("PATH", "PYTHONPATH", "MANPATH", "LUA_PATH", "LUA_CPATH", "LD_LIBRARY_PATH")


def attach(target: str, command: Sequence[str]) -> NoReturn:
    """Execute a command, or the user's shell, inside the instance that ``target`` names. Raises LaunchError."""
    try:
        uri = find_instance(target)
        with Flux(uri) as flux:
            inside = ask_environment(flux, _PATIENCE)
    except (OSError, ValueError) as error:
        raise LaunchError(f"--attach={target}: {getattr(error, 'strerror', None) or error}") from None
    chosen = {name: value for name, value in inside.items() if name.startswith("FLUX_") or name in _PATHS}
    environ = {**os.environ, **chosen, "FLUX_URI": uri}
    argv = list(command) or [os.environ.get("SHELL") or "/bin/sh"]
    try:
        os.execvpe(argv[0], argv, environ)
    except OSError as error:
        raise LaunchError(f"{argv[0]}: {error.strerror}") from None


def find_instance(target: str) -> str:
    """The URI of an instance, from a URI, a process id or ``last``. Raises ValueError, OSError."""
    if target == "last":
        return _newest()
    if target.isdecimal():
        return _of_process(int(target))
    return resolve(target)


def _newest() -> str:
    """The instance of this user that was started last and still answers."""
    for path in sorted(_sockets(), key=os.path.getmtime, reverse=True):
        uri = f"local://{path}"
        try:
            with Flux(uri) as flux:
                flux.rpc("attr.get", {"name": "size"}).get(_PATIENCE)
        except OSError:
            continue
        return uri
    raise ValueError("no instance of yours runs here")


def _sockets() -> Iterator[str]:
    for directory in sorted({tempfile.gettempdir(), "/tmp"}):
        with os.scandir(directory) as entries:
            names = [entry.path for entry in entries if entry.name.startswith("flux-") and entry.is_dir()]
        for name in names:
            path = f"{name}/local-0"
            if os.path.exists(path) and os.stat(path).st_uid == os.getuid():
                yield path


def _of_process(pid: int) -> str:
    """The instance of a broker, of a program that has started one, or of a program in it."""
    import psutil

    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        raise ValueError("there is no such process") from None
    for member in family:
        try:
            # A forked broker shows the environment of what it was forked from, but not another's sockets.
            ask = member.net_connections if hasattr(member, "net_connections") else member.connections
            for connection in ask("unix") if "broker" in member.name() else ():
                if str(connection.laddr).endswith("/local-0"):
                    return f"local://{connection.laddr}"
        except (psutil.Error, OSError):
            continue
    return resolve(f"pid:{pid}")

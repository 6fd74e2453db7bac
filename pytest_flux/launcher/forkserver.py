"""A process that forks sessions: it has imported launcher and embedded broker, so that each costs a fork.

It is started when it is first needed, once per process, and ends with the process that started it, or when that
closes it. It holds nothing of the sessions: they go on if it is killed, and another one takes its place.
"""

from __future__ import annotations

import marshal
import os
import socket
import sys
from collections.abc import Mapping

from pytest_flux.launcher.spec import LaunchError, LaunchSpec

# The interpreter takes this very package, wherever it is, and all else from its own places first: among ours may be
# directories of tests, and a json.py there is none of our business.
_PROGRAM = """\
import sys
if not getattr(sys.flags, "safe_path", False):
    del sys.path[0]
sys.path += [place for place in {path!r} if place not in sys.path]
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("pytest_flux", {package!r} + "/__init__.py", submodule_search_locations=[{package!r}])
sys.modules["pytest_flux"] = package = module_from_spec(spec)
spec.loader.exec_module(package)
from pytest_flux.launcher.forking import serve
serve({fd}, {guardian})
"""
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LENGTH = 4
"""Bytes of the lengths and process ids that go back and forth."""


class ForkServer:
    """The server as its user sees it. Started on creation; it imports while the user goes on."""

    def __init__(self) -> None:
        import subprocess

        self._socket, theirs = socket.socketpair()
        program = _PROGRAM.format(
            path=[place for place in sys.path if os.path.isabs(place)],
            package=_PACKAGE,
            fd=theirs.fileno(),
            guardian=_guardian,
        )
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # Ours may have been removed, which Python 3.13 cannot import anything in; sessions go to theirs.
                cwd="/",
                # Signals that a terminal sends to its foreground group are not meant for instances.
                start_new_session=True,
            )
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()

    def start(self, spec: LaunchSpec, environ: Mapping[str, str], output: int, status: int, lifeline: int) -> int:
        """Start a session; the process id of its front. ``lifeline`` may be -1. Raises LaunchError."""
        descriptors = [output, status, *([lifeline] if lifeline >= 0 else [])]
        request = marshal.dumps((tuple(spec), dict(environ), _working_directory()))
        try:
            socket.send_fds(self._socket, [len(request).to_bytes(LENGTH, "big")], descriptors)
            self._socket.sendall(request)
            answer = receive(self._socket, LENGTH)
        except OSError as error:
            raise LaunchError(f"fork server: {error.strerror}") from None
        if len(answer) < LENGTH:
            raise LaunchError("fork server: it has ended")
        return int.from_bytes(answer, "big")

    @property
    def is_running(self) -> bool:
        """Whether it takes requests."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the server, and wait for that. Sessions are not affected."""
        self._socket.close()
        self._process.wait()

    def forget(self) -> None:
        """Close our end of it, in a process that is not the one which started the server."""
        self._socket.close()
        self._process.returncode = 0


def _working_directory() -> str:
    """Where we are; the root, if that place has been removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


_servers: list[ForkServer] = []
_kept = False
_guardian = 0


def current() -> ForkServer:
    """The server of this process, started if there is none that runs."""
    if not _servers or not _servers[0].is_running:
        while _servers:
            _servers.pop().close()
        _servers.append(ForkServer())
    return _servers[0]


def guard(pid: int) -> None:
    """Have sessions end with another process, too: the one that has started this one. Linux only."""
    global _guardian  # noqa: PLW0603 - for the process, as the server is
    _guardian = pid


def keep() -> None:
    """Have the server live until :func:`close`, however many sessions end meanwhile."""
    global _kept  # noqa: PLW0603 - one for the process, as the server is
    _kept = True


def close_unless_kept() -> None:
    """End the server when its last session has been stopped, unless more are expected."""
    if not _kept:
        close()


def close() -> None:
    """End the server of this process, if there is one."""
    global _kept  # noqa: PLW0603 - as above
    _kept = False
    while _servers:
        _servers.pop().close()


def _forget() -> None:
    while _servers:
        _servers.pop().forget()


os.register_at_fork(after_in_child=_forget)


def receive(connection: socket.socket, size: int) -> bytes:
    """``size`` bytes; fewer at the end."""
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            break
        data += chunk
    return data

"""A process that forks sessions: it has imported launcher and embedded broker, so that each costs a fork.

It is started when it is first needed, once per process, and ends with the process that started it, or when that
closes it. It holds nothing of the sessions: they go on if it is killed, and another one takes its place.
"""

from __future__ import annotations

import array
import marshal
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping
from typing import NoReturn

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
from pytest_flux.launcher.forkserver import serve
serve({fd}, {guardian})
"""
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_LENGTH = 4
_MAX_DESCRIPTORS = 3
# What a session imports when it comes to it.
_MODULES = (
    "pytest_flux.broker.main",
    "pytest_flux.launcher.control",
    "pytest_flux.launcher.pmi_server",
    "pytest_flux.launcher.session",
    "pytest_flux.launcher.supervisor",
)


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
        request = marshal.dumps((tuple(spec), dict(environ), os.getcwd()))
        try:
            socket.send_fds(self._socket, [len(request).to_bytes(_LENGTH, "big")], descriptors)
            self._socket.sendall(request)
            answer = _receive(self._socket, _LENGTH)
        except OSError as error:
            raise LaunchError(f"fork server: {error.strerror}") from None
        if len(answer) < _LENGTH:
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


def serve(descriptor: int, guardian: int) -> NoReturn:
    """Be a server: take requests from a socket until it ends. If process ``guardian`` ends, so do the sessions."""
    from pytest_flux.launcher.spawn import name_process

    name_process("flux-forkserver")
    connection = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    signal.signal(signal.SIGCHLD, _reap)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _preload()
    watch = _watch(descriptor, guardian)
    while True:
        if all(ready != descriptor for ready, _ in watch.poll()):
            _end_sessions()
        try:
            header, descriptors = _receive_header(connection)
            request = _receive(connection, int.from_bytes(header, "big"))
        except OSError:
            request = b""
        if not request:
            os._exit(0)
        # A session collects its own children: ours must not be told of one.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            connection.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGCHLD,))
        if pid == 0:
            _run(*marshal.loads(request), *descriptors)
        _sessions.add(pid)
        for each in descriptors:
            os.close(each)
        try:
            connection.sendall(pid.to_bytes(_LENGTH, "big"))
        except OSError:
            os._exit(0)


_sessions: set[int] = set()


def _watch(descriptor: int, guardian: int) -> select.poll:
    watch = select.poll()
    watch.register(descriptor, select.POLLIN)
    if guardian and hasattr(os, "pidfd_open"):
        try:
            watch.register(os.pidfd_open(guardian), select.POLLIN)
        except ProcessLookupError:
            os._exit(0)
    return watch


def _end_sessions() -> NoReturn:
    """Kill the fronts; their supervisors then take everything down."""
    for pid in list(_sessions):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    os._exit(0)


def _reap(signum: int, frame: object) -> None:
    try:
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            _sessions.discard(pid)
    except ChildProcessError:
        return


def _preload() -> None:
    """Import what sessions and their brokers will use, and have it shared by all of them."""
    import ctypes
    import gc
    from importlib import import_module

    from pytest_flux.broker import defaults

    services = {path.partition(":")[0] for path in defaults.services(0).values()}
    for module in (*_MODULES, *sorted(services)):
        try:
            import_module(module)
        except ImportError:
            # Whoever needs it will say so where it can be heard.
            continue
    ctypes.CDLL(None)
    gc.collect()
    gc.freeze()


def _run(
    fields: tuple[object, ...],
    environ: dict[str, str],
    directory: str,
    output: int,
    status: int,
    lifeline: int | None = None,
) -> NoReturn:
    """Be the front of a session. Tells ``status`` why there is none, and the exit code."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        os.environ.clear()
        os.environ.update(environ)
        os.chdir(directory)
        code = _run_session(LaunchSpec(*fields), lifeline, status)  # type: ignore[arg-type]
    except BaseException:  # noqa: BLE001 - the frames above are the server's
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        try:
            os.write(status, b"exit %d\n" % code)
        finally:
            os._exit(code & 0xFF)


def _run_session(spec: LaunchSpec, lifeline: int | None, status: int) -> int:
    from pytest_flux.launcher.engine import find_engine
    from pytest_flux.launcher.report import report
    from pytest_flux.launcher.session import run_session
    from pytest_flux.launcher.spec import validate

    try:
        validate(spec)
        engine = find_engine(spec.broker, os.environ)
    except LaunchError as error:
        report(str(error))
        os.write(status, os.fsencode(f"problem {error}\n"))
        return 1
    return run_session(spec, engine, lifeline=lifeline, status=status)


def _receive_header(connection: socket.socket) -> tuple[bytes, list[int]]:
    descriptors = array.array("i")
    size = socket.CMSG_SPACE(_MAX_DESCRIPTORS * descriptors.itemsize)
    header, ancillary, _, _ = connection.recvmsg(_LENGTH, size)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return header, list(descriptors)


def _receive(connection: socket.socket, size: int) -> bytes:
    """``size`` bytes; fewer at the end."""
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            break
        data += chunk
    return data

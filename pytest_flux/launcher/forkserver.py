"""A process that forks sessions: the *fork server*. It has imported launcher and embedded broker.

The problem: a test wants its instance at once, and an instance of four brokers is six processes. Starting a Python
interpreter for each, and importing a broker, takes longer than the boot of the instance.

Three ways were open. Forking from pytest itself is fastest, but copies all that tests have loaded: locks of threads
that do not survive a fork, descriptors, gigabytes of arrays. Starting `flux-start` for each instance is safe and
slow. `multiprocessing` has a fork server, but it imports far more than ours, and its children report to it. So we
have a small server: pytest sends a launch spec, an environment and descriptors over a socket (`ForkServer.start`),
and the server forks the front of a session (`_run`), the same that `flux-start` would be.

What must stay true:

* The server has one thread, and is single: it is started on first use, once for each process that needs it.
* It knows nothing about running sessions. If it is killed, they go on, and the next call starts another server. It
  ends when its socket does, thus with the process that has started it, however that ends.
* Sessions do not depend on it either: a session ends when its lifeline does, a pipe that its user holds. Only if the
  server is told a guardian, the controller of pytest-xdist, it kills the fronts when that process ends.
* Its imports are complete before the first fork, and `gc.freeze` keeps the collector from writing to their pages, so
  all brokers share them. A module that is imported later costs each broker its own copy.
* It takes this package from where we have it, and everything else from the standard places first: the current
  directory of tests may contain a ``json.py``.
* A forked child closes its copy of the socket (`_forget`), or the server would never see the end.
"""

from __future__ import annotations

import marshal
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping

from pytest_flux.launcher.spec import LaunchError, LaunchSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

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
"""Bytes of a length or a process id in a message."""

_MAX_DESCRIPTORS = 3
# What a session imports when it needs it.
_MODULES = (
    "pytest_flux.broker.main",
    "pytest_flux.launcher.control",
    "pytest_flux.launcher.descendants",
    "pytest_flux.launcher.pmi_server",
    "pytest_flux.launcher.session",
    "pytest_flux.launcher.supervisor",
)


class ForkServer:
    """The user's side of a server. It is started on creation, and imports while the user goes on."""

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
                # Python 3.13 cannot import in a removed directory, and ours may be. Sessions change to their own.
                cwd="/",
                # Instances must not get the signals that a terminal sends to its foreground group.
                start_new_session=True,
            )
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()

    def start(self, spec: LaunchSpec, environ: Mapping[str, str], output: int, status: int, lifeline: int) -> int:
        """Start a session and return the process id of its front. ``lifeline`` may be -1. Raises LaunchError."""
        descriptors = [output, status, *([lifeline] if lifeline >= 0 else [])]
        request = marshal.dumps((tuple(spec), dict(environ), _working_directory()))
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
        """Whether it accepts requests."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the server and wait for its exit. Sessions go on."""
        self._socket.close()
        self._process.wait()

    def forget(self) -> None:
        """Close our copy of the socket, in a child of the process that has started the server."""
        self._socket.close()
        self._process.returncode = 0


def _working_directory() -> str:
    """The working directory; the root if it has been removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


_servers: list[ForkServer] = []
_kept = False
_guardian = 0


def current() -> ForkServer:
    """The server of this process; start it if it does not run."""
    if not _servers or not _servers[0].is_running:
        while _servers:
            _servers.pop().close()
        _servers.append(ForkServer())
    return _servers[0]


def guard(pid: int) -> None:
    """Make sessions end with another process too, the one that has started this one. Linux only."""
    global _guardian  # noqa: PLW0603 - for the process, as the server is
    _guardian = pid


def keep() -> None:
    """Keep the server until :func:`close`, even while no session runs."""
    global _kept  # noqa: PLW0603 - one for the process, as the server is
    _kept = True


def close_unless_kept() -> None:
    """End the server after its last session has been stopped, unless :func:`keep` was called."""
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


# The server's side


def serve(descriptor: int, guardian: int) -> NoReturn:
    """Serve requests from a socket until it ends. If process ``guardian`` ends, kill the sessions."""
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
            header, descriptors, _, _ = socket.recv_fds(connection, _LENGTH, _MAX_DESCRIPTORS)
            request = _receive(connection, int.from_bytes(header, "big"))
        except OSError:
            request = b""
        if not request:
            os._exit(0)
        # The child must not run our handler of SIGCHLD, which would collect the session's children.
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
    """Kill the fronts. Their supervisors then kill everything else."""
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
    """Import what sessions and brokers use, so that all of them share it."""
    import ctypes
    import gc
    from importlib import import_module

    from pytest_flux.broker.parts import preload

    try:
        for module in _MODULES:
            import_module(module)
        preload()
    except ImportError:
        # The session that needs it will report the error.
        pass
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
    """Be the front of a session. Write to ``status`` why it did not start, if so, and the exit code."""
    from pytest_flux.launcher.descendants import wake_with_parent

    code = 1
    try:
        os.setsid()
        # The server ends with pytest, which may be a moment at which the supervisor is stopped (see session.py).
        wake_with_parent()
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


def _receive(connection: socket.socket, size: int) -> bytes:
    """Receive ``size`` bytes; fewer at the end of the stream."""
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            break
        data += chunk
    return data

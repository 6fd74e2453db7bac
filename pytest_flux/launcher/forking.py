"""The inside of the fork server: a loop that turns requests into the fronts of sessions."""

from __future__ import annotations

import array
import marshal
import os
import select
import signal
import socket
import sys
from typing import NoReturn

from pytest_flux.launcher.forkserver import LENGTH, receive
from pytest_flux.launcher.spec import LaunchError, LaunchSpec

_MAX_DESCRIPTORS = 3
# What a session imports when it comes to it.
_MODULES = (
    "pytest_flux.broker.main",
    "pytest_flux.launcher.control",
    "pytest_flux.launcher.pmi_server",
    "pytest_flux.launcher.session",
    "pytest_flux.launcher.supervisor",
)


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
            request = receive(connection, int.from_bytes(header, "big"))
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
            connection.sendall(pid.to_bytes(LENGTH, "big"))
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

    from pytest_flux.broker.parts import preload

    try:
        for module in _MODULES:
            import_module(module)
        preload()
    except ImportError:
        # Whoever needs it will say so where it can be heard.
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
    header, ancillary, _, _ = connection.recvmsg(LENGTH, size)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return header, list(descriptors)

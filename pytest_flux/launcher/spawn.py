"""Starting broker processes: with signals, descriptors and limits as the user had them, in the user's process group.

The supervisor that starts them has changed all of that for itself.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping

from pytest_flux.launcher.engine import Engine
from pytest_flux.launcher.spec import LaunchError

BrokerMain = Callable[[list[str]], int]

# Descriptors that a supervisor needs beside those of brokers: control clients, a database being looked at, ...
_SPARE_FILES = 64
# SIGKILL and SIGSTOP cannot be set, and Python tells which other numbers a system does not let one touch.
_SETTABLE = tuple(sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))
# A Python program starts with these ignored, and counts on EPIPE and EFBIG instead.
_PYTHON_IGNORES = frozenset((signal.SIGPIPE, signal.SIGXFSZ))


class Spawner:
    """Starts brokers of one engine. Raises LaunchError if there cannot be ``size`` of them.

    ``group`` is the process group that they join; 0, which is what a process sees of a group outside of its
    container, means ours.
    """

    def __init__(self, engine: Engine, size: int, group: int, *, wrap: bool) -> None:
        self._group = group
        self._limits = _raise_open_files(size)
        self._main: BrokerMain | None = None
        _close_on_exec()
        if engine.kind == "embedded" and not wrap:
            # Imported once, here, for all brokers. They are forked with what they need in memory that they share.
            from pytest_flux.broker.main import main

            self._main = main
            gc.collect()
            gc.freeze()

    def spawn(self, rank: int, argv: list[str], environ: Mapping[str, str], channel: int) -> int:
        """Start the broker of a rank, which inherits the descriptor ``channel`` as its PMI_FD; returns its pid.

        Raises LaunchError, which names path and reason, if it cannot be executed.
        """
        environ = {**environ, "PMI_FD": str(channel)}
        if self._main is not None:
            return self._fork(rank, self._main, argv, environ, channel)
        os.set_inheritable(channel, True)
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits.original)
        try:
            if not self._group:
                return os.posix_spawnp(argv[0], argv, environ, setsigmask=(), setsigdef=_SETTABLE)
            return os.posix_spawnp(argv[0], argv, environ, setpgroup=self._group, setsigmask=(), setsigdef=_SETTABLE)
        except OSError as error:
            raise LaunchError(_describe(argv[0], error)) from None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._limits.raised)

    def _fork(self, rank: int, main: BrokerMain, argv: list[str], environ: dict[str, str], channel: int) -> int:
        _flush()
        # A signal that arrives before the child is itself must find neither the parent's handlers nor its mask.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            raise LaunchError(f"cannot fork broker {rank}: {error.strerror}") from None
        if pid == 0:
            self._become(rank, main, argv, environ, channel)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid

    def _become(self, rank: int, main: BrokerMain, argv: list[str], environ: dict[str, str], channel: int) -> None:
        status = 1
        try:
            if self._group:
                os.setpgid(0, self._group)
            name_process(f"flux-broker-{rank}")
            _close_descriptors(channel)
            _reset_signals()
            resource.setrlimit(resource.RLIMIT_NOFILE, self._limits.original)
            os.environ.clear()
            os.environ.update(environ)
            status = main(argv[1:])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:  # noqa: BLE001 - the frames above are the supervisor's
            import traceback

            traceback.print_exc()
        finally:
            # Never further up: those frames, and what they would clean up, are the supervisor's.
            try:
                _flush()
            finally:
                os._exit(status & 0xFF)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


class _Limits:
    """RLIMIT_NOFILE as it was and as it is."""

    __slots__ = ("original", "raised")

    def __init__(self, original: tuple[int, int], raised: tuple[int, int]) -> None:
        self.original = original
        self.raised = raised


def _raise_open_files(size: int) -> _Limits:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = size + _SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return _Limits((soft, hard), (soft, hard))
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise LaunchError(f"{size} brokers need {needed} open files, and the limit is {hard}: raise it (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return _Limits((soft, hard), (needed, hard))


def _open_descriptors() -> list[int]:
    # Both on Linux and on macOS. One that comes with the listing is closed again by the time it is returned.
    return [int(name) for name in os.listdir("/dev/fd")]


def _close_on_exec() -> None:
    """Brokers get standard input, output and error and their PMI_FD, and nothing else (as flux-start's do)."""
    for descriptor in _open_descriptors():
        if descriptor > 2:
            try:
                os.set_inheritable(descriptor, False)
            except OSError:
                continue


def _close_descriptors(kept: int) -> None:
    for descriptor in _open_descriptors():
        if descriptor > 2 and descriptor != kept:
            try:
                os.close(descriptor)
            except OSError:
                continue


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in _SETTABLE:
        action = signal.SIG_IGN if number in _PYTHON_IGNORES else signal.SIG_DFL
        if signal.getsignal(number) != action:
            signal.signal(number, action)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def name_process(name: str) -> None:
    """Show ``name`` in process listings, where the system lets a process choose."""
    try:
        with open("/proc/self/comm", "w") as file:
            file.write(name)
    except OSError:
        return


def _describe(path: str, error: OSError) -> str:
    """Why a program cannot be executed; the kernel's ENOENT may be about its interpreter."""
    if error.errno == errno.ENOENT and "/" in path:
        try:
            with open(path, "rb") as file:
                first = file.readline(256)
        except OSError:
            first = b""
        if first.startswith(b"#!"):
            interpreter = os.fsdecode(first[2:].strip().split(b" ")[0])
            return f"{path}: cannot execute its interpreter {interpreter}: {os.strerror(errno.ENOENT)}"
        if first:
            return f"{path}: cannot execute: its dynamic loader is missing"
    return f"{path}: {error.strerror}"

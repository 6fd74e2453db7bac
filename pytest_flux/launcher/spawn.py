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
from collections.abc import Callable, Mapping, Sequence

from pytest_flux.launcher.engine import Engine
from pytest_flux.launcher.spec import PROCESS_LIMITS, LaunchError
from pytest_flux.reactor.descriptors import keep_to_ourselves, open_descriptors

BrokerMain = Callable[[list[str]], int]

# Descriptors that a supervisor needs beside those of brokers: control clients, a database being looked at, ...
_SPARE_FILES = 64
# SIGKILL and SIGSTOP cannot be set, and Python tells which other numbers a system does not let one touch.
_SETTABLE = tuple(sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))
# A Python program starts with these ignored, and counts on EPIPE and EFBIG instead.
_PYTHON_IGNORES = frozenset((signal.SIGPIPE, signal.SIGXFSZ))


class Launch:
    """A broker to start: its command line, its environment, and the descriptor that it inherits as its PMI_FD.

    ``pid`` is -1 until it has been started.
    """

    __slots__ = ("argv", "channel", "environ", "pid", "rank")

    def __init__(self, rank: int, argv: list[str], environ: Mapping[str, str], channel: int) -> None:
        self.rank = rank
        self.argv = argv
        self.environ = {**environ, "PMI_FD": str(channel)}
        self.channel = channel
        self.pid = -1


class Spawner:
    """Starts brokers of one engine. Raises LaunchError if there cannot be ``size`` of them.

    ``rundir`` is the run directory of the session. ``group`` is the process group that brokers join; 0, which is
    what a process sees of a group outside of its container, means ours.
    """

    def __init__(self, engine: Engine, size: int, rundir: str, group: int, *, wrap: bool) -> None:
        self._group = group
        self._limits = _raise_open_files(size)
        self._main: BrokerMain | None = None
        keep_to_ourselves()
        if engine.kind == "embedded" and not wrap:
            # Imported once, here, for all brokers. They are forked with what they need in memory that they share.
            from pytest_flux.broker.main import main, prepare

            prepare(size, rundir)
            self._main = main
            # No collection before: it would leave holes, and what brokers put there goes to pages of their own.
            gc.freeze()

    def spawn(self, launches: Sequence[Launch]) -> None:
        """Start brokers in order. Raises LaunchError, which names path and reason, at one that cannot be executed."""
        if self._main is not None:
            self._fork(launches, self._main)
        else:
            for launch in launches:
                launch.pid = self._execute(launch.argv, launch.environ, launch.channel)

    def _execute(self, argv: list[str], environ: dict[str, str], channel: int) -> int:
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

    def _fork(self, launches: Sequence[Launch], main: BrokerMain) -> None:
        """Fork brokers with nothing in between: pages written then are pages that the brokers do not share."""
        _flush()
        signals = _changed_signals()
        descriptors = max(open_descriptors()) + 1
        environs = [_difference(os.environ, launch.environ) for launch in launches]
        # A signal that arrives before the child is itself must not find the parent's handlers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            for launch, environ in zip(launches, environs, strict=True):
                launch.pid = os.fork()
                if launch.pid == 0:
                    self._become(launch, main, signals, descriptors, environ)
        except OSError as error:
            raise LaunchError(f"cannot fork broker {launch.rank}: {error.strerror} {PROCESS_LIMITS}") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _become(
        self,
        launch: Launch,
        main: BrokerMain,
        signals: Mapping[int, signal.Handlers],
        descriptors: int,
        environ: Mapping[str, str | None],
    ) -> None:
        status = 1
        try:
            if self._group:
                os.setpgid(0, self._group)
            name_process(f"flux-broker-{launch.rank}")
            os.closerange(3, launch.channel)
            os.closerange(launch.channel + 1, descriptors)
            signal.set_wakeup_fd(-1)
            for number, action in signals.items():
                signal.signal(number, action)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            resource.setrlimit(resource.RLIMIT_NOFILE, self._limits.original)
            for name, value in environ.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
            status = main(launch.argv[1:])
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
    # Both ends of the connections of all brokers.
    needed = 2 * size + _SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return _Limits((soft, hard), (soft, hard))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (OSError, ValueError):
        # Above the hard limit; or above that of the kernel, where there is none.
        limit = "that of the system is lower" if hard == resource.RLIM_INFINITY else f"the limit is {hard}"
        raise LaunchError(
            f"an instance of size {size} needs {needed} open files, and {limit}: raise it (ulimit -Hn)"
        ) from None
    return _Limits((soft, hard), (needed, hard))


def _changed_signals() -> dict[int, signal.Handlers]:
    """How a program finds those signals handled that we handle in another way."""
    found = {number: signal.SIG_IGN if number in _PYTHON_IGNORES else signal.SIG_DFL for number in _SETTABLE}
    return {number: action for number, action in found.items() if signal.getsignal(number) != action}


def _difference(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    """What to set in an environment, and what to remove from it (None)."""
    return {**dict.fromkeys(before.keys() - after.keys()), **dict(after.items() - before.items())}


def name_process(name: str) -> None:
    """Show ``name`` in process listings, where the system lets a process choose."""
    try:
        file = os.open("/proc/self/comm", os.O_WRONLY)
    except OSError:
        return
    try:
        os.write(file, name.encode())
    finally:
        os.close(file)


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

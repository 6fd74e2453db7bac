"""Start broker processes with the signals, descriptors, limits and process group that the user had.

The problem: the supervisor has changed all of these for itself. It blocks and handles signals, raises the limit of
open files, and leads a process group; a broker, and each job in it, must not inherit that. And with a thousand
brokers each millisecond and each page of memory counts a thousand times.

Three ways were open. `subprocess` imports threading, whose hooks at fork make 0.4 MiB private to each broker. Fork
and exec of an interpreter for each embedded broker imports the same modules a thousand times. So a program (a real
broker, or anything under ``--wrap``) is started with posix_spawn, which resets signals and joins the group in the
child; and embedded brokers are forked from the supervisor, which has imported them (`_fork`), and run `main` as if
executed.

What must stay true:

* A forked broker never returns into the supervisor's frames: `_become` ends in `os._exit`, whatever happens.
* Signals are blocked from before the fork until the child has its own handlers, or the supervisor's would run in it.
* Nothing is allocated between two forks, and `gc.freeze` comes before: pages that are written are copied.
* The child closes all descriptors except standard streams, its PMI channel and its lifeline; the supervisor makes all
  of its own close-on-exec (`keep_to_ourselves`) for programs.
* The limit of open files is lowered for the moment of posix_spawn, because that cannot set limits. The original one
  is a promise to jobs; ours must hold two descriptors for each broker.
* With ``--wrap`` the printed command line is what runs: nothing is forked then.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pytest_flux.launcher.engine import Engine
from pytest_flux.launcher.lifeline import Lifeline
from pytest_flux.launcher.spec import PROCESS_LIMITS, LaunchError
from pytest_flux.reactor.descriptors import keep_to_ourselves, open_descriptors

BrokerMain = Callable[[list[str], Lifeline], int]

# Descriptors that a supervisor needs besides those of brokers: for control clients and others.
_SPARE_FILES = 64
# All signals but SIGKILL and SIGSTOP, and those that valid_signals excludes, can be set.
_SETTABLE = tuple(sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))
# A Python program starts with these ignored, and relies on EPIPE and EFBIG instead.
_PYTHON_IGNORES = frozenset((signal.SIGPIPE, signal.SIGXFSZ))


class Launch:
    """A broker to start: its command line, its environment, and the descriptor that it inherits as PMI_FD.

    ``pid`` is -1 before the start.
    """

    __slots__ = ("argv", "channel", "environ", "pid", "rank")

    def __init__(self, rank: int, argv: list[str], environ: Mapping[str, str], channel: int) -> None:
        self.rank = rank
        self.argv = argv
        self.environ = {**environ, "PMI_FD": str(channel)}
        self.channel = channel
        self.pid = -1


class Spawner:
    """Starts brokers of one engine. Raises LaunchError if ``size`` brokers exceed a limit.

    ``rundir`` is the run directory of the session. ``group`` is the process group that brokers join; for 0 see Links.
    ``lifeline`` is that of brokers that are forked.
    """

    def __init__(self, engine: Engine, size: int, rundir: str, group: int, lifeline: Lifeline, *, wrap: bool) -> None:
        self._group = group
        self._lifeline = lifeline
        self._limits = _raise_open_files(size)
        self._main: BrokerMain | None = None
        keep_to_ourselves()
        if engine.kind == "embedded" and not wrap:
            # Imported once for all brokers, which share the memory.
            from pytest_flux.broker.main import main, prepare

            prepare(size, rundir)
            self._main = main
            # Without a collection before: it would leave holes in shared pages, which brokers would write to.
            gc.freeze()

    def spawn(self, launches: Sequence[Launch]) -> None:
        """Start brokers in order. Raises LaunchError, with path and reason, at the first that cannot be executed."""
        if self._main is not None:
            self._fork(launches, self._main)
        else:
            for launch in launches:
                launch.pid = self._execute(launch.argv, launch.environ, launch.channel)

    def _execute(self, argv: list[str], environ: dict[str, str], channel: int) -> int:
        os.set_inheritable(channel, True)
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits.original)
        try:
            spawn = partial(os.posix_spawnp, setsigmask=(), setsigdef=_SETTABLE)
            if self._group:
                spawn = partial(spawn, setpgroup=self._group)
            return spawn(argv[0], argv, environ)
        except OSError as error:
            raise LaunchError(_describe(argv[0], error)) from None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._limits.raised)

    def _fork(self, launches: Sequence[Launch], main: BrokerMain) -> None:
        """Fork brokers with nothing in between: pages that are written between forks are not shared."""
        _flush()
        signals = _changed_signals()
        descriptors = max(open_descriptors()) + 1
        environs = [_difference(os.environ, launch.environ) for launch in launches]
        # A signal that arrives early must not run the supervisor's handlers in the child.
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
            self._lifeline.attach()
            first, second = sorted((launch.channel, self._lifeline.descriptor))
            os.closerange(3, first)
            os.closerange(first + 1, second)
            os.closerange(second + 1, descriptors)
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
            status = main(launch.argv[1:], self._lifeline)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:  # noqa: BLE001 - the frames above are the supervisor's
            import traceback

            traceback.print_exc()
        finally:
            # Never return: the frames above would clean up what is the supervisor's.
            try:
                _flush()
            finally:
                os._exit(status & 0xFF)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


class _Limits:
    """RLIMIT_NOFILE as the user had it, and as raised for the supervisor."""

    __slots__ = ("original", "raised")

    def __init__(self, original: tuple[int, int], raised: tuple[int, int]) -> None:
        self.original = original
        self.raised = raised


def _raise_open_files(size: int) -> _Limits:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Both ends of each broker's connection.
    needed = 2 * size + _SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return _Limits((soft, hard), (soft, hard))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (OSError, ValueError):
        # It exceeds the hard limit or, if that is infinite, the limit of the kernel.
        limit = "that of the system is lower" if hard == resource.RLIM_INFINITY else f"the limit is {hard}"
        raise LaunchError(
            f"an instance of size {size} needs {needed} open files, and {limit}: raise it (ulimit -Hn)"
        ) from None
    return _Limits((soft, hard), (needed, hard))


def _changed_signals() -> dict[int, signal.Handlers]:
    """The default actions of the signals that we handle in another way."""
    found = {number: signal.SIG_IGN if number in _PYTHON_IGNORES else signal.SIG_DFL for number in _SETTABLE}
    return {number: action for number, action in found.items() if signal.getsignal(number) != action}


def _difference(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    """The variables to set in an environment; None removes one."""
    return {**dict.fromkeys(before.keys() - after.keys()), **dict(after.items() - before.items())}


def name_process(name: str) -> None:
    """Show ``name`` in process listings, if the system supports it."""
    try:
        file = os.open("/proc/self/comm", os.O_WRONLY)
    except OSError:
        return
    try:
        os.write(file, name.encode())
    finally:
        os.close(file)


def _describe(path: str, error: OSError) -> str:
    """Explain why a program cannot be executed; the kernel's ENOENT may be about its interpreter."""
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

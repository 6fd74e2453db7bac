"""A running instance as an object: started, used and stopped."""

from __future__ import annotations

import atexit
import contextlib
import difflib
import errno
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pytest_flux import bindings, python_path
from pytest_flux.instance.brokers import BrokerHandle, Brokers
from pytest_flux.instance.errors import NamingKvs, ProgramFailed, ProgramTimeout, named
from pytest_flux.instance.log import InstanceLog, progress, tail
from pytest_flux.instance.operations import Events, Job
from pytest_flux.instance.ownership import mark
from pytest_flux.instance.preparation import Preparation, prepare
from pytest_flux.instance.settings import Settings, describe, nearest, update
from pytest_flux.launcher import forkserver
from pytest_flux.launcher.detached import DetachedSession
from pytest_flux.launcher.spec import LaunchError
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import write_ascii
from pytest_flux.protocol.message import NODEID_ANY

if TYPE_CHECKING:
    from datetime import timedelta
    from types import TracebackType

    from typing_extensions import Unpack

    from pytest_flux.client import Flux
    from pytest_flux.client.kvs import Kvs
    from pytest_flux.instance.clock import InstanceClock
    from pytest_flux.instance.settings import SettingsKeywords
    from pytest_flux.instance.submission import Command, SubmitKeywords

OVERLAY_STATUS = ("full", "partial", "degraded", "lost", "offline")
"""What the overlay below a rank can be (flux-core's overlay.c)."""

_T = TypeVar("_T")
_STOPPED_BY_US = 128 + 15
_LOST_PARENT = 1
# The interval, in seconds, between attempts to connect to a broker that does not report when it accepts clients.
_INTERVAL = 0.01
# The time, in seconds, that a broker which no longer answers may take to exit.
_END_LIMIT = 5.0


class InstanceError(Exception):
    """An instance did not come up, or ended with an error. The text has the last log lines of each rank."""


class BindingsError(ImportError):
    """Flux's own Python bindings cannot be imported."""


class FluxInstance:
    """An instance of ``settings.size`` brokers, from ``start`` (or entering the context) to ``stop`` (or leaving it).

    It has a ``uri`` only while it runs. Nothing of it outlives the process that holds it, however that ends. With
    ``keep``, its rundir, with state and log, stays when it ends; with ``durable``, its state is on disk, in case rank
    0 dies; with ``trace``, PMI conversations are in its log. ``output`` takes its log; ``lifeline`` is as for
    DetachedSession.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        keep: bool = False,
        durable: bool = False,
        trace: bool = False,
        output: InstanceLog | None = None,
        lifeline: int | None = None,
    ) -> None:
        # An ASCII locale has no sign for job ids.
        write_ascii(not sys.getfilesystemencoding().startswith("utf"))
        self.settings = settings or Settings()
        self.size = self.settings.size
        self.keep = keep
        self.kept_at: str | None = None
        self.output = output or InstanceLog()
        # Ranks that were killed on purpose, those of them that cannot have survived it, and those stopped (SIGSTOP).
        self.expected_ends: set[int] = set()
        self.killed: set[int] = set()
        self.suspended: set[int] = set()
        self._durable = durable
        self._trace = trace
        self._lifeline = lifeline
        self._session: DetachedSession | None = None
        self._preparation: Preparation | None = None
        self._clients: dict[tuple[int, int], Flux] = {}
        self._environ: dict[str, str] | None = None

    def __repr__(self) -> str:
        state = f"at {self.uri}" if self.is_running else "not running"
        return f"<FluxInstance {describe(self.settings)}, {state}>"

    def __enter__(self) -> FluxInstance:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # -- life

    def begin(self) -> None:
        """Start the instance without waiting for it. Raises InstanceError."""
        environ = {name: value for name, value in os.environ.items() if name != "FLUX_URI"}
        try:
            keep = self.keep or self._durable
            self._preparation = prepare(self.settings, environ, keep=keep, trace=self._trace)
            spec, output = self._preparation.spec, self.output.fileno()
            self._session = DetachedSession(spec, self._preparation.environ, output, lifeline=self._lifeline)
        except (LaunchError, OSError) as error:
            raise self._failure(str(error)) from None

    def release(self) -> tuple[int, str]:
        """Give up a session that has begun. Return its front's process id and its rundir. Raises InstanceError."""
        assert self._session is not None
        session = self._session
        try:
            rundir = session.wait_rundir(self.settings.timeout)
        except (LaunchError, TimeoutError) as error:
            session.kill()
            self._session = None
            raise self._failure(str(error) or "no rundir") from None
        self._session = None
        session.release()
        return session.pid, rundir

    def start(self) -> None:
        """Start the instance and wait until it runs. Raises InstanceError."""
        if self._session is None:
            self.begin()
        assert self._session is not None
        deadline = time.monotonic() + self.settings.timeout
        try:
            self._wait_for_clients(self._session, deadline)
            if self.settings.rundir is None and self._preparation is not None:
                mark(self.rundir, self._session.pid, kept=self.keep)
            self.client.rpc("state-machine.wait").get(max(deadline - time.monotonic(), 0))
        except (LaunchError, FluxError, OSError) as error:
            reason = str(error)
            if isinstance(error, TimeoutError):
                limit = self.settings.timeout
                reason = f"not running after {limit:g} s; for more time: timeout={2 * limit or 1:g}"
                reason += f"\n{progress(self.output.text(), self.size)}"
            elif not isinstance(error, LaunchError):
                # The broker exits, or has closed our connection; the launcher knows why.
                reason = _reason_of(self._session, reason)
            self._close_connections()
            self._session.kill()
            self._session = None
            raise self._failure(reason) from None
        except BaseException:
            self.kill()
            raise

    def _wait_for_clients(self, session: DetachedSession, deadline: float) -> None:
        """Wait until rank 0 accepts clients. Raises LaunchError, TimeoutError."""
        if self.settings.personality != "system":
            session.wait_booted(0, deadline - time.monotonic())
            return
        # Brokers that bootstrap from a file do not use PMI, so the launcher cannot see the end of their bootstrap.
        while True:
            session.check()
            try:
                if session.rundir is not None:
                    self.client.flush()
                    return
            except OSError:
                if time.monotonic() >= deadline:
                    raise TimeoutError from None
            select.select([session] if session.fileno() >= 0 else [], [], [], _INTERVAL)

    def stop(self) -> None:
        """Shut the instance down in order. Raises InstanceError if it ends with an error."""
        self.begin_stop()
        self.finish_stop()

    def begin_stop(self) -> None:
        """Begin an orderly shutdown without waiting for it."""
        self._close_connections()
        if self._session is not None:
            self._session.terminate()

    def finish_stop(self) -> None:
        """Wait for the shutdown that :meth:`begin_stop` has begun. Raises as :meth:`stop`."""
        if self._session is None:
            return
        session, self._session = self._session, None
        try:
            code = session.wait(self.settings.timeout)
        except TimeoutError:
            code = session.kill()
        failed = {rank: code for rank, code in self._unexpected(session.exit_codes).items() if code}
        self._end()
        if failed or (code not in (0, _STOPPED_BY_US) and not self.expected_ends):
            raise InstanceError(f"{self._name()} {_ended(failed, code)}\n{self.log_tail()}")

    def kill(self) -> None:
        """Kill the instance at once, without an error."""
        self._close_connections()
        session, self._session = self._session, None
        if session is not None:
            session.kill()
        self._end()

    def renew(self) -> None:
        """Kill the instance and prepare to start a new one."""
        self.kill()
        self._reset(InstanceLog())

    def _reset(self, output: InstanceLog) -> None:
        self.output = output
        self.expected_ends.clear()
        self.killed.clear()
        self.suspended.clear()

    @property
    def can_be_restored(self) -> bool:
        """Whether state that a test has changed may be restored."""
        return True

    def _unexpected(self, exit_codes: Mapping[int, int]) -> dict[int, int]:
        """Leave out ranks that were killed on purpose, and those that exit with 1 as they have lost their parent."""
        first = min(self.expected_ends, default=self.size)
        return {
            rank: code
            for rank, code in exit_codes.items()
            if rank not in self.expected_ends and not (code == _LOST_PARENT and rank > first)
        }

    def _end(self) -> None:
        if self._preparation is not None:
            self.kept_at = self._preparation.finish(self.output.text() if self.keep else "", keep=self.keep)
            self._preparation = None
        self.output.close()

    def _failure(self, reason: str) -> InstanceError:
        text = tail(self.output.text())
        self._end()
        return InstanceError(f"{self._name()}: {reason}\n{text}")

    def _name(self) -> str:
        return f"instance of {self.size} brokers"

    @property
    def is_stopping(self) -> bool:
        """Whether processes of the instance may still run."""
        return self._session is not None and self._session.poll() is None

    def dead_brokers(self) -> dict[int, int]:
        """Exit codes, by rank, of the brokers that have ended."""
        if self._session is None:
            return {}
        self._session.poll()
        return dict(self._session.exit_codes)

    def failed_brokers(self) -> dict[int, int]:
        """Exit codes, by rank, of the brokers that have ended, but were not killed on purpose."""
        return self._unexpected(self.dead_brokers())

    def await_killed(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds until the brokers that were sent SIGKILL have ended."""
        deadline = time.monotonic() + timeout
        if self._session is None:
            return
        for rank in self.killed:
            try:
                self._session.wait_ended(rank, max(deadline - time.monotonic(), 0))
            except TimeoutError:
                return

    # -- properties

    @property
    def directory(self) -> str | None:
        """The directory that was made for the instance and may be kept, if any."""
        return self._preparation.directory if self._preparation is not None else None

    @property
    def statedir(self) -> str | None:
        """The directory of its state, if that outlives rank 0."""
        settings = self._preparation.spec.setattrs if self._preparation is not None else ()
        named = [setting.partition("=")[2] for setting in settings if setting.startswith("statedir=")]
        return named[-1] if named else None

    @property
    def is_running(self) -> bool:
        """Whether the instance has been started and not stopped."""
        return self._session is not None and self._session.rundir is not None

    @property
    def is_suspended(self) -> bool:
        """Whether rank 0 is known to be stopped (SIGSTOP), so that asking it would only take time."""
        try:
            return self.brokers[0].is_suspended
        except (OSError, InstanceError):
            return False

    @property
    def rundir(self) -> str:
        """The directory of the instance's sockets."""
        if self._session is None or self._session.rundir is None:
            raise InstanceError("the instance is not running")
        return self._session.rundir

    @property
    def uri(self) -> str:
        """The FLUX_URI of this instance: where rank 0 accepts clients."""
        return f"local://{self.rundir}/local-0"

    @property
    def brokers(self) -> Sequence[BrokerHandle]:
        """The brokers, by rank: to kill, stop, start and inspect."""
        return Brokers([BrokerHandle(self, rank) for rank in range(self.size)])

    def log(self) -> str:
        """The output of brokers and launcher so far."""
        return self.output.text()

    def log_tail(self) -> str:
        """The last lines of each rank, and of the launcher."""
        return tail(self.log())

    # -- programs

    def patience(self, timeout: float | None) -> float:
        """The time to wait, in seconds: ``timeout``, or by default that of the settings."""
        return self.settings.timeout if timeout is None else timeout

    @property
    def client(self) -> Flux:
        """A connection to rank 0, made on first use. Each thread and each forked process has its own."""
        key = (os.getpid(), threading.get_ident())
        if key not in self._clients:
            from pytest_flux.client import Flux

            self._clients[key] = Flux(self.uri)
        return self._clients[key]

    def close_connection(self) -> None:
        """Close the connection of this thread, if it has one. The next use makes another."""
        client = self._clients.pop((os.getpid(), threading.get_ident()), None)
        if client is not None:
            client.close()

    def _close_connections(self) -> None:
        self._environ = None
        while self._clients:
            self._clients.popitem()[1].close()

    @property
    def env(self) -> dict[str, str]:
        """The environment for programs that must connect to the instance, with its `flux` command on PATH."""
        if self._environ is None:
            self._environ = self._ask_environ()
        return dict(self._environ)

    def _ask_environ(self) -> dict[str, str]:
        from pytest_flux.client.environment import ask_environment

        return {**ask_environment(self.client, self.settings.timeout), "FLUX_URI": self.uri}

    @contextlib.contextmanager
    def environ(self) -> Iterator[None]:
        """Update ``os.environ`` from :attr:`env` for a with statement: for code under test in this process.

        With an embedded instance, ``import flux`` in it finds our stand-in for libflux.
        """
        before = dict(os.environ)
        inside = self.env
        added = [place for place in self._python_path() if place not in sys.path]
        try:
            os.environ.update(inside)
            sys.path[:0] = added
            if added:
                bindings.forget_failed_import()
            yield
        finally:
            sys.path[:] = [place for place in sys.path if place not in added]
            for name in inside.keys() - before.keys():
                os.environ.pop(name, None)
            os.environ.update({name: before[name] for name in inside.keys() & before.keys()})

    def _python_path(self) -> list[str]:
        """What the instance adds to the path of its Python programs; nothing if a real Flux runs it."""
        places = self.env.get("PYTHONPATH", "").split(os.pathsep)
        return [place for place in python_path.directories(self.env) if place in places]

    def run(self, argv: Sequence[str] | str, **options: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
        """Run a program in the environment of the instance, and wait for its end.

        Options are those of ``subprocess.run``. By default output is captured as text. A string is run by a shell.
        With ``check=True`` or ``timeout=``, the text of the error has what the program has written.
        """
        defaults: dict[str, Any] = {"text": True, "stdin": subprocess.DEVNULL, "env": self.env}
        if not {"capture_output", "stdout", "stderr"} & options.keys():
            defaults["capture_output"] = True
        if isinstance(argv, str):
            defaults["shell"] = True
        if "input" in options:
            del defaults["stdin"]
        check = options.pop("check", False)
        try:
            done = subprocess.run(argv, **{**defaults, **options})  # noqa: PLW1510
        except subprocess.TimeoutExpired as error:
            raise ProgramTimeout(error.cmd, error.timeout, error.stdout, error.stderr) from None
        if check and done.returncode:
            raise ProgramFailed(done.returncode, done.args, done.stdout, done.stderr)
        return done

    def dump(self, path: str | os.PathLike[str]) -> None:
        """Write an archive of the key-value store, as `flux dump` does. CalledProcessError if that fails."""
        self.run(["flux", "dump", "--quiet", os.fspath(path)], check=True)

    # -- services

    def rpc(
        self,
        topic: str,
        payload: dict[str, Any] | None = None,
        *,
        rank: int = NODEID_ANY,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Send a request to a service, at ``rank`` or the nearest, and return its response. Raises FluxError."""
        wait = self.patience(timeout)
        return self._name_rank(topic, rank, lambda: self.client.rpc(topic, payload, nodeid=rank).get(wait))

    def _name_rank(self, topic: str, rank: int, ask: Callable[[], _T]) -> _T:
        """Name a rank that does not exist in the error about it."""
        if rank == NODEID_ANY or rank < self.size:
            return ask()
        return named(f"{topic}: rank {rank} of an instance of {self.size}", ask)

    def getattr(self, name: str) -> str:
        """A broker attribute of rank 0. Raises FluxError ENOENT, with the nearest name, if it does not exist."""
        try:
            return self.client.getattr(name)
        except FluxError as error:
            if error.errnum != errno.ENOENT:
                raise
            names = self.client.rpc("attr.list", nodeid=0).get(self.settings.timeout)["names"]
            near = difflib.get_close_matches(name, names, n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise FluxError(errno.ENOENT, f"attribute {name!r}: {os.strerror(errno.ENOENT)}{hint}") from None

    def events(self, topic: str = "", timeout: float | None = None) -> Events:
        """Subscribe to events whose topic begins with ``topic``, on a separate connection."""
        from pytest_flux.client import Flux

        return Events(Flux(self.uri), topic, self.patience(timeout))

    @property
    def clock(self) -> InstanceClock:
        """The time of the instance, to be moved, if it was started with ``clock="manual"`` or ``"auto"``."""
        from pytest_flux.instance.clock import ClockError, InstanceClock

        if self.settings.clock is None and "clock.mode" not in self.settings.attrs:
            text = 'start it with clock="manual", as in @pytest.mark.flux(clock="manual")'
            raise ClockError(f"this instance has the time of the system, which nobody can move: {text}")
        return InstanceClock(lambda: self.client, self.settings.timeout)

    @property
    def kvs(self) -> Kvs:
        """The key-value store: ``put``, ``get``, ``ls``, ``watch``, ..."""
        return NamingKvs(self.client)

    @property
    def resources(self) -> dict[str, Any]:
        """The resources: ``{R, drain, online, offline, exclude, torpid}`` of the service `resource`."""
        return self.client.rpc("resource.status", nodeid=0).get(self.settings.timeout)

    def submit(self, command: Command | Mapping[str, Any], **how: Unpack[SubmitKeywords]) -> Job:
        """Submit a command, or a complete jobspec (RFC 14). A string is run by a shell, as in :meth:`run`.

        Keywords are those of flux-core's ``JobspecV1.from_command`` and the long options of `flux submit`:
        ``num_tasks``, ``nodes``, ``cores_per_task``, ``gpus_per_task``, ``exclusive``, ``time_limit`` (in seconds, or
        as in RFC 23), ``env`` (added to our environment), ``environment`` (instead of it), ``cwd``, ``job_name``,
        ``queue``, ``bank``, ``input``, ``output``, ``error`` (paths), ``label_io``, ``unbuffered``, ``dependency``
        (``"afterok:ƒ2oLkTLb"``), ``begin_time`` (a datetime, or seconds since the epoch), ``requires`` (RFC 35),
        ``attributes``, ``shell_options`` (both by dotted path), ``urgency``, ``flags`` (``"waitable,debug"``). Raises
        TypeError for others.
        """
        from pytest_flux.instance.submission import Submission

        submission = Submission(command, how)
        jobs = self.client.jobs
        return self.job(jobs.submit(submission.jobspec, urgency=submission.urgency, flags=submission.flags))

    def submit_mock(
        self,
        runtime: float | str | timedelta,
        *,
        status: int = 0,
        exception: str | None = None,
        **how: Unpack[SubmitKeywords],
    ) -> Job:
        """Submit a job that runs nothing and ends after ``runtime``: seconds, ``"8h"`` (RFC 23), or a timedelta.

        Its exit code is ``status``. ``exception`` ``"init"`` or ``"run"`` makes it fail before it starts, or when it
        does. Other keywords are those of :meth:`submit`. With a clock that jumps, such jobs take no real time.
        """
        from pytest_flux.client.jobspec import MOCK_COMMAND, set_mock
        from pytest_flux.instance.clock import seconds_of
        from pytest_flux.instance.submission import Submission

        submission = Submission(MOCK_COMMAND, how)
        set_mock(submission.jobspec, seconds_of(runtime), status=status, exception=exception)
        return self.submit(submission.jobspec, urgency=submission.urgency, flags=how.get("flags", ()))

    def job(self, jobid: int | str | Job) -> Job:
        """A job by its id, in any of its forms (RFC 19)."""
        from pytest_flux.protocol.fluid import parse_fluid

        if isinstance(jobid, Job):
            return jobid
        number = parse_fluid(jobid) if isinstance(jobid, str) else jobid
        return Job(number, lambda: self.client, self.settings.timeout)

    def handle(self) -> Any:  # noqa: ANN401 - flux.Flux has no types
        """A ``flux.Flux`` of Flux's own Python bindings. If they cannot be imported, the test is skipped."""
        try:
            if self._python_path() and "flux" not in sys.modules:
                bindings.enable()
            import flux
        except ImportError as error:
            raise BindingsError(f"no Python bindings of Flux: `import flux` says {error}") from None
        return flux.Flux(self.uri)

    def wait_status(self, status: str, *, rank: int = 0, timeout: float | None = None) -> None:
        """Wait until the overlay below ``rank`` has a status: full, partial, degraded, lost or offline.

        Raises TimeoutError, which names the present status, and ValueError for another word.
        """
        if status not in OVERLAY_STATUS:
            raise ValueError(f"wait_status({status!r}): {nearest(status, OVERLAY_STATUS)}")
        patience, seen = self.patience(timeout), "unknown"
        deadline = time.monotonic() + patience
        rpc = self.client.rpc("overlay.health", nodeid=rank, streaming=True)
        try:
            while seen != status:
                answer = self._name_rank(rpc.topic, rank, lambda: rpc.get(max(deadline - time.monotonic(), 0)))
                seen = str(answer["status"])
        except TimeoutError:
            text = f"overlay of rank {rank} not {status} within {patience:g} s: it is {seen}"
            raise TimeoutError(text) from None
        finally:
            rpc.cancel()
            rpc.abandon()


def _reason_of(session: DetachedSession, otherwise: str) -> str:
    """Say why a session ended before it was up; ``otherwise`` if it has not ended, or does not soon."""
    try:
        session.wait(_END_LIMIT)
        session.check()
    except TimeoutError:
        return otherwise
    except LaunchError as error:
        return str(error)
    return otherwise


def _ended(failed: dict[int, int], code: int) -> str:
    ranks = ", ".join(f"rank {rank} with exit code {failed[rank]}" for rank in sorted(failed))
    return f"ended: {ranks}" if failed else f"ended with exit code {code}"


class Starter(Protocol):
    """What ``flux_instance_factory`` is: keywords are those of Settings, what it gives runs."""

    def __call__(self, **given: Unpack[SettingsKeywords]) -> FluxInstance:
        """Start an instance."""
        ...


class StartedInstance(FluxInstance):
    """An instance that runs from creation to ``stop()``, the end of a with statement, or the end of the program."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        _running.add(self)
        self.start()

    def __enter__(self) -> FluxInstance:
        return self

    def _end(self) -> None:
        super()._end()
        _running.discard(self)
        if not _running:
            forkserver.close_unless_kept()


_running: set[StartedInstance] = set()
# A forked child does not own the instances of its parent.
os.register_at_fork(after_in_child=_running.clear)


@atexit.register
def _stop_all() -> None:
    for instance in list(_running):
        instance.begin_stop()
    for instance in list(_running):
        instance.finish_stop()


def start(**given: Unpack[SettingsKeywords]) -> FluxInstance:
    """Start an instance: ``flux = pytest_flux.start(size=4)``, or ``with pytest_flux.start(size=4) as flux:``.

    It runs until ``flux.stop()``, the end of the with statement, or the end of the program. Keywords are those of
    Settings. Raises SettingsError, and InstanceError if the instance does not come up or ends with an error.
    """
    return StartedInstance(update(Settings(), given, "pytest_flux.start()"))

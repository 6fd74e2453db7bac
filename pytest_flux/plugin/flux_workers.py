"""``--flux-workers``: the workers of pytest-xdist are tasks of a Flux job, on as many nodes as the instance has.

pytest-xdist asks execnet for a gateway for each worker, and talks to that. execnet can start Python here, over ssh,
or behind a socket, but has no door for other ways. So we take the place of one method, ``makegateway`` of xdist's
group, for the workers that would be local processes. What it returns is a gateway of execnet, started by execnet's
own bootstrap; only its bytes go through a connection of ours (:mod:`pytest_flux.launcher.rendezvous`) to a task.

All tasks are one job, so they start together. The job is submitted by the ``flux submit`` of the instance: its
options are those that users know, also in ``--flux-workers-args``. Each worker has one core. If the instance has
fewer cores than workers, the job takes whole nodes, and spreads the workers over them.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flux.client import Flux
from pytest_flux.client.job_follow import JobFollower
from pytest_flux.client.resources import ResourceList
from pytest_flux.client.story import tell
from pytest_flux.instance.attached import AttachedInstance
from pytest_flux.instance.flux_instance import InstanceError
from pytest_flux.instance.settings import Settings
from pytest_flux.launcher.rendezvous import ENVIRONMENT, Rendezvous
from pytest_flux.plugin import options
from pytest_flux.plugin.tracebacks import is_plain
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.hostlist import decode_hostlist
from pytest_flux.protocol.idset import decode_idset
from pytest_flux.protocol.ioencode import decode_io

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_flux.launcher.rendezvous import Guest
    from pytest_flux.protocol.eventlog import Event

__tracebackhide__ = is_plain
_PROGRAM = (sys.executable, "-m", "pytest_flux.cli.xdist_worker")
# One task may end long before the others.
_OPTIONS = ("--job-name=pytest", "-o", "exit-timeout=none")
# What the `flux` of an instance needs to know of it.
_OF_FLUX = ("FLUX_", "PYTEST_FLUX_PYTHON")
_SUBMIT_LIMIT = 60.0
# The time, in seconds, after which we say why workers have not come, and the pause between two looks at their job.
_SILENCE, _INTERVAL = 5.0, 0.5
# The time, in seconds, that a worker may take to dial when its job runs, or when its predecessor has crashed.
_DIAL_LIMIT = 60.0
# The time, in seconds, for the words of a worker that has crashed: they take another way than the news.
_LAST_WORDS = 3.0
_END_LIMIT, _CANCEL_LIMIT = 5.0, 20.0
_MOST_LINES = 200


class Job:
    """The job of the workers, followed by a thread: what its tasks print, and its end."""

    def __init__(self, uri: str, jobid: int) -> None:
        self.id = jobid
        self.has_started = threading.Event()
        self.has_ended = threading.Event()
        self.names: dict[int, str] = {}
        self._lines: dict[int, list[str]] = {}
        self._partial: dict[tuple[int, str], str] = {}
        self._changed = threading.Condition()
        self._flux = Flux(uri)
        threading.Thread(target=self._follow, name="flux-workers", daemon=True).start()

    def _follow(self) -> None:
        follower = JobFollower(self._flux, self.id)
        follower.on_event = self._note
        follower.on_output = self._take
        try:
            follower.start()
            while not follower.done:
                self._flux.dispatch(None)
        except OSError:
            # The instance is gone, and the job with it.
            pass
        finally:
            self.has_ended.set()
            self._flux.close()

    def _note(self, event: Event) -> None:
        if event["name"] == "start":
            self.has_started.set()

    def _take(self, event: Event) -> None:
        if event["name"] == "log":
            _say(f"flux-shell: {event['context'].get('message', '')}")
        if event["name"] != "data":
            return
        piece = decode_io(event["context"])
        for task in decode_idset(piece.rank):
            *lines, rest = (self._partial.get((task, piece.stream), "") + piece.data.decode(errors="replace")).split(
                "\n"
            )
            self._partial[task, piece.stream] = rest
            for line in lines:
                _say(f"[{self.names.get(task, f'task {task}')}] {line}")
            with self._changed:
                self._lines[task] = [*self._lines.get(task, []), *lines][-_MOST_LINES:]
                self._changed.notify_all()

    def forget(self, task: int) -> None:
        """Forget what a task has printed: another worker begins in it."""
        with self._changed:
            self._lines.pop(task, None)

    def last_words(self, task: int) -> str:
        """What a task has printed, with the words on the end of its worker, if they come in time."""

        def has_ended() -> bool:
            return any(line.startswith("pytest-flux: the worker") for line in self._lines.get(task, ()))

        with self._changed:
            self._changed.wait_for(has_ended, _LAST_WORDS)
            return "\n".join(self._lines.get(task, ()))


def _say(line: str) -> None:
    """Print a line where workers that are local processes print: on standard error, also while output is captured."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode(errors="replace"))


class FluxWorkers:
    """The workers of a run, from :meth:`start` to :meth:`close`. A plugin: xdist asks for workers during the run."""

    def __init__(self, config: pytest.Config, uri: str) -> None:
        self._config = config
        self._uri = uri
        self._instance = AttachedInstance(uri, Settings())
        self._rendezvous: Rendezvous | None = None
        self._job: Job | None = None
        self._group: Any = None
        self._make_other: Any = None
        self._tasks: dict[str, int] = {}

    def _connect(self) -> None:
        if self._instance.is_running:
            return
        try:
            self._instance.start()
        except InstanceError as error:
            raise pytest.UsageError(f"--flux-workers: {error}") from None

    def count_cores(self) -> int:
        """The number of cores of the instance: the number of workers of ``-n auto``. Raises UsageError."""
        self._connect()
        return max(self._resources().up.count("core"), 1)

    def _resources(self) -> ResourceList:
        return ResourceList.decode(self._instance.rpc("resource.sched-status"))

    @property
    def address(self) -> str:
        """Where processes on other hosts can connect to us; '' before the start."""
        return self._rendezvous.address if self._rendezvous is not None else ""

    # -- starting

    def start(self, group: Any, specs: Sequence[Any]) -> None:  # noqa: ANN401 - of execnet
        """Submit the job, and take over the making of gateways of a group. Raises UsageError."""
        local = [spec for spec in specs if spec.popen]
        for spec in local:
            changed = [name for name in ("python", "chdir", "nice", "env", "via") if getattr(spec, name, None)]
            if changed:
                raise pytest.UsageError(f"--flux-workers: --tx {spec}: {changed[0]}= has no effect on tasks of a job")
        self._connect()
        hosts = set(decode_hostlist(self._instance.getattr("hostlist")))
        self._rendezvous = Rendezvous(is_local=hosts == {socket.gethostname()})
        self._job = Job(self._uri, self._submit(len(local)))
        self._group = group
        self._make_other, group.makegateway = group.makegateway, self._make

    def _submit(self, count: int) -> int:
        given = shlex.split(options.value_of(self._config, "workers_args"))
        inside = self._instance.env
        flux = shutil.which("flux", path=inside.get("PATH")) or "flux"
        argv = [flux, "submit", *_OPTIONS, *self._spread(count, given), *given, *_PROGRAM]
        # The key is in the environment, and not on the command line, which everybody can read.
        environ = {**os.environ, **{name: inside[name] for name in inside if name.startswith(_OF_FLUX)}}
        environ[ENVIRONMENT] = self.address
        try:
            done = subprocess.run(
                argv,
                check=False,
                env=environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_SUBMIT_LIMIT,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise pytest.UsageError(f"--flux-workers: {error}") from None
        if done.returncode:
            command = shlex.join(["flux", *argv[1 : -len(_PROGRAM)]])
            raise pytest.UsageError(f"--flux-workers: {command}: {done.stderr.strip() or done.returncode}")
        return self._instance.job(done.stdout.strip()).id

    def _spread(self, count: int, given: Sequence[str]) -> list[str]:
        """The options of `flux submit` that make ``count`` tasks, or a few more."""
        if any(word.startswith("--tasks-per-") for word in given):
            return []
        up = self._resources().up
        if given or count <= up.count("core"):
            return ["-n", str(count)]
        nodes = min(len(up), count)
        each = -(-count // nodes)
        _report(self._config, f"flux: {count} workers, {up.count('core')} cores: {each} on each of {nodes} nodes")
        return ["-N", str(nodes), f"--tasks-per-node={each}"]

    # -- gateways

    def _make(self, spec: Any) -> Any:  # noqa: ANN401 - of execnet
        """As ``execnet.Group.makegateway``."""
        if not spec.popen:
            return self._make_other(spec)
        from execnet import gateway_bootstrap

        group = self._group
        group.allocate_id(spec)
        spec.execmodel = spec.execmodel or group.remote_execmodel.backend
        guest = self._wait_for_guest()
        task = guest.about["task"]
        assert self._job is not None
        self._job.forget(task)
        self._job.names[task] = spec.id
        self._tasks[spec.id] = task
        gateway = gateway_bootstrap.bootstrap(_carrier(guest.connection, group.execmodel), spec)
        gateway.spec = spec
        group._register(gateway)
        return gateway

    def _wait_for_guest(self) -> Guest:
        """The next task that has dialled. Raises UsageError if none comes any more."""
        assert self._rendezvous is not None
        assert self._job is not None
        silence = time.monotonic() + _SILENCE
        deadline = 0.0
        while True:
            with contextlib.suppress(queue.Empty):
                return self._rendezvous.guests.get(timeout=_INTERVAL)
            now = time.monotonic()
            if self._job.has_started.is_set():
                deadline = deadline or now + _DIAL_LIMIT
            if self._job.has_ended.is_set() or now > deadline > 0:
                what = "has ended" if self._job.has_ended.is_set() else "has not called"
                raise pytest.UsageError(f"--flux-workers: job {f58(self._job.id)} {what}\n{self._story()}")
            if now > silence and not deadline:
                silence = float("inf")
                _report(self._config, f"flux: job {f58(self._job.id)} of the workers: {self._story()}")

    def _story(self) -> str:
        assert self._job is not None
        return tell(self._instance.client, self._job.id)

    def explain(self, worker: str, report: pytest.TestReport) -> None:
        """Add to the report of a crash what the worker has printed, and how it has ended."""
        task = self._tasks.get(worker)
        words = self._job.last_words(task) if self._job is not None and task is not None else ""
        if words:
            report.sections.append((f"flux: output of worker {worker} (task {task})", words))

    # -- end

    def close(self) -> None:
        """End the workers that are left, and wait for the end of their job."""
        if self._rendezvous is not None:
            self._rendezvous.close()
        if self._job is not None and not self._job.has_ended.wait(_END_LIMIT):
            with contextlib.suppress(FluxError, OSError):
                self._instance.client.jobs.cancel(self._job.id, "pytest has ended")
            if not self._job.has_ended.wait(_CANCEL_LIMIT):
                _say(f"flux: job {f58(self._job.id)} of the workers has not ended within {_CANCEL_LIMIT:g} s")
        self._instance.kill()


def _carrier(connection: socket.socket, execmodel: Any) -> Any:  # noqa: ANN401 - of execnet
    """What execnet has for the pipes of a local process, for a connection."""
    from execnet.gateway_base import Popen2IO

    class Carrier(Popen2IO):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__(connection.makefile("wb"), connection.makefile("rb"), execmodel)

        def close_write(self) -> None:
            with contextlib.suppress(OSError):
                self.outfile.close()
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)

        def close_read(self) -> None:
            self.infile.close()
            connection.close()

        def wait(self) -> None:
            """The end of the worker is the end of its connection, for which execnet has waited before."""

        def kill(self) -> None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    return Carrier()


def _report(config: pytest.Config, line: str) -> None:
    terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        terminal.ensure_newline()
        terminal.write_line(line)


def uri_of(config: pytest.Config) -> str:
    """The instance for the workers. Raises UsageError."""
    uri: str = options.value_of(config, "uri") or os.environ.get("FLUX_URI", "")
    if not uri:
        raise pytest.UsageError(
            "--flux-workers: FLUX_URI is not set: run pytest inside of an instance, or --flux-uri"
        )
    return uri

"""What a test can do with an instance, whoever has started it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.message import NODEID_ANY
from pytest_flux.session.operations import Events, Job
from pytest_flux.session.tracebacks import is_plain

if TYPE_CHECKING:
    from pytest_flux.client import Flux
    from pytest_flux.client.kvs import Kvs

__tracebackhide__ = is_plain


class Surface:
    """The operations. Subclasses say where the instance is; ``timeout`` bounds, in seconds, what is given none.

    ``expected_ends`` are the ranks that were killed on purpose, ``killed`` those of them that cannot have survived
    that, and ``suspended`` those that were stopped and not let go on.
    """

    def __init__(self, timeout: float) -> None:
        self.expected_ends: set[int] = set()
        self.killed: set[int] = set()
        self.suspended: set[int] = set()
        self._timeout = timeout
        self._clients: dict[tuple[int, int], Flux] = {}
        self._environ: dict[str, str] | None = None

    @property
    def uri(self) -> str:
        """Where rank 0 takes clients: the FLUX_URI of this instance."""
        raise NotImplementedError

    def patience(self, timeout: float | None) -> float:
        """How long to wait."""
        return self._timeout if timeout is None else timeout

    @property
    def client(self) -> Flux:
        """A connection to rank 0, made when first asked for. Each thread, and each forked process, has its own."""
        key = (os.getpid(), threading.get_ident())
        if key not in self._clients:
            from pytest_flux.client import Flux

            self._clients[key] = Flux(self.uri)
        return self._clients[key]

    def _close_connections(self) -> None:
        self._environ = None
        while self._clients:
            self._clients.popitem()[1].close()

    # -- programs

    @property
    def env(self) -> dict[str, str]:
        """The environment for a program that shall find the instance, and a `flux` command that goes with it."""
        if self._environ is None:
            self._environ = self._ask_environ()
        return dict(self._environ)

    def _ask_environ(self) -> dict[str, str]:
        """What programs inside the instance have in their environment: the broker runs one to see."""
        command = {"cmdline": ["/usr/bin/env", "-0"], "cwd": "/", "env": {}, "opts": {}, "channels": []}
        output = ""
        request = {"cmd": command, "flags": 1}
        rpc = self.client.rpc("rexec.exec", request, nodeid=0, streaming=True, timeout=self._timeout)
        for answer in rpc:
            output += answer.get("io", {}).get("data", "")
        pairs = (item.partition("=") for item in output.split("\0") if item)
        return {**{name: value for name, _, value in pairs}, "FLUX_URI": self.uri}

    @contextlib.contextmanager
    def environ(self) -> Iterator[None]:
        """Have ``os.environ`` be :attr:`env` meanwhile: FLUX_URI and PATH for code under test in this process."""
        before = dict(os.environ)
        inside = self.env
        try:
            os.environ.update(inside)
            yield
        finally:
            for name in inside.keys() - before.keys():
                os.environ.pop(name, None)
            os.environ.update({name: before[name] for name in inside.keys() & before.keys()})

    def run(self, argv: Sequence[str] | str, **options: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
        """Run a program inside the instance's environment, to its end.

        Options are those of ``subprocess.run``; by default output is captured as text, and a string is a shell's.
        """
        defaults: dict[str, Any] = {"text": True, "stdin": subprocess.DEVNULL, "env": self.env}
        if not {"capture_output", "stdout", "stderr"} & options.keys():
            defaults["capture_output"] = True
        if isinstance(argv, str):
            defaults["shell"] = True
        if "input" in options:
            del defaults["stdin"]
        return subprocess.run(argv, **{**defaults, **options})  # noqa: PLW1510

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
        """Ask a service, at ``rank`` or the nearest, and give its answer. FluxError if that is an error."""
        return self.client.rpc(topic, payload, nodeid=rank).get(self.patience(timeout))

    def getattr(self, name: str) -> str:
        """A broker attribute of rank 0. FluxError ENOENT where there is none."""
        return self.client.getattr(name)

    def events(self, topic: str = "", timeout: float | None = None) -> Events:
        """Subscribe to events whose topic begins with ``topic``, on a connection of their own."""
        from pytest_flux.client import Flux

        return Events(Flux(self.uri), topic, self.patience(timeout))

    @property
    def kvs(self) -> Kvs:
        """The key-value store: ``put``, ``get``, ``ls``, ``watch``, ..."""
        from pytest_flux.client.kvs import Kvs

        return Kvs(self.client)

    @property
    def resources(self) -> dict[str, Any]:
        """What the instance has: ``{R, drain, online, offline, exclude, torpid}`` of the service `resource`."""
        return self.client.rpc("resource.status", nodeid=0).get(self._timeout)

    def submit(self, command: Sequence[str] | dict[str, Any], **how: Any) -> Job:  # noqa: ANN401
        """Submit a command, or a whole jobspec (RFC 14).

        Keywords are those of ``client.jobspec.from_command``: ``ntasks``, ``nodes``, ``duration``, ...
        """
        from pytest_flux.client.jobspec import from_command

        jobspec = command if isinstance(command, dict) else from_command(list(command), **how)
        return Job(self, self.client.jobs.submit(jobspec))

    def job(self, jobid: int | str | Job) -> Job:
        """A job by its id, in any of its forms (RFC 19)."""
        from pytest_flux.protocol.fluid import parse_fluid

        if isinstance(jobid, Job):
            return jobid
        return Job(self, parse_fluid(jobid) if isinstance(jobid, str) else jobid)

    def handle(self) -> Any:  # noqa: ANN401 - flux.Flux has no types
        """A ``flux.Flux`` of Flux's own Python bindings. Skips the test, and says why, where they cannot be."""
        try:
            import flux  # type: ignore[import-not-found]
        except ImportError as error:
            import pytest

            pytest.skip(f"no Python bindings of Flux: `import flux` says {error}")
        return flux.Flux(self.uri)

    def wait_status(self, status: str, *, rank: int = 0, timeout: float | None = None) -> None:
        """Wait until the overlay below ``rank`` is in a status: full, partial, degraded, lost or offline.

        Raises TimeoutError, which names the status that it has instead.
        """
        patience, seen = self.patience(timeout), "unknown"
        rpc = self.client.rpc("overlay.health", nodeid=rank, streaming=True)
        try:
            import time

            deadline = time.monotonic() + patience
            while seen != status:
                seen = str(rpc.get(max(deadline - time.monotonic(), 0))["status"])
        except TimeoutError:
            text = f"overlay of rank {rank} not {status} within {patience:g} s: it is {seen}"
            raise TimeoutError(text) from None
        finally:
            rpc.cancel()
            rpc.abandon()

"""A running instance, as a test holds it."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from pytest_flux.client import Flux
from pytest_flux.launcher.detached import DetachedSession
from pytest_flux.launcher.spec import LaunchError
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.message import NODEID_ANY
from pytest_flux.settings import Settings

_LAST_LINES = 20
_RANKED = re.compile(r"^(?:<\d>|\S+ +\d+ [\d:.]+ \S+ \d{4} )?[\w-]+\.\w+\[(\d+)\]: ")
_STOPPED_BY_US = 128 + 15


class InstanceError(Exception):
    """An instance that did not come up, or did not end as it should; the text has the last log lines of each rank."""


class FluxInstance:
    """An instance of ``settings.size`` brokers, from ``start`` (or entering the context) to ``stop`` (or leaving it).

    Until then it has no ``uri``. Nothing of it outlives the process that holds it, however that ends.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.size = self.settings.size
        self._session: DetachedSession | None = None
        self._client: Flux | None = None
        self._environ: dict[str, str] = {}
        self._output = tempfile.TemporaryFile()  # noqa: SIM115

    def __repr__(self) -> str:
        state = f"at {self.uri}" if self._session else "not running"
        return f"<FluxInstance of {self.size} brokers, {state}>"

    def __enter__(self) -> FluxInstance:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # -- life

    def start(self) -> None:
        """Bring the instance up, and wait until it runs. Raises InstanceError."""
        environ = {name: value for name, value in os.environ.items() if name not in ("FLUX_URI", "FLUX_START_URI")}
        self._session = DetachedSession(self.settings.spec(), environ, self._output)
        timeout = self.settings.timeout
        try:
            self._session.wait_booted(0, timeout)
            self._client = Flux(self.uri)
            self._client.rpc("state-machine.wait").get(timeout)
            self._environ = self._ask_environ()
        except (LaunchError, FluxError, OSError) as error:
            reason = f"not running after {timeout:g} s" if isinstance(error, TimeoutError) else str(error)
            self._close_client()
            self._session.kill()
            self._session = None
            tail = self.log_tail()
            self._output.close()
            raise InstanceError(f"instance of {self.size} brokers: {reason}\n{tail}") from None

    def stop(self) -> None:
        """Shut the instance down in order. Raises InstanceError if it ends with an error of its own."""
        if self._session is None:
            return
        session, self._session = self._session, None
        self._close_client()
        code = session.stop(self.settings.timeout)
        failed = {rank: code for rank, code in session.exit_codes.items() if code}
        tail = self.log_tail()
        self._output.close()
        if failed or code not in (0, _STOPPED_BY_US):
            ranks = ", ".join(f"rank {rank} with exit code {failed[rank]}" for rank in sorted(failed))
            reason = f"ended: {ranks}" if failed else f"ended with exit code {code}"
            raise InstanceError(f"instance of {self.size} brokers {reason}\n{tail}")

    def _close_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _ask_environ(self) -> dict[str, str]:
        """What programs inside the instance have in their environment: the broker runs one to see."""
        assert self._client is not None
        command = {"cmdline": ["/usr/bin/env", "-0"], "cwd": "/", "env": {}, "opts": {}, "channels": []}
        output = ""
        for answer in self._client.rpc("rexec.exec", {"cmd": command, "flags": 1}, nodeid=0, streaming=True):
            output += answer.get("io", {}).get("data", "")
        pairs = (item.partition("=") for item in output.split("\0") if item)
        inside = {name: value for name, _, value in pairs}
        return {**inside, "FLUX_URI": self.uri}

    # -- what a test can ask

    @property
    def rundir(self) -> str:
        """The directory of the instance's sockets."""
        if self._session is None or self._session.rundir is None:
            raise InstanceError("the instance is not running")
        return self._session.rundir

    @property
    def uri(self) -> str:
        """Where rank 0 takes clients: the FLUX_URI of this instance."""
        return f"local://{self.rundir}/local-0"

    @property
    def env(self) -> dict[str, str]:
        """The environment for a program that shall find the instance, and a `flux` command that goes with it."""
        return dict(self._environ)

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

    @property
    def client(self) -> Flux:
        """A connection to rank 0."""
        if self._client is None:
            raise InstanceError("the instance is not running")
        return self._client

    def getattr(self, name: str) -> str:
        """A broker attribute of rank 0. FluxError ENOENT where there is none."""
        return self.client.getattr(name)

    def rpc(
        self,
        topic: str,
        payload: dict[str, Any] | None = None,
        *,
        rank: int = NODEID_ANY,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Ask a service, at ``rank`` or the nearest, and give its answer. FluxError if that is an error."""
        return self.client.rpc(topic, payload, nodeid=rank).get(timeout or self.settings.timeout)

    def log(self) -> str:
        """Everything that brokers and launcher have printed so far."""
        position = os.lseek(self._output.fileno(), 0, os.SEEK_CUR)
        return os.pread(self._output.fileno(), position, 0).decode(errors="replace")

    def log_tail(self) -> str:
        """The last lines of each rank, and of what belongs to none."""
        ranks: dict[str, list[str]] = {}
        for line in self.log().splitlines():
            match = _RANKED.match(line)
            ranks.setdefault(f"rank {match[1]}" if match else "launcher", []).append(line)
        return "\n".join(
            f"--- {name} ---\n" + "\n".join(lines[-_LAST_LINES:]) for name, lines in sorted(ranks.items())
        )

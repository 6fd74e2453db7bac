"""A session that runs in processes of its own, for a program that has other things to do.

The program starts an interpreter that does nothing but run the session, and holds one end of a pipe, its lifeline.
When that end closes, for whatever reason, everything is taken down.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import IO, Any

from pytest_flux.launcher.spec import LaunchError, LaunchSpec

# The interpreter finds what we would find, wherever it is started.
_PROGRAM = "import sys; sys.path[:] = {path!r}; from pytest_flux.launcher.detached import main; sys.exit(main())"


class DetachedSession:
    """Started on creation. What brokers print, and what the launcher has to say, goes to ``output``.

    ``environ`` is the environment that the brokers get. ``rundir`` and ``exit_codes``, by rank, are known once told.
    """

    def __init__(self, spec: LaunchSpec, environ: Mapping[str, str], output: IO[bytes]) -> None:
        self.rundir: str | None = None
        self.exit_codes: dict[int, int] = {}
        self._booted: set[int] = set()
        self._unread = b""
        theirs, self._lifeline = os.pipe()
        self._status, told = os.pipe()
        arguments = [json.dumps(spec._asdict()), str(theirs), str(told)]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM.format(path=sys.path), *arguments],
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs, told),
                # Signals that a terminal sends to its foreground group are not meant for the instance.
                start_new_session=True,
            )
        finally:
            os.close(theirs)
            os.close(told)

    @property
    def pid(self) -> int:
        """Process id of the session's front."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """128 + n if it ended by signal n; None while it runs."""
        return self._process.poll()

    def wait_booted(self, rank: int, timeout: float) -> None:
        """Wait until clients may connect to a rank. LaunchError if the session ends first, TimeoutError."""
        deadline = time.monotonic() + timeout
        while rank not in self._booted:
            if not self._read_status(deadline - time.monotonic()):
                code = self._process.wait()
                raise LaunchError(f"the instance ended with exit code {code} before rank {rank} was up")

    def stop(self, timeout: float) -> int:
        """Have the instance shut down in order; kill it when that takes longer than ``timeout``. The exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return self.kill()
        finally:
            while self._status >= 0 and self._read_status(timeout):
                pass
            self._close()

    def kill(self) -> int:
        """Take everything down at once. The exit code."""
        self._close()
        return self._process.wait()

    def _read_status(self, timeout: float) -> bool:
        """Take in what the session tells; False at its end."""
        ready, _, _ = select.select([self._status], [], [], max(timeout, 0))
        if not ready:
            raise TimeoutError
        data = os.read(self._status, 4096)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            what, _, value = os.fsdecode(line).partition(" ")
            if what == "rundir":
                self.rundir = value
            elif what == "booted":
                self._booted.add(int(value))
            elif what == "ended":
                rank, code = map(int, value.split())
                self.exit_codes[rank] = code
        return bool(data)

    def _close(self) -> None:
        for fd in (self._lifeline, self._status):
            if fd >= 0:
                os.close(fd)
        self._lifeline = self._status = -1


def main() -> int:
    """Run a session for a DetachedSession in another process. Returns its exit code."""
    from pytest_flux.launcher.engine import find_engine
    from pytest_flux.launcher.report import report
    from pytest_flux.launcher.session import run_session
    from pytest_flux.launcher.spec import validate

    spec_text, lifeline, status = sys.argv[1:]
    fields: dict[str, Any] = json.loads(spec_text)
    for name, value in fields.items():
        fields[name] = tuple(value) if isinstance(value, list) else value
    spec = LaunchSpec(**fields)
    try:
        validate(spec)
        engine = find_engine(spec.broker, os.environ)
    except LaunchError as error:
        report(str(error))
        return 1
    return run_session(spec, engine, lifeline=int(lifeline), status=int(status))

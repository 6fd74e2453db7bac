"""A running instance, as a test holds it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from pytest_flux.launcher.detached import DetachedSession
from pytest_flux.launcher.spec import LaunchError
from pytest_flux.protocol.errors import FluxError
from pytest_flux.session.log import InstanceLog, tail
from pytest_flux.session.ownership import mark
from pytest_flux.session.preparation import prepare
from pytest_flux.session.readiness import reason_of, wait_for_clients
from pytest_flux.session.surface import Surface
from pytest_flux.session.tracebacks import is_plain
from pytest_flux.settings import Settings, describe

if TYPE_CHECKING:
    from pytest_flux.session.brokers import BrokerHandle
    from pytest_flux.session.preparation import Preparation

__tracebackhide__ = is_plain
_STOPPED_BY_US = 128 + 15
_LOST_PARENT = 1


class InstanceError(Exception):
    """An instance that did not come up, or did not end as it should; the text has the last log lines of each rank."""


class FluxInstance(Surface):
    """An instance of ``settings.size`` brokers, from ``start`` (or entering the context) to ``stop`` (or leaving it).

    Until then it has no ``uri``. Nothing of it outlives the process that holds it, however that ends. ``keep``
    has its rundir, with state and log, stay when it is gone; ``durable`` has its state on disk, should rank 0 die;
    ``trace`` has PMI conversations in its log; ``output`` takes its log; ``lifeline`` is as for DetachedSession.
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
        super().__init__((settings or Settings()).timeout)
        self.settings = settings or Settings()
        self.size = self.settings.size
        self.keep = keep
        self.kept_at: str | None = None
        self.output = output or InstanceLog()
        self._durable = durable
        self._trace = trace
        self._lifeline = lifeline
        self._session: DetachedSession | None = None
        self._preparation: Preparation | None = None

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
        environ = {name: value for name, value in os.environ.items() if name not in ("FLUX_URI", "FLUX_START_URI")}
        try:
            keep = self.keep or self._durable
            self._preparation = prepare(self.settings, environ, keep=keep, trace=self._trace)
            spec, output = self._preparation.spec, self.output.fileno()
            self._session = DetachedSession(spec, self._preparation.environ, output, lifeline=self._lifeline)
        except (LaunchError, OSError) as error:
            raise self._failure(str(error)) from None

    def release(self) -> tuple[int, str]:
        """Leave a session that has begun to others; process id of its front, and rundir. Raises InstanceError."""
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
        """Bring the instance up, and wait until it runs. Raises InstanceError."""
        if self._session is None:
            self.begin()
        assert self._session is not None
        deadline = time.monotonic() + self.settings.timeout
        try:
            wait_for_clients(self, self._session, deadline)
            if self._owns_rundir():
                mark(self.rundir, self._session.pid)
            self.client.rpc("state-machine.wait").get(max(deadline - time.monotonic(), 0))
        except (LaunchError, FluxError, OSError) as error:
            reason = str(error)
            if isinstance(error, TimeoutError):
                reason = f"not running after {self.settings.timeout:g} s"
            elif not isinstance(error, LaunchError):
                # It is on its way out, or has hung up on us; why is what the launcher knows.
                reason = reason_of(self._session, reason)
            self._close_connections()
            self._session.kill()
            self._session = None
            raise self._failure(reason) from None
        except BaseException:
            self.kill()
            raise

    def _owns_rundir(self) -> bool:
        return self.settings.rundir is None and self._preparation is not None

    def stop(self) -> None:
        """Shut the instance down in order. Raises InstanceError if it ends with an error of its own."""
        self.begin_stop()
        self.finish_stop()

    def begin_stop(self) -> None:
        """Have the instance shut down, without waiting for it."""
        self._close_connections()
        if self._session is not None:
            self._session.terminate()

    def finish_stop(self) -> None:
        """Wait for the end that :meth:`begin_stop` has begun. Raises as :meth:`stop`."""
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
        """Take the instance down at once, without an error."""
        self._close_connections()
        session, self._session = self._session, None
        if session is not None:
            session.kill()
        self._end()

    def renew(self) -> None:
        """Forget the instance that was, and be ready to start another."""
        self.kill()
        self.output = InstanceLog()
        self.expected_ends.clear()
        self.killed.clear()
        self.suspended.clear()

    @property
    def can_be_restored(self) -> bool:
        """Whether it is for us to put things back in it."""
        return True

    def _unexpected(self, exit_codes: Mapping[int, int]) -> dict[int, int]:
        """Without those that were killed on purpose, and those that have lost them as parents: they exit with 1."""
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
        """Whether processes of it may still be there."""
        return self._session is not None and self._session.poll() is None

    def dead_brokers(self) -> dict[int, int]:
        """Exit codes, by rank, of the brokers that have ended."""
        if self._session is None:
            return {}
        self._session.poll()
        return dict(self._session.exit_codes)

    def failed_brokers(self) -> dict[int, int]:
        """Those of them that nobody has killed on purpose."""
        return self._unexpected(self.dead_brokers())

    def await_killed(self, timeout: float) -> None:
        """Wait for the ends of the brokers that were sent SIGKILL, no longer than ``timeout``."""
        deadline = time.monotonic() + timeout
        if self._session is None:
            return
        for rank in self.killed:
            try:
                self._session.wait_ended(rank, max(deadline - time.monotonic(), 0))
            except TimeoutError:
                return

    # -- what there is

    @property
    def directory(self) -> str | None:
        """The directory that was made for it and may be kept, if one was."""
        return self._preparation.directory if self._preparation is not None else None

    @property
    def statedir(self) -> str | None:
        """The directory of its state, if that does not go with its rank 0."""
        settings = self._preparation.spec.setattrs if self._preparation is not None else ()
        named = [setting.partition("=")[2] for setting in settings if setting.startswith("statedir=")]
        return named[-1] if named else None

    @property
    def is_running(self) -> bool:
        """Whether the instance has been started, and not been stopped."""
        return self._session is not None and self._session.rundir is not None

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
    def brokers(self) -> Sequence[BrokerHandle]:
        """The brokers, by rank: to kill, stop, start and look at."""
        from pytest_flux.session.brokers import BrokerHandle

        return [BrokerHandle(self, rank) for rank in range(self.size)]

    def log(self) -> str:
        """Everything that brokers and launcher have printed so far."""
        return self.output.text()

    def log_tail(self) -> str:
        """The last lines of each rank, and of what belongs to none."""
        return tail(self.log())


def _ended(failed: dict[int, int], code: int) -> str:
    ranks = ", ".join(f"rank {rank} with exit code {failed[rank]}" for rank in sorted(failed))
    return f"ended: {ranks}" if failed else f"ended with exit code {code}"


Starter = Callable[..., FluxInstance]
"""What ``flux_instance_factory`` is: keywords are those of Settings, what it gives runs."""

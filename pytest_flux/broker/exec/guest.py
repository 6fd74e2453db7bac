"""What a running job has in the KVS: its logs, and what its tasks write and read (RFC 16, "Guest namespace")."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.exec.options import OUTPUT_LIMIT, WARNING, ShellFailure, input_limit, output_limit
from pytest_flux.broker.exec.output import cut, event_line
from pytest_flux.broker.kvs import Op, put_op
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import kvs_key

if TYPE_CHECKING:
    from pytest_flux.broker.kvs import Kvs
    from pytest_flux.reactor.reactor import Reactor

_HEADERS = {
    "output": {"encoding": {"stdout": "UTF-8", "stderr": "UTF-8"}},
    "input": {"encoding": {"stdin": "UTF-8"}},
}

_DELAY = 0.03
"""For how many seconds a job's logs are gathered. flux-core's job-exec and shells gather them for much longer."""

_TOO_MUCH_INPUT = (
    "stdin exceeds {} limit. Try file input (flux submit --input=FILE) or redirect input to your command"
    " to avoid the KVS for large amounts of input"
)


class Guest:
    """``exec.eventlog``, ``output`` and ``input`` of one job, in a namespace of their own.

    When the job ends, the namespace becomes a directory below the job's. It is made when somebody asks for it, or
    soon. If a job ends before that, as most do in tests, its logs go straight to that directory. If the job is
    ``quiet``, so that nothing would be lost in a crash, it is only made for somebody who asks.
    """

    def __init__(self, kvs: Kvs, reactor: Reactor, job_id: int, userid: int, *, quiet: bool = False) -> None:
        self._kvs = kvs
        self._reactor = reactor
        self._clock = reactor.clock
        self._userid = userid
        self._key = kvs_key(job_id, "guest")
        self._namespace = f"job-{job_id}"
        self._pending: dict[str, list[str]] = {}
        self._kvs.expect_namespace(self._namespace, self._make)
        self._timer = None if quiet else reactor.call_later(_DELAY, self._make)
        self._is_made = False

    def _make(self) -> None:
        if self._is_made:
            return
        self._is_made = True
        self._cancel()
        self._kvs.expect_namespace(self._namespace, None)
        self._kvs.create_namespace(self._namespace, owner=self._userid)
        self._kvs.commit([Op(self._key, treeobj.symlink(".", self._namespace))])
        pending, self._pending = self._pending, {}
        for key, lines in pending.items():
            self.append(key, "".join(lines))

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def log(self, name: str, context: dict[str, object] | None = None) -> None:
        """Append to the exec eventlog."""
        self.append("exec.eventlog", event_line(self._clock.time(), name, context))

    def log_input(self, io: dict[str, Any]) -> None:
        """Append RFC 24 data to the log of the input."""
        self.append("input", event_line(self._clock.time(), "data", io))

    def append(self, key: str, lines: str) -> None:
        """Append lines to one of the logs."""
        if self._is_made:
            self._kvs.append(key, _encode(lines), namespace=self._namespace)
        else:
            self._pending.setdefault(key, []).append(lines)

    def begin(self, log: str, **counts: int) -> None:
        """Begin ``output`` or ``input`` with its header (RFC 24)."""
        header: dict[str, object] = {"version": 1, **_HEADERS[log], "count": counts, "options": {}}
        self.append(log, event_line(self._clock.time(), "header", header))

    def end(self, done: Callable[[], None]) -> None:
        """Make the logs a part of the primary namespace, then call back."""

        def grafted(_: FluxError | None) -> None:
            self._kvs.remove_namespace(self._namespace)
            done()

        if self._is_made:
            self._kvs.graft(self._namespace, self._key, grafted)
            return
        self._cancel()
        self._kvs.expect_namespace(self._namespace, None)
        values = {key: _encode("".join(lines)) for key, lines in self._pending.items()}
        self._kvs.commit([put_op(f"{self._key}.{key}", value) for key, value in values.items()], soon=False)
        # Readers find the logs there already, so the job's resources need not wait. But this round has to end first.
        self._reactor.call_soon(done)


class Streams:
    """What all tasks of a job write and read, up to the limits of what the KVS takes.

    ``log`` gets level, message and component of a message for the job's output.
    """

    def __init__(self, guest: Guest, log: Callable[[int, str, str], None]) -> None:
        self._guest = guest
        self._log = log
        self._limit = OUTPUT_LIMIT
        self._input_limit = input_limit({})
        self._sizes: dict[str, int] = {}

    def configure(self, shell_options: dict[str, Any]) -> None:
        """Read the limits from the options. ShellFailure."""
        self._limit = output_limit(shell_options)
        self._input_limit = input_limit(shell_options)

    def put_out(self, stream: str, size: int, text: str) -> None:
        """Append lines to ``guest.output`` that hold ``size`` bytes of a stream."""
        before = self._sizes.get(stream, 0)
        self._sizes[stream] = before + size
        if size and before + size > self._limit:
            if before > self._limit:
                return
            self._log(WARNING, f"{stream} will be truncated, {self._limit} limit exceeded", "output.kvs")
            text = cut(text, self._limit - before)
        self._guest.append("output", text)

    def take_input(self, io: dict[str, Any], size: int) -> None:
        """Log RFC 24 data for tasks. ShellFailure if that is too much."""
        limit, text = self._input_limit
        self._sizes["stdin"] = self._sizes.get("stdin", 0) + size
        if self._sizes["stdin"] > limit:
            raise ShellFailure(_TOO_MUCH_INPUT.format(text), component="input.util")
        self._guest.log_input(io)


def _encode(lines: str) -> bytes:
    return lines.encode("utf-8", "surrogatepass")

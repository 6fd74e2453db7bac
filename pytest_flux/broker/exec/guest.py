"""A job's part of the KVS while it runs: a namespace of its own, which ends up below the job's directory (RFC 16)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_flux.broker.exec.output import event_line
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


_DELAY = 0.01
"""Seconds that a job's logs are gathered for. flux-core's job-exec and shells do the same, for much longer."""


class Guest:
    """``exec.eventlog``, ``output`` and ``input`` of one job.

    The namespace is made when somebody asks for it, or soon. The logs of a job that is over before that, as most in
    tests are, go to where they belong in one step.
    """

    def __init__(self, kvs: Kvs, reactor: Reactor, job_id: int, userid: int) -> None:
        self._kvs = kvs
        self._reactor = reactor
        self._userid = userid
        self._key = kvs_key(job_id, "guest")
        self._namespace = f"job-{job_id}"
        self._pending: dict[str, list[str]] = {}
        self._kvs.expect_namespace(self._namespace, self._make)
        self._timer = reactor.call_later(_DELAY, self._make)
        self._is_made = False

    def _make(self) -> None:
        if self._is_made:
            return
        self._is_made = True
        self._timer.cancel()
        self._kvs.expect_namespace(self._namespace, None)
        self._kvs.create_namespace(self._namespace, owner=self._userid)
        self._kvs.commit([Op(self._key, treeobj.symlink(".", self._namespace))])
        pending, self._pending = self._pending, {}
        for key, lines in pending.items():
            self.append(key, "".join(lines))

    def log(self, name: str, context: dict[str, object] | None = None) -> None:
        """Append to the exec eventlog."""
        self.append("exec.eventlog", event_line(name, context))

    def append(self, key: str, lines: str) -> None:
        """Append lines to one of the logs."""
        if self._is_made:
            self._kvs.append(key, _encode(lines), namespace=self._namespace)
        else:
            self._pending.setdefault(key, []).append(lines)

    def begin(self, log: str, **counts: int) -> None:
        """Begin ``output`` or ``input`` with its header (RFC 24)."""
        header: dict[str, object] = {"version": 1, **_HEADERS[log], "count": counts, "options": {}}
        self.append(log, event_line("header", header))

    def end(self, done: Callable[[], None]) -> None:
        """Make it part of the primary namespace."""

        def grafted(_: FluxError | None) -> None:
            self._kvs.remove_namespace(self._namespace)
            done()

        if self._is_made:
            self._kvs.graft(self._namespace, self._key, grafted)
            return
        self._timer.cancel()
        self._kvs.expect_namespace(self._namespace, None)
        values = {key: _encode("".join(lines)) for key, lines in self._pending.items()}
        self._kvs.commit([put_op(f"{self._key}.{key}", value) for key, value in values.items()], soon=False)
        # Whoever looks finds it there. So the job's resources need not wait, but this round has to end first.
        self._reactor.call_soon(done)


def _encode(lines: str) -> bytes:
    return lines.encode("utf-8", "surrogatepass")

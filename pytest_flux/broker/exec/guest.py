"""A job's part of the KVS while it runs: a namespace of its own, which ends up below the job's directory (RFC 16)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_flux.broker.exec.output import event_line
from pytest_flux.broker.kvs import Op
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import kvs_key

if TYPE_CHECKING:
    from pytest_flux.broker.kvs import Kvs

_HEADERS = {
    "output": {"encoding": {"stdout": "UTF-8", "stderr": "UTF-8"}},
    "input": {"encoding": {"stdin": "UTF-8"}},
}


class Guest:
    """``exec.eventlog``, ``output`` and ``input`` of one job."""

    def __init__(self, kvs: Kvs, job_id: int, userid: int) -> None:
        self._kvs = kvs
        self._key = kvs_key(job_id, "guest")
        self._namespace = f"job-{job_id}"
        kvs.create_namespace(self._namespace, owner=userid)
        kvs.commit([Op(self._key, treeobj.symlink(".", self._namespace))])

    def log(self, name: str, context: dict[str, object] | None = None) -> None:
        """Append to the exec eventlog."""
        self.append("exec.eventlog", event_line(name, context))

    def append(self, key: str, lines: str) -> None:
        """Append lines to one of the logs."""
        self._kvs.append(key, lines.encode("utf-8", "surrogatepass"), namespace=self._namespace)

    def begin(self, log: str, **counts: int) -> None:
        """Begin ``output`` or ``input`` with its header (RFC 24)."""
        header: dict[str, object] = {"version": 1, **_HEADERS[log], "count": counts, "options": {}}
        self.append(log, event_line("header", header))

    def end(self, done: Callable[[], None]) -> None:
        """Make it part of the primary namespace."""

        def grafted(_: FluxError | None) -> None:
            self._kvs.remove_namespace(self._namespace)
            done()

        self._kvs.graft(self._namespace, self._key, grafted)

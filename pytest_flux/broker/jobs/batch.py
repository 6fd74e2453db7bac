"""Everything that job events change in the KVS during one round of the loop, as one commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_flux.broker.jobs.store import APPEND, PUT, UNLINK, Operation, Store
from pytest_flux.protocol.fluid import kvs_key

if TYPE_CHECKING:
    from pytest_flux.reactor.reactor import Reactor

_DELAY = 0.01

Committed = Callable[[int], None]


class Batch:
    """Collects changes until the round ends, or, while ``is_busy`` says so, for the 10 ms that flux-core waits.

    One commit is under way at a time: what comes in meanwhile makes the next one larger instead of more of them.
    """

    def __init__(
        self, reactor: Reactor, store: Store, failed: Callable[[int], None], is_busy: Callable[[], bool]
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._failed = failed
        self._is_busy = is_busy
        self._operations: list[Operation] = []
        self._lines: dict[int, list[str]] = {}
        self._afterwards: list[Committed] = []
        self._is_planned = False
        self._is_committing = False
        self._preserves = False

    @property
    def is_clean(self) -> bool:
        """Whether all that was changed can be seen by everybody."""
        return not (self._is_planned or self._is_committing)

    def put(self, key: str, value: bytes) -> None:
        """Set a key. In a commit, keys are set before events are appended."""
        self._operations.append((PUT, key, value))
        self._plan()

    def unlink(self, key: str) -> None:
        """Remove a key and all below."""
        self._operations.append((UNLINK, key, b""))
        self._plan()

    def append(self, job_id: int, line: str) -> None:
        """Append an event to a job's log."""
        lines = self._lines.get(job_id)
        if lines is None:
            lines = self._lines[job_id] = []
            self._plan()
        lines.append(line)

    def afterwards(self, callback: Committed, *, preserve: bool = False) -> None:
        """Call back, with 0 or an errno, once all that was changed up to now can be seen by everybody.

        With ``preserve``, it also is not forgotten by a broker that is killed then.
        """
        self._afterwards.append(callback)
        self._preserves |= preserve
        self._plan()

    def _plan(self) -> None:
        if not self._is_planned and not self._is_committing:
            self._is_planned = True
            if self._is_busy():
                self._reactor.call_later(_DELAY, self._flush)
            else:
                self._reactor.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_planned = False
        operations, self._operations = self._operations, []
        lines, self._lines = self._lines, {}
        afterwards, self._afterwards = self._afterwards, []
        for job_id, written in lines.items():
            data = "".join(written).encode("utf-8", "surrogatepass")
            operations.append((APPEND, kvs_key(job_id, "eventlog"), data))
        preserves, self._preserves = self._preserves, False
        if not operations and not preserves:
            _tell(afterwards, 0)
            return
        self._is_committing = True

        def done(errnum: int) -> None:
            self._is_committing = False
            if errnum:
                self._failed(errnum)
            _tell(afterwards, errnum)
            if self._operations or self._lines or self._afterwards:
                self._plan()

        self._store.commit(operations, done, preserve=preserves)


def _tell(callbacks: list[Committed], errnum: int) -> None:
    for callback in callbacks:
        callback(errnum)

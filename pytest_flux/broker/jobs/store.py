"""The part of the KVS that holds the jobs, and how their changes get there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import kvs_key
from pytest_flux.protocol.json_value import compact

if TYPE_CHECKING:
    from pytest_flux.broker.kvs import Kvs
    from pytest_flux.reactor.reactor import Reactor

PUT, APPEND, UNLINK = "put", "append", "unlink"
Operation = tuple[str, str, bytes]
"""What to do (PUT, APPEND or UNLINK), key, value."""

Committed = Callable[[int], None]
"""Called with 0, or with an errno."""

_DELAY = 0.01


class Store(Protocol):
    """The primary namespace of a KVS."""

    def commit(self, operations: list[Operation], done: Committed, *, preserve: bool = False) -> None:
        """Do all operations at once, in order; call ``done`` when every reader can see them.

        With ``preserve``, a broker that is killed after that finds them again when it restarts.
        """

    def lookup(self, key: str) -> bytes | None:
        """Return the value of a key, or None if there is none."""

    def list(self, key: str) -> list[str]:
        """Return the names in a directory, sorted; an empty list if there is no such directory."""

    @property
    def is_volatile(self) -> bool:
        """Whether a broker that restarts finds nothing again."""

    def extent(self) -> tuple[int, int]:
        """Return the number of blobs in the store, and their total size in bytes."""


class KvsClient:
    """The instance's own KVS, on rank 0, as a Store."""

    def __init__(self, kvs: Kvs) -> None:
        self._kvs = kvs

    def commit(self, operations: list[Operation], done: Committed, *, preserve: bool = False) -> None:
        """See Store."""
        # Imported here: postmortem reads jobs with this module and needs no KVS.
        from pytest_flux.broker.kvs.transaction import APPEND as APPEND_FLAG
        from pytest_flux.broker.kvs.transaction import Op
        from pytest_flux.protocol import treeobj

        ops = []
        for kind, key, value in operations:
            if kind == UNLINK:
                ops.append(Op(key, None))
            else:
                ops.append(Op(key, treeobj.val(value), APPEND_FLAG if kind == APPEND else 0))

        def committed(error: FluxError | None) -> None:
            if preserve and error is None:
                try:
                    self._kvs.preserve()
                except FluxError as failure:
                    error = failure
            done(0 if error is None else error.errnum)

        self._kvs.commit(ops, done=committed)

    def lookup(self, key: str) -> bytes | None:
        """See Store."""
        try:
            return self._kvs.lookup(key)
        except FluxError:
            return None

    def list(self, key: str) -> list[str]:
        """See Store."""
        try:
            return sorted(self._kvs.list(key))
        except FluxError:
            return []

    @property
    def is_volatile(self) -> bool:
        """See Store."""
        return self._kvs.content.volatile

    def extent(self) -> tuple[int, int]:
        """See Store."""
        return self._kvs.content.extent()


class Batch:
    """Collects all changes of one round of the reactor and makes one commit of them.

    While ``is_busy`` returns true, it collects for 10 ms, as flux-core does (event.c, ``batch_timeout``). One commit
    is under way at a time: changes that arrive meanwhile make the next commit larger. ``failed`` is called with the
    errno of a commit that failed.
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
        self._is_put_off = False
        self._is_committing = False
        self._preserves = False
        self._is_closed = False

    def close(self) -> None:
        """Commit what there is at once, and take no more: somebody else writes these keys from now on."""
        self._flush()
        self._is_closed = True

    @property
    def is_clean(self) -> bool:
        """Whether every reader of the KVS can see all changes."""
        return not (self._is_planned or self._is_put_off or self._is_committing)

    def put(self, key: str, value: bytes) -> None:
        """Set a key. A commit sets keys before it appends events."""
        if not self._is_closed:
            self._operations.append((PUT, key, value))
            self._plan()

    def unlink(self, key: str) -> None:
        """Remove a key and everything below it."""
        if not self._is_closed:
            self._operations.append((UNLINK, key, b""))
            self._plan()

    def append(self, job_id: int, line: str) -> None:
        """Append an event to a job's log."""
        if self._is_closed:
            return
        lines = self._lines.get(job_id)
        if lines is None:
            lines = self._lines[job_id] = []
            self._plan()
        lines.append(line)

    def afterwards(self, callback: Committed, *, preserve: bool = False) -> None:
        """Call back, with 0 or an errno, when every reader can see all changes made up to now.

        With ``preserve``, a broker that is killed after that still finds them when it restarts.
        """
        self._afterwards.append(callback)
        self._preserves |= preserve
        self._plan()

    def preserved(self, then: Callable[[], None]) -> None:
        """Call back when no restart can lose the changes made up to now; at once if the store is volatile."""
        if self._store.is_volatile:
            then()
        else:
            self.afterwards(lambda _: then(), preserve=True)

    def _plan(self) -> None:
        if self._is_planned or self._is_committing:
            return
        if self._reactor.clock.is_virtual and not self._afterwards:
            # Nobody waits for it. If time jumps from event to event, a commit for each would take most of the work.
            if not self._is_put_off:
                self._is_put_off = True
                self._reactor.put_off(_DELAY, self._flush)
        else:
            self._is_planned = True
            if self._is_busy():
                self._reactor.batch(_DELAY, self._flush)
            else:
                self._reactor.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_planned = self._is_put_off = False
        operations, self._operations = self._operations, []
        lines, self._lines = self._lines, {}
        afterwards, self._afterwards = self._afterwards, []
        for job_id, written in lines.items():
            data = "".join(written).encode("utf-8", "surrogatepass")
            operations.append((APPEND, kvs_key(job_id, "eventlog"), data))
        preserves, self._preserves = self._preserves, False
        if not operations and not preserves:
            _call(afterwards, 0)
            return
        self._is_committing = True

        def done(errnum: int) -> None:
            self._is_committing = False
            if errnum:
                self._failed(errnum)
            _call(afterwards, errnum)
            if self._operations or self._lines or self._afterwards:
                self._plan()

        self._store.commit(operations, done, preserve=preserves)


def _call(callbacks: list[Committed], errnum: int) -> None:
    for callback in callbacks:
        callback(errnum)


def encode_value(value: object) -> bytes:
    """Encode a JSON value as Flux stores it: compact, without NUL or newline."""
    return compact(value).encode("utf-8", "surrogatepass")

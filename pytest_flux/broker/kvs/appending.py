"""Values that grow: the broker's own services append to event logs and output, often and in small pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flux.broker.kvs.namespace import PRIMARY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_flux.reactor.reactor import Reactor
    from pytest_flux.reactor.timers import Timer

# The share of time that may go into appending: a value with many parts costs more with each. If little is appended,
# as to event logs, that is done at once; a flood of output is gathered into fewer, larger parts.
_SHARE = 0.4
_LONGEST_WAIT = 0.05
# Each version of a value lists all its parts, and all versions are kept. So the longer a value gets, the longer its
# additions wait, in the end as long as flux-core's shells always let them wait.
_WAIT_PER_PART = 0.0005
_LONGEST_WAIT_OF_LONG = 1.0
# When this many bytes are gathered, they are appended at once.
_LARGEST_PART = 1 << 20


class Appending:
    """Gathers what is appended. ``settle`` is called when it is time to ``take`` it and commit it.

    What is appended to a key in one round becomes one part of the value, and everything becomes one commit.
    """

    def __init__(self, reactor: Reactor, settle: Callable[[], None]) -> None:
        self._reactor = reactor
        self._settle = settle
        self._gathered: dict[str, dict[str, list[bytes]]] = {}
        self._size = 0
        self._parts: dict[str, int] = {}
        self._timer: Timer | None = None
        self._earliest = 0.0

    def add(self, namespace: str, key: str, data: bytes) -> None:
        """Add to a value, soon."""
        self._gathered.setdefault(namespace, {}).setdefault(key, []).append(data)
        self._size += len(data)
        now = self._reactor.monotonic
        if self._timer is None:
            wait = max(0.0, self._earliest - now())
            parts = self._parts.get(namespace, 0)
            if parts > _LONGEST_WAIT / _WAIT_PER_PART:
                wait = max(wait, min(parts * _WAIT_PER_PART, _LONGEST_WAIT_OF_LONG))
            self._timer = self._reactor.batch(wait, self._due)
        elif self._size > _LARGEST_PART and self._timer.when > now():
            self._timer.cancel()
            self._timer = self._reactor.batch(0.0, self._due)

    def _due(self) -> None:
        self._timer = None
        started = self._reactor.monotonic()
        self._settle()
        spent = self._reactor.monotonic() - started
        self._earliest = started + spent + min(spent / _SHARE, _LONGEST_WAIT)

    def take(self) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
        """What was gathered, which is forgotten: for each namespace its keys, each with its bytes."""
        if not self._gathered:
            return
        gathered, self._gathered, self._size = self._gathered, {}, 0
        for namespace, values in gathered.items():
            if namespace != PRIMARY:
                self._parts[namespace] = self._parts.get(namespace, 0) + 1
            yield namespace, [(key, b"".join(parts)) for key, parts in values.items()]

    def forget(self, namespace: str) -> None:
        """The namespace is about to be removed."""
        self._parts.pop(namespace, None)

"""What the front tells the supervisor: one byte per signal to stop by."""

from __future__ import annotations

import signal
import time

#: Signals that shut an instance down.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_DELIVERED = 0x80
# The same signal twice within this time is one: timeout(1), for one, signals its child, then the whole group.
_DEBOUNCE = 0.1


def encode_order(signum: int, delivered: bool) -> bytes:
    """``delivered``: the brokers have been sent this signal as well."""
    return bytes([signum | (_DELIVERED if delivered else 0)])


def decode_orders(data: bytes) -> list[tuple[int, bool]]:
    """Pairs of signal number and whether it has been delivered."""
    return [(order & ~_DELIVERED, bool(order & _DELIVERED)) for order in data]


class Debounce:
    """Remembers signals, to know a second copy of one that has just been."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[int, float] = {}

    def is_new(self, signum: int) -> bool:
        """Whether a signal that has just been received is one of its own."""
        now = time.monotonic()
        last = self._last.get(signum)
        self._last[signum] = now
        return last is None or now - last >= _DEBOUNCE

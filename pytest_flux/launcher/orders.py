"""What the supervisor gets from the front: descriptors at the start, then an order for each signal, one byte long."""

from __future__ import annotations

import signal
import time

from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.launcher.sweeper import Sweeper
    from pytest_flux.launcher.terminal import Terminal

#: Signals that shut an instance down.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_DELIVERED = 0x80
# The same signal again within this time, in seconds, is a copy: timeout(1) signals its child, then the whole group.
_DEBOUNCE = 0.1


class Links(NamedTuple):
    """What the supervisor gets from the front.

    ``orders`` is a descriptor to read orders from, and a lifeline: when it ends, everything is killed. ``lifeline``,
    if given, is another. The supervisor writes to ``notes`` what the front must remove if the supervisor dies, and to
    ``status``, if given, lines for programs that wait: ``rundir PATH``, ``booted RANK``, ``ended RANK CODE``. Brokers
    join the process group ``group``; 0, which is what a process sees of a group outside of its container, means the
    supervisor's. ``watch`` is the reading end of the brokers' lifeline, whose writing end is inherited, too.
    """

    orders: int
    notes: int
    group: int
    terminal: Terminal | None
    lifeline: int | None
    status: int | None
    watch: int
    sweeper: Sweeper


def encode_order(signum: int, delivered: bool) -> bytes:
    """Encode an order. With ``delivered``, the brokers have got the signal as well."""
    return bytes([signum | (_DELIVERED if delivered else 0)])


def decode_orders(data: bytes) -> list[tuple[int, bool]]:
    """Decode orders to pairs: the signal's number, and whether it has been delivered."""
    return [(order & ~_DELIVERED, bool(order & _DELIVERED)) for order in data]


class Debounce:
    """Recognizes a copy of a signal that has just arrived."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[int, float] = {}

    def is_new(self, signum: int) -> bool:
        """Whether a signal that arrives now is not a copy."""
        now = time.monotonic()
        last = self._last.get(signum)
        self._last[signum] = now
        return last is None or now - last >= _DEBOUNCE

"""`flux ping`: measure the round trip to a service, and show the route."""

from __future__ import annotations

import os
import time

from pytest_flux.cli.command import SIZE_UNITS, Command, CommandError, Context
from pytest_flux.client.core import NODEID_UPSTREAM
from pytest_flux.client.hosts import HostMap
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.message import NODEID_ANY
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client import Flux, Rpc
    from pytest_flux.options import Options

OPTIONS = (
    Option("rank", "r", "RANK", usage="Look for TARGET at this rank or host, or at 'any' or 'upstream'"),
    Option("pad", "p", "N", usage="Add N bytes to each request; N may end in k, M or G"),
    Option("interval", "i", "N", usage="Send one request every N seconds (default 1)"),
    Option("count", "c", "N", usage="Send N requests, then stop"),
    Option("batch", "b", usage="Read responses only after all requests are sent"),
    Option("userid", "u", usage="Print the userid and rolemask that the request had"),
)

_INT_MAX = 2**31 - 1
_NANOSECONDS = 10**9


class Target(NamedTuple):
    """The service and rank to ping, and the rank's name on the command line."""

    service: str
    nodeid: int
    node: str
    note: str

    @property
    def topic(self) -> str:
        """Return the topic of the request."""
        return f"{self.service}.ping"


def ping(options: Options, context: Context) -> int:
    """Send requests at intervals, print each response when it comes."""
    if len(options.arguments) != 1:
        raise context.command.usage_error()
    pad = "p" * _parse_size(options)
    target = options.arguments[0]
    if options.has("rank"):
        if "!" in target:
            raise CommandError("--rank and TARGET both try to specify a nodeid")
        target = f"{options.get('rank')}!{target}"
    interval = options.duration("interval", 1.0)
    count = options.integer("count", 0)
    if count < 0:
        raise CommandError("count must be >= 0")
    if options.has("batch") and count == 0:
        raise CommandError("--batch should only be used with --count")
    with context.open() as flux:
        found = find_target(HostMap.of(flux), target)
        print(f"flux-ping {found.node}!{found.service}{found.note}", flush=True)
        _Pinger(flux, found, pad, with_userid=options.has("userid")).run(interval, count, batch=options.has("batch"))
    return 0


def find_target(hosts: HostMap, text: str) -> Target:
    """Parse ``NODE!SERVICE``, ``NODE`` (the broker there) or ``SERVICE`` (the nearest). Raises CommandError."""
    node, bang, service = text.partition("!")
    found = _find_node(hosts, node)
    if found is not None:
        return Target(service if bang else "broker", found[0], found[1], found[2])
    if bang:
        raise CommandError(f"invalid nodeid/host: '{node}'")
    return Target(text, NODEID_ANY, "any", "")


def _find_node(hosts: HostMap, text: str) -> tuple[int, str, str] | None:
    if text == "any":
        return NODEID_ANY, text, ""
    if text == "upstream":
        return NODEID_UPSTREAM, text, ""
    rank = hosts.rank_of(text)
    if rank is not None:
        return rank, text, f" (rank {rank})"
    if text.isascii() and text.isdigit() and len(text) <= 10:
        return int(text), str(int(text)), ""
    return None


class _Pinger:
    def __init__(self, flux: Flux, target: Target, pad: str, *, with_userid: bool) -> None:
        self._flux = flux
        self._target = target
        self._pad = pad
        self._with_userid = with_userid
        self._sent = 0
        self._received = 0

    def run(self, interval: float, count: int, *, batch: bool) -> None:
        due = time.monotonic()
        while not count or self._received < count:
            left: float | None = None
            if not count or self._sent < count:
                left = due - time.monotonic()
                if left <= 0:
                    self._send()
                    due = max(due + interval, time.monotonic())
                    left = 0
            if batch and self._sent < count:
                time.sleep(max(due - time.monotonic(), 0))
            else:
                self._flux.dispatch(left)

    def _send(self) -> None:
        seconds, nanoseconds = divmod(time.monotonic_ns(), _NANOSECONDS)
        request = {"seq": self._sent, "time.tv_sec": seconds, "time.tv_nsec": nanoseconds, "pad": self._pad}
        self._flux.rpc(self._target.topic, request, nodeid=self._target.nodeid).then(self._receive)
        self._sent += 1

    def _receive(self, rpc: Rpc) -> None:
        where = {NODEID_ANY: "", NODEID_UPSTREAM: "upstream!"}.get(rpc.nodeid, f"{rpc.nodeid}!") + rpc.topic
        try:
            answer = rpc.get()
        except FluxError as error:
            raise CommandError(f"{where}: {os.strerror(error.errnum)}") from None
        except ProtocolError as error:
            raise CommandError(f"{where}: {error}") from None
        if answer.get("pad") != self._pad:
            raise CommandError(f"{where}: padding contents invalid")
        self._received += 1
        sent = answer["time.tv_sec"] * _NANOSECONDS + answer["time.tv_nsec"]
        who = f" userid={answer['userid']} rolemask={answer['rolemask']:#x}" if self._with_userid else ""
        print(
            f"{answer['rank']}!{rpc.topic} pad={len(self._pad)}{who} seq={answer['seq']} "
            f"time={(time.monotonic_ns() - sent) / 1e6:0.3f} ms ({answer['route']})",
            flush=True,
        )


def _parse_size(options: Options) -> int:
    text = options.get("pad", "0") or ""
    number = text.rstrip("kKMGTPE")
    try:
        scale = 1 << SIZE_UNITS[text[len(number) :]]
        size = int(number, 0) * scale if number.isalnum() else int(float(number) * scale)
    except (KeyError, ValueError, OverflowError):
        size = -1
    if size < 0:
        raise CommandError(f"flux-ping: invalid argument for option 'pad': {text}: Invalid argument")
    if size > _INT_MAX:
        raise CommandError(f"flux-ping: pad: value {text} too large (must be < 2G)")
    return size


COMMANDS = (Command("flux-ping", ping, usage="[OPTIONS] TARGET", options=OPTIONS),)

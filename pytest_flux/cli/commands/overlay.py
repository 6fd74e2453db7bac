"""`flux overlay`: the network of brokers."""

from __future__ import annotations

from pytest_flux.cli.commands.command import Command, CommandError, Context, reason
from pytest_flux.cli.commands.overlay_status import COMMAND as STATUS
from pytest_flux.cli.commands.overlay_status import DEFAULT_TIMEOUT
from pytest_flux.cli.commands.topology import Topology, fetch_topology, find_parent
from pytest_flux.client.hosts import HostMap
from pytest_flux.options import Option, parse_integer
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.hostlist import encode_hostlist

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client import Flux
    from pytest_flux.options import Options

ERRORS_OPTIONS = (Option("timeout", "t", "FSD", usage="Wait so long for each answer (default 0.5s, 0 for ever)"),)
DISCONNECT_OPTIONS = (
    Option("parent", "r", "NODEID", usage="Ask this rank to do it (default: the parent in the tree)"),
)

# From this size on, the answer of a flat tree's root takes longer than the usual timeout.
_LARGE = 2048


def errors(options: Options, context: Context) -> int:
    """Print the hosts that are lost or could not be asked, one line for each reason."""
    with context.open() as flux:
        default = DEFAULT_TIMEOUT * (flux.size / 2000 if flux.size > _LARGE else 1)
        collector = _ErrorCollector(flux, options.duration("timeout", default) or None)
        collector.ask(0)
        hosts = HostMap.of(flux)
        for error, ranks in collector.ranks.items():
            print(f"{encode_hostlist([hosts.host_of(rank) or '(null)' for rank in sorted(ranks)])}: {error}")
    return 0


class _ErrorCollector:
    def __init__(self, flux: Flux, timeout: float | None) -> None:
        self.ranks: dict[str, set[int]] = {}
        self._flux = flux
        self._timeout = timeout
        self._topology: Topology | None = None

    def ask(self, rank: int) -> None:
        """Collect what a broker knows about its children, and what they know about theirs."""
        try:
            children = self._flux.rpc("overlay.health", nodeid=rank, timeout=self._timeout).get()["children"]
        except OSError as error:
            self._lose(rank, reason(error))
            return
        for child in children:
            text = child.get("error") or ""
            if child["status"] == "lost":
                self._lose(child["rank"], text or "unknown error")
            elif child["status"] != "offline":
                self.ask(child["rank"])
            elif text:
                self.ranks.setdefault(text, set()).add(child["rank"])

    def _lose(self, rank: int, text: str) -> None:
        self.ranks.setdefault(text, set()).add(rank)
        if self._topology is None:
            self._topology = fetch_topology(self._flux)
        part = self._topology.find(rank)
        below = part.ranks - {rank} if part is not None else set()
        if below:
            self.ranks.setdefault("lost parent", set()).update(below)


def lookup(options: Options, context: Context) -> int:
    """Print the hosts of ranks, or the ranks of hosts."""
    if len(options.arguments) != 1:
        raise CommandError("single TARGET argument is required")
    with context.open() as flux:
        try:
            print(HostMap.of(flux).lookup(options.arguments[0]))
        except LookupError as error:
            raise CommandError(str(error.args[0])) from None
    return 0


def parentof(options: Options, context: Context) -> int:
    """Print the parent of a rank."""
    if len(options.arguments) != 1:
        raise CommandError("RANK is required")
    rank = parse_integer(options.arguments[0])
    if rank is None:
        raise CommandError(f"{options.arguments[0]} is not a rank")
    with context.open() as flux:
        print(find_parent(flux, rank))
    return 0


def disconnect(options: Options, context: Context) -> int:
    """Have a broker, with those below it, cut off."""
    if len(options.arguments) != 1:
        raise CommandError("TARGET is required")
    target = options.arguments[0]
    with context.open() as flux:
        hosts = HostMap.of(flux)
        rank = parse_integer(target)
        if rank is None or rank < 0:
            rank = hosts.rank_of(target)
        if rank is None:
            raise CommandError("TARGET must be a valid rank or hostname")
        parent = options.integer("parent", -1)
        if parent < 0:
            parent = find_parent(flux, rank)
        context.log(
            f"asking {hosts.host_of(parent) or '(null)'} (rank {parent}) "
            f"to disconnect child {hosts.host_of(rank) or '(null)'} (rank {rank})"
        )
        try:
            flux.rpc("overlay.disconnect-subtree", {"rank": rank}, nodeid=parent).get()
        except FluxError as error:
            raise CommandError(f"overlay.disconnect-subtree: {reason(error)}") from None
    return 0


def trace(options: Options, context: Context) -> int:
    """Say where it can be had."""
    del options, context
    raise CommandError("the overlay of embedded brokers cannot be traced; flux-core's can, by its own `flux'")


COMMAND = Command(
    "flux overlay",
    summary="Look at the network of brokers",
    subcommands=(
        Command(
            "flux overlay trace",
            trace,
            usage="[OPTIONS] [topic-glob]",
            summary="Watch messages (not in embedded instances)",
        ),
        Command(
            "flux overlay errors",
            errors,
            summary="List the hosts that are lost, and why",
            options=ERRORS_OPTIONS,
        ),
        STATUS,
        Command(
            "flux overlay lookup",
            lookup,
            usage="[OPTIONS] TARGET",
            summary="Translate ranks to hosts, or the reverse",
        ),
        Command(
            "flux overlay parentof",
            parentof,
            usage="[OPTIONS] RANK",
            summary="Print the parent of RANK",
        ),
        Command(
            "flux overlay disconnect",
            disconnect,
            usage="[OPTIONS] TARGET",
            summary="Cut off TARGET, a rank or host, and those below it",
            options=DISCONNECT_OPTIONS,
        ),
    ),
)

"""`flux overlay`: the tree in which brokers are connected, and the health of each broker."""

from __future__ import annotations

import os
import time

from pytest_flux.cli.command import COLOR, Command, CommandError, Context, explaining, reason, wants_color
from pytest_flux.client.hosts import HostMap
from pytest_flux.options import Option, parse_integer
from pytest_flux.protocol.duration import format_duration
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.hostlist import encode_hostlist
from pytest_flux.protocol.idset import decode_idset, encode_idset
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pytest_flux.client import Flux
    from pytest_flux.options import Options


class Topology:
    """The part of the tree below one rank, with the ranks that are offline."""

    __slots__ = ("children", "rank", "size")

    def __init__(self, rank: int, size: int, children: list[Topology]) -> None:
        self.rank = rank
        self.size = size
        self.children = children

    @classmethod
    def parse(cls, value: dict[str, Any]) -> Topology:
        """Make a tree from the answer of ``overlay.topology``."""
        return cls(int(value["rank"]), int(value["size"]), [cls.parse(child) for child in value["children"]])

    def __iter__(self) -> Iterator[Topology]:
        """Yield this node, then the nodes below it."""
        yield self
        for child in self.children:
            yield from child

    @property
    def ranks(self) -> set[int]:
        """Return all ranks of this part."""
        return {node.rank for node in self}

    def find(self, rank: int) -> Topology | None:
        """Return the part below another rank."""
        return next((node for node in self if node.rank == rank), None)

    def parent_of(self, rank: int) -> int | None:
        """Return the parent of a rank; None for the root and for ranks outside of this part."""
        return next((node.rank for node in self for child in node.children if child.rank == rank), None)


def fetch_topology(flux: Flux) -> Topology:
    """Return the whole tree. Raises CommandError."""
    try:
        return Topology.parse(flux.rpc("overlay.topology", {"rank": 0}, nodeid=0).get())
    except FluxError as error:
        raise CommandError(f"error fetching overlay topology: {os.strerror(error.errnum)}") from None
    except (KeyError, TypeError, ValueError):
        raise CommandError("error parsing topology") from None


def find_parent(flux: Flux, rank: int) -> int:
    """Return the parent of a rank. Raises CommandError for the root and for ranks outside of the instance."""
    topology = fetch_topology(flux)
    if not 0 <= rank < topology.size:
        raise CommandError(f"{rank} is not a valid rank in this instance")
    parent = topology.parent_of(rank)
    if parent is None:
        raise CommandError(f"{rank} has no parent")
    return parent


DEFAULT_TIMEOUT = 0.5

STATUS_OPTIONS = (
    Option("rank", "r", "NODEID", usage="Begin at this rank (default 0)"),
    Option(
        "verbose",
        "v",
        "[LEVEL]",
        optional=True,
        usage="1: how long each has been in its state; 2: also how long it took to ask",
    ),
    Option("timeout", "t", "FSD", usage="Wait so long for each answer (default 0.5s, 0 for ever)"),
    Option("summary", usage="Only the state of the whole"),
    Option("down", usage="Only the parts that are not full"),
    Option("no-pretty", usage="Do not draw a tree"),
    Option("no-ghost", usage="Leave out brokers that cannot be asked because their parent is lost or offline"),
    COLOR,
    Option("highlight", "H", "TARGET", usage="Mark these ranks or hosts, and the way to them"),
    Option("wait", "w", "STATE", usage="Wait until it is full, partial, degraded, lost or offline"),
)

_STATES = ("full", "partial", "degraded", "lost", "offline")
_AWAY = ("lost", "offline")
_PIPE, _TEE, _ELBOW, _BLANK = "│  ", "├─ ", "└─ ", "   "
_COLORS = {"lost": "\x1b[31m", "offline": "\x1b[33m"}
_GHOST, _DEFAULT = "\x1b[90m", "\x1b[39m"
_MARK, _RESET = "\x1b[01;34m", "\x1b[0m"


class Node(NamedTuple):
    """One line: the state of a broker, as it or its parent reports it, or as a lost parent implies it."""

    rank: int
    status: str
    duration: float
    ranks: frozenset[int] = frozenset()
    error: str = ""
    is_ghost: bool = False


class Style(NamedTuple):
    """How lines look, and which lines are left out."""

    verbose: int
    color: bool
    tree: bool
    ghosts: bool
    marked: frozenset[int]


class StatusTree:
    """Walks down the tree, asks every broker that has children, and prints a line for each broker."""

    def __init__(self, flux: Flux, style: Style, *, timeout: float | None, wait: str | None) -> None:
        self._flux = flux
        self._style = style
        self._timeout = timeout
        self._wait = wait
        self._hosts = HostMap.of(flux)
        self._topology: Topology | None = None
        self._asked = 0.0

    def print_summary(self, rank: int) -> None:
        """Print the state of the whole tree, without names."""
        node, _ = self._ask(rank)
        print(f"{self._paint(node)}{self._since(node)}{self._elapsed()}")

    def print_tree(self, rank: int, *, only_bad: bool) -> None:
        """Print the whole tree, or the parts that are not full. Raises CommandError if the root does not answer."""
        shown = (lambda node: node.status != "full") if only_bad else (lambda _: True)
        try:
            node, children = self._ask(rank)
        except OSError as error:
            raise CommandError(reason(error)) from None
        self._walk(node, children, "", "", shown)

    def _ask(self, rank: int) -> tuple[Node, list[Node]]:
        """Ask a broker for its state and those of its children."""
        self._asked = time.monotonic()
        rpc = self._flux.rpc("overlay.health", nodeid=rank, streaming=self._wait is not None)
        deadline = None if self._timeout is None else self._asked + self._timeout
        while True:
            answer = rpc.get(None if deadline is None else max(deadline - time.monotonic(), 0))
            if self._wait in (None, answer["status"]):
                break
        rpc.abandon()
        return self._node(answer), [self._node(child) for child in answer["children"]]

    def _node(self, value: dict[str, Any]) -> Node:
        rank = int(value["rank"])
        return Node(rank, value["status"], float(value["duration"]), self._subtree(rank), value.get("error") or "")

    def _subtree(self, rank: int) -> frozenset[int]:
        if self._topology is None:
            self._topology = fetch_topology(self._flux)
        part = self._topology.find(rank)
        return frozenset(part.ranks if part is not None else (rank,))

    def _walk(
        self, node: Node, children: list[Node], indent: str, connector: str, shown: Callable[[Node], bool]
    ) -> None:
        """Print a broker that has answered, and those below it, after ``indent`` and ``connector``."""
        if not shown(node):
            return
        self._print(node, indent, connector, elapsed=self._elapsed())
        below = indent + _continuation(connector)
        for number, child in enumerate(children):
            last = number == len(children) - 1
            self._visit(child, below, _ELBOW if last else _TEE, shown)

    def _visit(self, node: Node, indent: str, connector: str, shown: Callable[[Node], bool]) -> None:
        """Print a child as its parent reports it; ask it for its own report if it has children and can be reached."""
        if not shown(node):
            return
        self._print_hearsay(node, indent, connector)
        if not self._goes_deeper(node):
            return
        if node.status not in _AWAY:
            try:
                answer, children = self._ask(node.rank)
            except OSError as error:
                # Its parent has not noticed yet that it is gone. Go on with what this implies for the ranks below.
                self._complain(node, indent, connector, reason(error))
            else:
                self._walk(answer, children, indent, connector, shown)
                return
        if self._style.ghosts:
            self._haunt(node, indent + _continuation(connector), shown)

    def _haunt(self, parent: Node, indent: str, shown: Callable[[Node], bool]) -> None:
        """Print the brokers below one that cannot be asked, with the same state as that one."""
        part = self._topology.find(parent.rank) if self._topology is not None else None
        children = part.children if part is not None else []
        for number, child in enumerate(children):
            connector = _ELBOW if number == len(children) - 1 else _TEE
            node = Node(child.rank, parent.status, -1.0, frozenset(child.ranks), is_ghost=True)
            if not shown(node):
                continue
            self._print_hearsay(node, indent, connector)
            if self._goes_deeper(node):
                self._haunt(node, indent + _continuation(connector), shown)

    def _goes_deeper(self, node: Node) -> bool:
        return len(node.ranks) > 1 or self._style.verbose >= 2

    def _print_hearsay(self, node: Node, indent: str, connector: str) -> None:
        """Print a broker as its parent reports it, unless the broker will be asked and printed then."""
        if node.status in _AWAY or not self._goes_deeper(node):
            self._print(node, indent, connector)

    def _print(self, node: Node, indent: str, connector: str, elapsed: str = "") -> None:
        error = f" {node.error}" if node.error else ""
        state = f"{self._paint(node)}{self._since(node)}{error}{elapsed}"
        print(f"{self._lead(indent, connector)}{self._name(node)}: {state}")

    def _complain(self, node: Node, indent: str, connector: str, text: str) -> None:
        print(f"{self._lead(indent, connector)}{self._name(node)}: {text}{self._elapsed()}")

    def _lead(self, indent: str, connector: str) -> str:
        return indent + connector if self._style.tree else ""

    def _name(self, node: Node) -> str:
        name = f"{node.rank} {self._hosts.host_of(node.rank) or '(null)'}"
        if not self._style.marked & node.ranks:
            return name
        return f"{_MARK}{name}{_RESET}" if self._style.color else f"<<{name}>>"

    def _paint(self, node: Node) -> str:
        color = _GHOST if node.is_ghost else _COLORS.get(node.status)
        return f"{color}{node.status}{_DEFAULT}" if self._style.color and color else node.status

    def _since(self, node: Node) -> str:
        if self._style.verbose < 1 or node.duration <= 0:
            return ""
        return f" for {format_duration(node.duration)}"

    def _elapsed(self) -> str:
        if self._style.verbose < 2:
            return ""
        return f" ({(time.monotonic() - self._asked) * 1000:.3f} ms)"


def _continuation(connector: str) -> str:
    """Return what stands under a connector in the lines below."""
    return {_TEE: _PIPE, _ELBOW: _BLANK}.get(connector, "")


def status(options: Options, context: Context) -> int:
    """Print the tree."""
    rank = options.integer("rank", 0)
    verbose = options.integer("verbose", 0)
    color = wants_color(options, context)
    timeout = options.duration("timeout", DEFAULT_TIMEOUT)
    wait = options.get("wait")
    if wait is not None and wait not in _STATES:
        raise CommandError("invalid --wait state")
    with context.open() as flux:
        style = Style(
            verbose,
            color,
            not options.has("no-pretty"),
            not options.has("no-ghost"),
            frozenset(_marked_ranks(flux, options.all("highlight"))),
        )
        tree = StatusTree(flux, style, timeout=timeout or None, wait=wait)
        if options.has("summary"):
            tree.print_summary(rank)
        else:
            tree.print_tree(rank, only_bad=options.has("down"))
    return 0


def _marked_ranks(flux: Flux, targets: list[str]) -> set[int]:
    marked: set[int] = set()
    for target in targets:
        try:
            marked.update(decode_idset(target))
        except ValueError:
            try:
                marked.update(HostMap.of(flux).ranks_of(target))
            except LookupError as error:
                raise CommandError(f"Error decoding {target}: {error.args[0]}") from None
    outside = sorted(rank for rank in marked if rank >= flux.size)
    if outside:
        plural = "s" if len(outside) > 1 else ""
        ranks = encode_idset(range(flux.size))
        raise CommandError(f"--highlight: rank{plural} {encode_idset(outside)} not in set {ranks}")
    return marked


ERRORS_OPTIONS = (Option("timeout", "t", "FSD", usage="Wait so long for each answer (default 0.5s, 0 for ever)"),)
DISCONNECT_OPTIONS = (
    Option("parent", "r", "NODEID", usage="Ask this rank to do it (default: the parent in the tree)"),
)

# In flat trees larger than this, the root's answer takes longer than the usual timeout.
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
        """Collect the errors of a broker's children, and of all brokers below them."""
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
    """Disconnect a broker, and with it those below."""
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
        with explaining("overlay.disconnect-subtree"):
            flux.rpc("overlay.disconnect-subtree", {"rank": rank}, nodeid=parent).get()
    return 0


def trace(options: Options, context: Context) -> int:
    """Refuse: embedded brokers cannot trace."""
    del options, context
    raise CommandError("the overlay of embedded brokers cannot be traced; flux-core's can, by its own `flux'")


COMMANDS = (
    Command(
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
            Command(
                "flux overlay status",
                status,
                summary="Show the tree of brokers and its health",
                options=STATUS_OPTIONS,
            ),
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
    ),
)

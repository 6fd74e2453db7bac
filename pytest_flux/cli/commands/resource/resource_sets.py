"""`flux R`: make, combine and print resource sets (RFC 20)."""

from __future__ import annotations

import json
import socket
import sys
from functools import reduce
from itertools import count

from pytest_flux.cli.command import Command, CommandError, Context
from pytest_flux.options import Option
from pytest_flux.protocol.constraint import Node as ConstraintNode
from pytest_flux.protocol.constraint import compile_constraint
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.hostlist import decode_hostlist
from pytest_flux.protocol.idset import decode_idset
from pytest_flux.protocol.limits import MAX_NODES
from pytest_flux.protocol.resource_set import Node, ResourceSet, mask_of, resources_from_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flux.options import Options

ENCODE_OPTIONS = (
    Option("ranks", "r", "IDSET", usage="The ranks (default: as many as hosts, from 0)"),
    Option("cores", "c", "IDS", usage="Cores of each rank (default: 0)"),
    Option("gpus", "g", "IDS", usage="Gpus of each rank (default: none)"),
    Option("hosts", "H", "HOSTS", usage="Hosts of the ranks (default: this host, for each rank)"),
    Option("property", "p", "NAME[:RANKS]", usage="Give a property to ranks (default: to all)"),
    Option("local", "l", usage="Take cores and gpus of this machine"),
    Option("xml", "f", "FILE", usage="Take cores and gpus from hwloc XML (needs flux-core)"),
)
DECODE_OPTIONS = (
    Option("short", "s", usage="Print it in short form"),
    Option("nodelist", "n", usage="Print the list of hosts"),
    Option("ranks", "r", usage="Print the ranks"),
    Option("count", "c", "TYPE", usage="Print how many there are of a type: node, core, gpu"),
    Option("include", "i", "RANKS", usage="Take only these ranks"),
    Option("exclude", "x", "RANKS", usage="Leave these ranks out"),
    Option("properties", "p", "LIST", usage="Take only ranks that have these properties, or ^PROPERTY: lack them"),
)


def encode(options: Options, context: Context) -> int:
    """Print a set that is made of the options."""
    cores, gpus = options.get("cores") or "", options.get("gpus") or ""
    is_local = options.has("local")
    if options.has("xml"):
        raise CommandError("--xml: hwloc XML cannot be read without flux-core")
    if is_local and (cores or gpus):
        raise CommandError("do not specify --cores or --gpus with --local or --xml")
    ranks, hosts = _ranks_and_hosts(options)
    if is_local:
        from pytest_flux.broker.resource.discovery import core_count, gpu_count

        core_mask, gpu_mask = (1 << core_count()) - 1, (1 << gpu_count()) - 1
    else:
        core_mask, gpu_mask = (_mask(ids) for ids in (cores if cores or gpus else "0", gpus))
    nodes = {rank: Node(host, core_mask, gpu_mask) for rank, host in zip(ranks, hosts, strict=True)}
    _print(_with_properties(ResourceSet(nodes), options.all("property")))
    return 0


def _mask(ids: str) -> int:
    try:
        return mask_of(ids)
    except ProtocolError as error:
        raise CommandError(f"invalid idset '{ids[:80]}': {error}") from None


def _ranks_and_hosts(options: Options) -> tuple[list[int], list[str]]:
    text, hostlist = options.get("ranks"), options.get("hosts")
    try:
        hosts = decode_hostlist(hostlist, limit=MAX_NODES) if hostlist is not None else []
    except ProtocolError:
        raise CommandError(f"invalid hostlist '{hostlist}'") from None
    if text is None:
        hosts = hosts if hostlist is not None else [socket.gethostname()]
        return list(range(len(hosts))), hosts
    try:
        ranks = decode_idset(text, limit=MAX_NODES)
    except ProtocolError:
        raise CommandError(f"Failed to decode ranks='{text}' as idset") from None
    if hostlist is None:
        hosts = [socket.gethostname()] * len(ranks)
    if len(hosts) != len(ranks):
        raise CommandError(f"hostname count in '{hostlist}' does not match nranks ({len(ranks)})")
    return ranks, hosts


def _with_properties(resources: ResourceSet, settings: list[str]) -> ResourceSet:
    properties = dict(resources.properties)
    for setting in settings:
        name, colon, text = setting.partition(":")
        try:
            ranks = frozenset(decode_idset(text, limit=MAX_NODES)) if colon else frozenset(resources)
        except ProtocolError as error:
            raise CommandError(f"failed to assign properties: {error}") from None
        for rank in sorted(ranks - resources.nodes.keys()):
            raise CommandError(f"failed to assign properties: rank {rank} not found in target resource list")
        properties[name] = ranks
    return ResourceSet(resources.nodes, properties, expiration=resources.expiration, starttime=resources.starttime)


def _print(resources: ResourceSet) -> None:
    print(json.dumps(resources.encode()))


# -- reading sets


def _read(least: int = 1, command: str = "") -> list[ResourceSet]:
    """Read all sets on standard input: JSON objects one after another."""
    text = sys.stdin.read()
    decoder = json.JSONDecoder()
    found: list[ResourceSet] = []
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            break
        try:
            found.append(ResourceSet.decode(value))
        except ProtocolError as error:
            raise CommandError(f"Failed to decode R on stdin: {error}") from None
    if not found:
        near = f"near '{text[position : position + 1]}'" if text[position:].strip() else "near end of file"
        raise CommandError(f"Failed to read an R object: '[' or '{{' expected {near}")
    if len(found) < least:
        raise CommandError(f"{command} requires at least {least} resource sets")
    return found


def _union() -> ResourceSet:
    return reduce(ResourceSet.union, _read())


def append(options: Options, context: Context) -> int:
    """Print all sets together, unless they overlap."""
    first, *others = _read()
    for other in others:
        if len(first.intersect(other)):
            raise CommandError(f"R objects '{first.summary()}' and '{other.summary()}' overlap")
        first = first.union(other)
    _print(first)
    return 0


def _combine(name: str, combine: Callable[[ResourceSet, ResourceSet], ResourceSet]) -> int:
    _print(reduce(combine, _read(2, name)))
    return 0


def difference(options: Options, context: Context) -> int:
    """Print what of the first set is in none of the others."""
    return _combine("diff", ResourceSet.subtract)


def intersection(options: Options, context: Context) -> int:
    """Print what is in all sets."""
    return _combine("intersect", ResourceSet.intersect)


def _renumbered(resources: ResourceSet, ranks: dict[int, int]) -> ResourceSet:
    properties = {name: frozenset(ranks[rank] for rank in of_name) for name, of_name in resources.properties.items()}
    return ResourceSet({ranks[rank]: node for rank, node in resources.nodes.items()}, properties)


def remap(options: Options, context: Context) -> int:
    """Print all sets together, with ranks, cores and gpus numbered from 0."""
    resources = _renumbered(union := _union(), dict(zip(union, count(), strict=False)))
    nodes = {
        rank: Node(node.hostname, (1 << node.cores.bit_count()) - 1, (1 << node.gpus.bit_count()) - 1)
        for rank, node in resources.nodes.items()
    }
    _print(ResourceSet(nodes, resources.properties))
    return 0


def rerank(options: Options, context: Context) -> int:
    """Print all sets together, with ranks numbered by the order of the given hosts."""
    resources = _union()
    if len(options.arguments) != 1:
        raise CommandError("Must provide a hostlist for re-ranking")
    try:
        hosts = decode_hostlist(options.arguments[0], limit=MAX_NODES)
    except ProtocolError as error:
        raise CommandError(f"rlist_rerank: {error}") from None
    if len(hosts) != len(resources):
        few = "few" if len(hosts) < len(resources) else "many"
        raise CommandError(f"Too {few} hosts specified (expected {len(resources)})")
    known = {node.hostname: rank for rank, node in resources.nodes.items()}
    if not known.keys() <= set(hosts):
        raise CommandError("failed to find one or more provided hosts in R")
    _print(_renumbered(resources, {known[host]: rank for rank, host in enumerate(hosts)}))
    return 0


def decode(options: Options, context: Context) -> int:
    """Print all sets together, as JSON or what the options ask for."""
    resources = _union()
    if (names := options.get("properties")) is not None:
        try:
            matches = compile_constraint({"properties": names.split(",")})
        except ProtocolError as error:
            raise CommandError(f"Invalid property constraint: {error}") from None
        source = resources
        resources = source.filter(
            lambda rank, node: matches(ConstraintNode(rank, node.hostname, source.properties_of(rank)))
        )
    if (text := options.get("include")) is not None:
        resources = resources.select(_ranks(text, f"Invalid ranks option: '{text}'"))
    if (text := options.get("exclude")) is not None:
        resources = resources.without(_ranks(text, f"Invalid idset in --exclude option: {text}"))
    lines = []
    if options.has("short"):
        lines.append(resources.summary())
    if options.has("nodelist"):
        lines.append(resources.nodelist)
    if options.has("ranks"):
        lines.append(resources.ranks)
    if (kind := options.get("count")) is not None:
        lines.append(str(resources.count(kind)))
    if lines:
        print("\n".join(lines))
    else:
        _print(resources)
    return 0


def _ranks(text: str, complaint: str) -> list[int]:
    try:
        return decode_idset(text, limit=MAX_NODES)
    except ProtocolError:
        raise CommandError(complaint) from None


def verify(options: Options, context: Context) -> int:
    """Compare what a node should have with what it has. The exit code is 1 if something is missing."""
    from pytest_flux.broker.resource.inventory import verify as compare

    sets = _read()
    if len(sets) != 2:
        raise CommandError("verify requires exactly 2 R objects on stdin")
    expected, actual = sets
    if len(expected) != 1 or len(actual) != 1:
        raise CommandError("Verification supported on single rank only")
    ((rank, node),) = expected.nodes.items()
    complaint = compare(rank, node, actual.nodes.get(rank))
    if complaint:
        context.log(complaint)
    return 1 if complaint else 0


def set_property(options: Options, context: Context) -> int:
    """Print all sets together, with properties of ranks."""
    _print(_with_properties(_union(), options.arguments))
    return 0


def parse_config(options: Options, context: Context) -> int:
    """Print the set that a configuration describes."""
    from pytest_flux.broker.config import ConfigError, load_config
    from pytest_flux.broker.resource.config import load_resources

    if len(options.arguments) != 1:
        raise context.command.usage_error()
    try:
        table = load_config(options.arguments[0]).get("resource")
    except ConfigError as error:
        raise CommandError(f"flux_conf_parse: {error}") from None
    if not isinstance(table, dict) or not ("config" in table or "path" in table):
        raise CommandError("Config file error: resource.config or resource.path must be defined")
    try:
        resources = (
            resources_from_config(table["config"]) if "config" in table else load_resources(str(table["path"]))
        )
    except ProtocolError as error:
        raise CommandError(f"Config file error: {error}") from None
    _print(resources)
    return 0


COMMANDS = (
    Command(
        "flux R",
        summary="Make, combine and print resource sets",
        subcommands=(
            Command("flux R encode", encode, summary="Print a set made of these options", options=ENCODE_OPTIONS),
            Command("flux R append", append, usage="", summary="Print all sets on stdin together"),
            Command("flux R diff", difference, usage="", summary="Subtract the later sets on stdin from the first"),
            Command("flux R intersect", intersection, usage="", summary="Print what all sets on stdin share"),
            Command("flux R remap", remap, usage="", summary="Number the ranks of all sets on stdin from 0"),
            Command("flux R rerank", rerank, usage="HOSTLIST", summary="Number ranks by the order of hosts"),
            Command("flux R decode", decode, summary="Print the sets on stdin, or facts", options=DECODE_OPTIONS),
            Command("flux R verify", verify, usage="", summary="Compare two sets on stdin"),
            Command(
                "flux R set-property",
                set_property,
                usage="PROPERTY:RANKS [PROPERTY:RANKS]...",
                summary="Give properties to ranks of the sets on stdin",
            ),
            Command("flux R parse-config", parse_config, usage="PATH", summary="Print the set of a configuration"),
        ),
    ),
)

"""`flux resource list`: sets of resources, a line for each kind of them."""

from __future__ import annotations

import json
import sys

from pytest_flux.cli.arguments import connect
from pytest_flux.cli.commands.command import CommandError
from pytest_flux.cli.format import Format
from pytest_flux.cli.named_formats import find_format
from pytest_flux.client.resources import STATES, ResourceList, Resources, ranks_of
from pytest_flux.options import split_commas
from pytest_flux.protocol.resource_set import ResourceSet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from pytest_flux.cli.commands.command import Context
    from pytest_flux.options import Options

FORMATS = {
    "default": (
        "Default flux-resource list format string",
        "{state:>10} ?+:{queue:<5} ?:{propertiesx:<10.10+} {nnodes:>6} +:{ncores:>6} ?+:{ngpus:>5} {nodelist}",
    ),
    "rlist": (
        "Format including resource list details",
        "{state:>10} ?+:{queue:<5} ?:{propertiesx:<10.10+} {nnodes:>6} +:{ncores:>6} ?:+{ngpus:>5} {rlist}",
    ),
}
HEADINGS = {name: name.upper() for name in "state queue properties nnodes ncores ngpus ranks nodelist".split()}
HEADINGS |= {"propertiesx": "PROPERTIES", "rlist": "LIST"}
_DISTINCT = ("state", "properties", "propertiesx", "queue")


class ResourceLine:
    """One line: resources in one state, of one queue, with the same properties."""

    def __init__(self, state: str, resources: ResourceSet, queues: dict[str, Any], shown: Collection[str]) -> None:
        self.state = state
        self.resources = resources
        self._queues = queues
        self._shown = shown

    def field(self, name: str) -> Any:  # noqa: ANN401
        """The value of a field."""
        resources = self.resources
        kinds = {"nnodes": "node", "ncores": "core", "ngpus": "gpu"}
        if name in kinds:
            return resources.count(kinds[name])
        properties = list(resources.properties)
        values = {
            "state": self.state,
            "ranks": resources.ranks,
            "nodelist": resources.nodelist,
            "rlist": resources.summary() if len(resources) else "",
            "properties": ",".join(properties),
            "propertiesx": ",".join(name for name in properties if name not in self._queues),
            "queue": self._queue(frozenset(properties)),
        }
        return values[name]

    def _queue(self, properties: frozenset[str]) -> str:
        if not len(self.resources):
            return ",".join(self._shown)
        names = (name for name in self._queues if name in self._shown)
        return ",".join(name for name in names if properties.issuperset(self._queues[name].get("requires", ())))


def query_resources(options: Options, context: Context, states: list[str]) -> tuple[ResourceList, dict[str, Any]]:
    """Ask for resources and configured queues, and keep what --queue and --include leave of them."""
    for state in states:
        if state not in STATES:
            raise CommandError(f"Invalid resource state {state} specified")
    queues: dict[str, Any] = {}
    if "from-stdin" in options.names and options.has("from-stdin"):
        resources = ResourceList.decode(json.load(sys.stdin))
    else:
        with connect(context) as flux:
            config = flux.rpc("config.get")
            resources = Resources(flux).list()
            queues = config.get().get("queues", {})
    if options.has("queue"):
        resources = _only(resources, ranks_of_queues(resources.all, queues, options))
    if options.has("include"):
        try:
            wanted = ranks_of(options.get("include") or "", resources.all)
        except ValueError:
            raise ValueError(f"--include: Invalid hostlist: '{options.get('include')}'") from None
        resources = _only(resources, wanted)
    return resources, queues


def _only(resources: ResourceList, ranks: Collection[int]) -> ResourceList:
    return resources.changed(lambda each: each.select(rank for rank in each if rank in ranks))


def ranks_of_queues(resources: ResourceSet, queues: dict[str, Any], options: Options) -> frozenset[int]:
    """The ranks of the queues that --queue names. Raises ValueError."""
    ranks: set[int] = set()
    for name in queue_names(options):
        if name not in queues:
            raise ValueError(f"--queue: {name}: no such queue")
        ranks.update(in_queue(resources, queues[name]))
    return frozenset(ranks)


def queue_names(options: Options) -> list[str]:
    """What --queue says."""
    return [name for text in options.all("queue") for name in split_commas(text)]


def in_queue(resources: ResourceSet, queue: dict[str, Any]) -> ResourceSet:
    """The resources of a queue: those with all properties that it requires."""
    wanted = queue.get("requires", ())
    return resources.select(rank for rank in resources if resources.properties_of(rank).issuperset(wanted))


def print_list(options: Options, context: Context, states_text: str, form: str, *, header: bool = True) -> None:
    """Print the lines."""
    states = states_text.split(",")
    output = Format(find_format(form, FORMATS, "flux-resource", "list"), HEADINGS)
    resources, queues = query_resources(options, context, states)
    lines = _lines(resources, states, queues, queue_names(options) or list(queues), output)
    lines.sort(key=lambda line: (states.index(line.state), next(iter(line.resources), -1)))
    names = options.names
    skip = "skip-empty" in names and (
        options.has("skip-empty") or (options.has("include") and not options.has("no-skip-empty"))
    )
    if skip:
        lines = [line for line in lines if len(line.resources)]
    output.print(lines, header=header and not ("no-header" in names and options.has("no-header")))


def _lines(
    resources: ResourceList, states: list[str], queues: dict[str, Any], shown: list[str], output: Format
) -> list[ResourceLine]:
    """Resources in as few lines as differ in state, queue or properties, as far as these are printed."""
    fields = output.fields
    key_fields = [name for name in fields if name in _DISTINCT] if len(fields) > 1 or "state" in fields else []
    lines: dict[tuple[object, ...], ResourceLine] = {}
    for state in states:
        found = resources.of(state)
        groups = _by_properties(found)
        pieces = [ResourceLine(state, group, queues, shown) for group in groups]
        if not groups:
            pieces = [ResourceLine(state, found, queues, [name]) for name in shown]
            pieces = pieces or [ResourceLine(state, found, queues, ())]
        for piece in pieces:
            key = tuple(piece.field(name) for name in key_fields)
            if key in lines:
                lines[key].resources = lines[key].resources.union(piece.resources)
            else:
                lines[key] = piece
    return list(lines.values())


def _by_properties(resources: ResourceSet) -> list[ResourceSet]:
    groups: dict[frozenset[str], list[int]] = {}
    for rank in resources:
        groups.setdefault(resources.properties_of(rank), []).append(rank)
    return [resources.select(ranks) for ranks in groups.values()]

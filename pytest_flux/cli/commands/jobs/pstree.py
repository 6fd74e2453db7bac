"""`flux pstree`: show jobs as a tree, with the jobs of those that are instances below them."""

from __future__ import annotations

import sys

from pytest_flux.cli.arguments import ArgumentCommand, connect, integer, job_ids, warn
from pytest_flux.cli.command import CommandError
from pytest_flux.cli.commands.jobs.jobs import headings_for, look_into
from pytest_flux.cli.commands.jobs.query import Query, fetch
from pytest_flux.cli.format import Format
from pytest_flux.client import Flux
from pytest_flux.client.job_record import JobRecord
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import parse_fluid
from pytest_flux.protocol.job_state import RUN
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.cli.command import Context
    from pytest_flux.options import Options

DETAILS = {
    "default": "{id.f58:>12} {username:<8.8} {status_abbrev:>2.2} {ntasks:>6h} {nnodes:>6h} {runtime!F:>8h}",
    "resources": "{id.f58:>12} "
    + " ".join(
        f"{{instance.resources.{state}.n{kind}s:>5}}"
        for kind in ("node", "core", "gpu")
        for state in ("all", "allocated")
    ),
    "progress": "{id.f58:>12} {ntasks:>6h} {instance.stats.total:>6} {instance.progress!P:>5} "
    "{instance.utilization!P:>5} {instance.gpu_utilization!P:>5} {runtime!H:>10}",
    "stats": "{id.f58:>12} {instance.stats:^25} {runtime!H:>10}",
}
_DEFAULT_WIDTH = 132
_ALL_LEVELS = 999


class Connectors(NamedTuple):
    """What stands before a label: below a branch that goes on or has ended, at a branch, at the last branch."""

    pipe: str
    blank: str
    tee: str
    elbow: str


_BOX = Connectors("│   ", "    ", "├── ", "└── ")
_ASCII = Connectors("|   ", "    ", "|-- ", "`-- ")
_COMPACT = Connectors("│ ", "  ", "├─", "└─")


class Node:
    """A job in the tree. ``count`` leaves that look alike are one node."""

    def __init__(self, label: str, prefix: str = "", *, combine: bool = True) -> None:
        self.label = label
        self.prefix = f"{prefix} " if prefix else ""
        self.count = 1
        self.children: list[Node] = []
        self._leaves: dict[str, Node] | None = {} if combine else None

    def add(self, child: Node) -> None:
        """Add a child; count it only if it is a leaf that looks like another one."""
        if self._leaves is not None and not child.children:
            known = self._leaves.setdefault(child.prefix + child.label, child)
            if known is not child:
                known.count += 1
                return
        self.children.append(child)

    def print(self, connectors: Connectors, width: int | None, above: str = "", branch: str = "") -> None:
        """Print the node and those below it, in lines that are cut off at the width."""
        label = f"{self.count}*[{self.label}]" if self.count > 1 else self.label
        line = f"{self.prefix}{above}{branch}{label}"
        print(line[: width - 1] + "+" if width and len(line) > width else line)
        if branch:
            above += connectors.blank if branch == connectors.elbow else connectors.pipe
        for child in self.children:
            last = child is self.children[-1]
            child.print(connectors, width, above, connectors.elbow if last else connectors.tee)


class _Root(JobRecord):
    """The enclosing instance, if it is not a job."""

    __slots__ = ()

    def field(self, name: str) -> Any:  # noqa: ANN401
        return "." if name.partition(".")[0] == "id" else super().field(name)


class _Tree:
    """Asks instances for their jobs, and makes nodes of them."""

    def __init__(self, options: Options, context: Context) -> None:
        every = options.has("all")
        label = options.get("label") or ("{name}:{status_abbrev}" if every else "{name}")
        parent = options.get("parent-label") or options.get("label") or "{name}"
        if options.has("parent-ids"):
            parent = f"{{id.f58}} {parent}"
        self._label, self._parent = _format(label), _format(parent)
        details = _details(options)
        self.prefix = _format(details) if details else None
        self._filter = "pending,running,inactive" if every else options.get("filter", "running") or ""
        self._count = integer(options, context, "count", 1000)
        self._levels = integer(options, context, "level", _ALL_LEVELS)
        self._combine = not options.has("no-combine")

    def node(self, record: JobRecord, *, parent: bool) -> Node:
        """Return the node of a job, without those below it."""
        record.instance = record.instance or look_into(record)
        label = (self._parent if parent else self._label).line(record)
        return Node(label, self.prefix.line(record) if self.prefix else "", combine=self._combine)

    def grow(self, node: Node, uri: str | None, *, ids: list[int], running_only: bool, level: int = 0) -> None:
        """Add the jobs of an instance to its node. Skip an instance that cannot be reached or is not ready."""
        if level > self._levels:
            return
        query = Query()
        query.count = self._count
        query.set_fields([], everything=True)
        query.set_outcomes(("running" if running_only else self._filter).split(","))
        try:
            with Flux(uri) as flux:
                records, errors = fetch(flux, query, ids, [str(number) for number in ids])
        except OSError:
            return
        query.truncate(records)
        sys.stderr.writelines(f"{line}\n" for line in errors)
        for record in records:
            nested = bool(record.uri) and record.values["state"] == RUN
            child = self.node(record, parent=nested)
            if nested:
                self.grow(child, record.uri, ids=[], running_only=False, level=level + 1)
            node.add(child)


def _format(text: str) -> Format:
    return Format(text, headings_for(text))


def _details(options: Options) -> str | None:
    """Return the format of what is printed before the tree, if anything is. Raises CommandError."""
    name = options.get("details")
    if options.get("detail-format"):
        return options.get("detail-format")
    if name is None and not options.has("extended"):
        return None
    if (name or "default") not in DETAILS:
        raise CommandError(f"Unknown --details format '{name}'")
    return DETAILS[name or "default"]


def find_root(flux: Flux) -> JobRecord:
    """Return the enclosing instance as a job, as its parent knows it, or else with what it knows of itself."""
    size = int(flux.getattr("size"))
    uri = flux.getattr("local-uri")
    try:
        jobid = parse_fluid(flux.getattr("jobid"))
        with Flux(flux.getattr("parent-uri")) as parent:
            record = JobRecord(parent.rpc("job-list.list-id", {"id": jobid, "attrs": ["all"]}).get()["job"])
    except (OSError, ValueError):
        values: dict[str, Any] = {
            "id": 0,
            "userid": int(flux.getattr("security.owner")),
            "state": RUN,
            "name": ".",
            "ntasks": size,
            "nnodes": size,
            "nodelist": flux.getattr("hostlist"),
            "annotations": {"user": {"uri": uri}},
        }
        try:
            values["t_run"] = float(flux.getattr("broker.starttime"))
        except FluxError:
            values["t_run"] = 0.0
        record = _Root(values)
    record.values["ranks"] = f"0-{size - 1}"
    return record


def pstree(options: Options, context: Context) -> int:
    """Print the tree."""
    ids = job_ids(options.arguments, context)
    if ids and any(options.has(name) for name in ("all", "count", "filter")):
        warn(context, "filtering options ignored with jobid list")
    if options.has("ascii") and options.has("compact"):
        warn(context, "Choose only one of --ascii, --compact", "CRITICAL")
    tree = _Tree(options, context)
    skip_root = tree.prefix is not None or bool(ids)
    if options.has("skip-root"):
        answer = options.get("skip-root")
        if answer not in ("yes", "no"):
            raise ValueError("--skip-root requires either 'yes' or 'no'")
        skip_root = answer == "yes"
    with connect() as flux:
        root = Node(".") if skip_root else tree.node(find_root(flux), parent=True)
    tree.grow(root, None, ids=ids, running_only=skip_root and not ids)
    if tree.prefix is not None and not options.has("no-header"):
        print(tree.prefix.header())
    connectors = _COMPACT if options.has("compact") else _ASCII if options.has("ascii") else _BOX
    width = None if options.has("long") else _width()
    for node in root.children if skip_root else [root]:
        node.print(connectors, width)
    return 0


def _width() -> int:
    import shutil

    return shutil.get_terminal_size((_DEFAULT_WIDTH, 25)).columns


OPTIONS = (
    Option("all", "a", usage="List jobs in all states"),
    Option("count", "c", "N", usage="List N jobs of each instance at most (default 1000)"),
    Option("filter", "f", "STATE|RESULT", usage="List jobs with these states or results"),
    Option("extended", "x", usage="Print more about each job before the tree"),
    Option("long", "l", usage="Do not cut off lines at the terminal's width"),
    Option("level", "L", "N", usage="Descend N levels only"),
    Option("parent-ids", "p", usage="Begin the labels of instances with their ids"),
    Option("no-header", "n", usage="With -x, print no header"),
    Option("no-combine", "X", usage="Do not combine jobs that look alike"),
    Option("label", "o", "FORMAT", usage="The format of labels (default '{name}')"),
    Option("parent-label", argument="FORMAT", usage="The format of the labels of instances"),
    Option("detail-format", argument="FORMAT", usage="The format of what stands before the tree"),
    Option("details", "d", "NAME", usage=f"One of these formats: {', '.join(DETAILS)}"),
    Option("compact", "C", usage="Draw a narrow tree"),
    Option("ascii", usage="Draw the tree in ASCII"),
    Option("skip-root", argument="[yes|no]", usage="Leave out the enclosing instance ('yes' with -x or ids)"),
)

COMMANDS = (
    ArgumentCommand(
        "flux-pstree", pstree, usage="[OPTIONS] [JOBID ...]", summary="Show jobs as a tree", options=OPTIONS
    ),
)

"""`flux jobs`: list jobs."""

from __future__ import annotations

import json
import os
import sys
from string import Formatter

from pytest_flux.cli.arguments import ArgumentCommand, color_is_on, connect, integer, job_ids, warn
from pytest_flux.cli.command import CommandError
from pytest_flux.cli.commands.jobs.query import FILTERS, count_pending, count_running, fetch, query_of
from pytest_flux.cli.format import Format
from pytest_flux.cli.named_formats import find_format
from pytest_flux.client import Flux
from pytest_flux.client.job_record import JobRecord
from pytest_flux.client.resources import ResourceList, Resources
from pytest_flux.options import Option
from pytest_flux.protocol.fluid import f58

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from pytest_flux.cli.command import Context
    from pytest_flux.client import Flux
    from pytest_flux.client.job_record import JobRecord
    from pytest_flux.options import Options

_START = "{id.f58:>12} ?:{queue:<8.8} +:{username:<8} {name:<10.10+} "
_COUNTS = "{ntasks:>6} {nnodes:>6h} "
_END = "{contextual_time!F:>8h} {contextual_info}"
FORMATS = {
    "default": ("Default flux-jobs format string", f"{_START}{{status_abbrev:>2.2}} {_COUNTS}{_END}"),
    "cute": (
        "Cute flux-jobs format string (default with emojis)",
        f"{_START}{{status_emoji:>5.5}} {_COUNTS}{_END}",
    ),
    "long": (
        "Extended flux-jobs format string",
        f"{_START}{{status:>9.9}} {_COUNTS}{{t_submit!d:%b%d %R::>12}} {{t_remaining!F:>12h}} {_END}",
    ),
    "deps": (
        "Show job urgency, priority, and dependencies",
        "{id.f58:>12} ?:{queue:<8.8} {name:<10.10+} {urgency:<3} {priority:<12} {state:<8.8} {dependencies}",
    ),
    "endreason": (
        "Show why each job ended",
        f"{_START}{{status_abbrev:>2.2}} {{t_inactive!d:%b%d %R::>12h}} {{inactive_reason}}",
    ),
}

HEADINGS = {f"id{form}": "JOBID" for form in ("", *".dec .hex .f58 .f58plain .kvs .dothex .emoji".split())}
HEADINGS |= {
    name: name.upper().replace("_", "-") if name == "inactive_reason" else name.upper()
    for name in (
        "state name cwd queue project bank ntasks ncores duration nnodes expiration t_remaining ranks nodelist "
        "success result t_submit t_depend t_priority t_sched t_run t_cleanup t_inactive runtime status annotations "
        "dependencies inactive_reason sched user"
    ).split()
}
HEADINGS |= {f"exception.{name}": f"EXCEPTION-{name.upper()}" for name in ("occurred", "severity", "type", "note")}
HEADINGS |= {
    "userid": "UID",
    "username": "USER",
    "urgency": "URG",
    "priority": "PRI",
    "state_single": "S",
    "state_emoji": "STATE",
    "result_abbrev": "RS",
    "result_emoji": "RESULT",
    "status_abbrev": "ST",
    "status_emoji": "STATUS",
    "waitstatus": "WSTATUS",
    "returncode": "RC",
    "contextual_info": "INFO",
    "contextual_time": "TIME",
    "uri": "URI",
    "uri.local": "URI",
    "instance.stats.total": "NJOBS",
    "instance.utilization": "CORE%",
    "instance.gpu_utilization": "GPU%",
    "instance.progress": "PROG",
}
# The annotations that RFC 27 defines.
for _prefix in ("annotations.sched", "sched"):
    HEADINGS |= {
        f"{_prefix}.t_estimate": "T_ESTIMATE",
        f"{_prefix}.reason_pending": "REASON",
        f"{_prefix}.resource_summary": "RESOURCES",
    }
for _state, _heading in (("up", "UP"), ("down", "DOWN"), ("allocated", "USED"), ("free", "FREE")):
    HEADINGS |= {f"instance.resources.{_state}.{count}": _heading for count in ("ncores", "ngpus", "nnodes")}
HEADINGS |= {f"instance.resources.all.n{kind}": kind.upper() for kind in ("cores", "gpus", "nodes")}


def headings_for(form: str) -> dict[str, str]:
    """Return all headings, and those of the annotations in a format, whose names are free."""
    headings = dict(HEADINGS)
    for _, name, _, _ in Formatter().parse(form):
        if not name or name in headings:
            continue
        first, _, rest = name.partition(".")
        if first == "annotations":
            headings[name] = rest.upper()
        elif first in ("sched", "user"):
            headings[name] = name.upper()
        elif first == "instance":
            headings[name] = rest.upper().removeprefix("RESOURCES.")
    return headings


_KINDS = {"ncores": "core", "ngpus": "gpu", "nnodes": "node"}


class Instance:
    """Statistics and resources of one instance."""

    def __init__(self, stats: dict[str, Any], resources: ResourceList) -> None:
        self._states: dict[str, int] = stats["job_states"]
        self._stats = stats
        self._resources = resources

    def field(self, name: str) -> Any:  # noqa: ANN401
        """Return a field; it is empty if the name is unknown."""
        if name in ("utilization", "gpu_utilization"):
            kind = "core" if name == "utilization" else "gpu"
            total = self._resources.all.count(kind)
            return self._resources.allocated.count(kind) / total if total else ""
        if name == "progress":
            total = self._states["total"]
            return self._states["inactive"] / total if total else ""
        group, _, rest = name.partition(".")
        if group == "stats":
            return self._statistic(rest)
        state, _, count = rest.partition(".")
        if group == "resources" and state in ("all", "up", "down", "allocated", "free") and count in _KINDS:
            return self._resources.of(state).count(_KINDS[count])
        return ""

    def _statistic(self, name: str) -> Any:  # noqa: ANN401
        if not name:
            pending, running = count_pending(self._states), count_running(self._states)
            return f"PD:{pending} R:{running} CD:{self._stats['successful']} F:{self._stats['failed']}"
        return self._stats.get(name, self._states.get(name, ""))


def look_into(record: JobRecord) -> Instance | None:
    """Return the instance that runs as a job; None if there is none, or it cannot be reached."""
    if not record.uri or record.status != "RUN":
        return None
    try:
        with Flux(record.uri) as flux:
            return Instance(flux.jobs.stats(), Resources(flux).list())
    except (OSError, ValueError):
        return None


def add_instances(records: list[JobRecord], fields: Iterable[str]) -> None:
    """Ask the jobs that are instances for statistics, if a field shows them."""
    if any(field.startswith("instance.") for field in fields):
        for record in records:
            record.instance = look_into(record)


OPTIONS = (
    Option("a", "a", usage="List jobs in all states"),
    Option("A", "A", usage="List jobs of all users"),
    *FILTERS,
    Option("no-header", "n", usage="Print no header"),
    Option("suppress-header", hidden=True),
    Option("format", "o", "FORMAT", usage="The output format, or the name of one; 'help' lists those"),
    Option("sort", argument="KEY,...", usage="Sort by these fields"),
    Option("width", "w", "N", optional=True, usage="Cut off lines there, or at the terminal's width"),
    Option("json", usage="Print JSON"),
    Option("from-stdin", hidden=True, usage="Read jobs from stdin, a JSON object of job-list in each line"),
    Option("color", argument="WHEN", optional=True, usage="Use color: never, always or auto (default)"),
    Option("recursive", "R", usage="List the jobs of instances that are jobs, too"),
    Option("level", "L", "N", usage="With -R, so many levels of them"),
    Option("recurse-all", usage="With -R, those of other users, too"),
    Option("threads", argument="N", hidden=True),
    Option("stats", usage="Begin with statistics"),
    Option("stats-only", usage="Print statistics only; exit with 1 if no job is active"),
)
_COLORS = {"COMPLETED": "01;32", "FAILED": "01;31", "CANCELED": "37", "TIMEOUT": "01;31"}
_INSTANCE = "01;34"


def jobs(options: Options, context: Context) -> int:
    """List jobs."""
    if options.has("json") and (options.has("stats") or options.has("stats-only")):
        raise CommandError("--json incompatible with --stats or --stats-only")
    ids = job_ids(options.arguments, context)
    if ids and query_of(options, context).filtered and not options.has("recursive"):
        warn(context, "Filtering options ignored with jobid list")
    form = find_format(options.get("format", "default") or "", FORMATS, "flux-jobs")
    listing = _Listing(options, context, form)
    if options.has("from-stdin"):
        return listing.show(list(_read_records()), ids)
    with connect() as flux:
        return listing.run(flux, ids)


def _read_records() -> Iterator[JobRecord]:
    for number, line in enumerate(sys.stdin, 1):
        try:
            yield JobRecord(json.loads(line))
        except (TypeError, ValueError) as error:
            raise CommandError(f"JSON input error: line {number}: {error}") from None


def _counts(stats: dict[str, int]) -> str:
    return (
        f"{stats['running']} running, {stats['successful']} completed, "
        f"{stats['failed']} failed, {stats['pending']} pending"
    )


class _Listing:
    def __init__(self, options: Options, context: Context, form: str) -> None:
        self._names = options.arguments
        self._json = options.has("json")
        self._header = not (options.has("no-header") or options.has("suppress-header") or self._json)
        self._stats = options.has("stats")
        self._stats_only = options.has("stats-only")
        self._color = color_is_on(options, context)
        self._width = (
            (integer(options, context, "width", 0) if options.get("width") else 0) if options.has("width") else -1
        )
        self._levels = 0
        self._recurse_all = options.has("recurse-all")
        if options.has("recursive") or self._recurse_all:
            self._levels = integer(options, context, "level", 9999)
        self._query = query_of(options, context)
        try:
            self._format = Format(form, headings_for(form))
        except ValueError as error:
            raise ValueError(f"Error in user format: {error}") from None
        if options.get("sort"):
            self._format.set_sort_keys(options.get("sort") or "")
        fields = [*self._format.fields, *(("result", "annotations") if self._color else ())]
        fields += ["annotations", "status", "userid"] if self._levels else []
        self._query.set_fields(fields, everything=self._json)

    def run(self, flux: Flux, ids: list[int]) -> int:
        if self._stats or self._stats_only:
            active = self._print_stats(flux)
            if self._stats_only:
                return 0 if active else 1
        records, errors = fetch(flux, self._query, ids, self._names)
        truncated = self._query.truncate(records) if not ids else False
        add_instances(records, self._format.fields)
        sys.stderr.writelines(f"{line}\n" for line in errors)
        return self.show(records, ids, truncated=truncated)

    def show(self, records: list[JobRecord], ids: list[int], *, truncated: bool = False) -> int:
        """Print the jobs, and those of the instances among them."""
        if ids and not records:
            return 1
        if self._json:
            found = self._as_json(records, self._levels)
            print(json.dumps(found[0] if len(ids) == 1 else {"jobs": found}))
            return 0
        fitted = self._format.fitted(records, header=self._header)
        if self._header:
            print(fitted.header(self._width))
        self._print(fitted, records, "", self._levels)
        if self._header and truncated:
            sys.stderr.write(f"warning: output truncated at {self._query.count} jobs.\n")
            sys.stderr.write("Use --count to increase returned results or use filters to alter results.\n")
        return 0

    def _print_stats(self, flux: Flux) -> int:
        stats = self._query.stats_of(flux.jobs.stats())
        print(f"{_counts(stats)}, {stats['inactive_purged']} inactive purged")
        return stats["running"] + stats["pending"]

    def _print(self, form: Format, records: list[JobRecord], path: str, levels: int) -> None:
        form.print(records, header=False, width=self._width, before=self._paint, after=self._unpaint)
        for record in self._instances(records) if levels else ():
            inner = f"{path}/{f58(record.id)}" if path else f58(record.id)
            print(f"\n{inner}:")
            self._descend(
                record, lambda flux, found, inner=inner: self._print_inner(form, flux, found, inner, levels)
            )

    def _print_inner(self, form: Format, flux: Flux, records: list[JobRecord], path: str, levels: int) -> None:
        if self._stats:
            print(_counts(self._query.stats_of(flux.jobs.stats())))
        self._print(form, records, path, levels - 1)

    def _instances(self, records: list[JobRecord]) -> list[JobRecord]:
        mine = os.getuid()
        return [
            record
            for record in self._format.sorted(records)
            if isinstance(record, JobRecord)
            and record.uri
            and record.status == "RUN"
            and (self._recurse_all or record.values.get("userid") == mine)
        ]

    def _descend(self, record: JobRecord, use: Any) -> None:  # noqa: ANN401
        """Ask an instance for its jobs. Skip it if it cannot be reached or is not ready."""
        from pytest_flux.client import Flux

        try:
            with Flux(record.uri) as flux:
                found, _ = fetch(flux, self._query, [])
                add_instances(found, self._format.fields)
                use(flux, found)
        except (OSError, ValueError):
            return

    def _as_json(self, records: list[JobRecord], levels: int) -> list[dict[str, Any]]:
        objects = {record.id: record.json() for record in records}
        for record in self._instances(records) if levels else ():
            self._descend(
                record, lambda _, found, record=record: objects[record.id].update(jobs=[r.json() for r in found])
            )
        return list(objects.values())

    def _paint(self, item: Any) -> None:  # noqa: ANN401
        color = self._color_of(item)
        if color:
            sys.stdout.write(f"\033[{color}m")

    def _unpaint(self, item: Any) -> None:  # noqa: ANN401
        if self._color_of(item):
            sys.stdout.write("\033[0;0m")

    def _color_of(self, record: JobRecord) -> str:
        if not self._color:
            return ""
        return _COLORS.get(record.result) or (_INSTANCE if record.uri else "")


COMMANDS = (ArgumentCommand("flux-jobs", jobs, usage="[OPTIONS] [JOBID ...]", summary="List jobs", options=OPTIONS),)

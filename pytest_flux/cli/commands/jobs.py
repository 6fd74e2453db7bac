"""`flux jobs`: list jobs."""

from __future__ import annotations

import json
import sys

from pytest_flux.cli.arguments import ArgumentCommand, color_is_on, connect, integer, job_ids, warn
from pytest_flux.cli.commands.command import CommandError
from pytest_flux.cli.commands.jobs_format import FORMATS, headings_for
from pytest_flux.cli.commands.jobs_query import FILTERS, add_instances, fetch, query_of
from pytest_flux.cli.format import Format
from pytest_flux.cli.named_formats import FormatShown, find_format
from pytest_flux.client.job_record import JobRecord
from pytest_flux.options import Option
from pytest_flux.protocol.fluid import f58

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.cli.commands.command import Context
    from pytest_flux.cli.commands.jobs_query import Query
    from pytest_flux.client import Flux
    from pytest_flux.options import Options

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


def run(options: Options, context: Context) -> int:
    """List jobs."""
    if options.has("json") and (options.has("stats") or options.has("stats-only")):
        raise CommandError("--json incompatible with --stats or --stats-only")
    ids = job_ids(options.arguments, context)
    if ids and query_of(options, context).filtered and not options.has("recursive"):
        warn(context, "Filtering options ignored with jobid list")
    try:
        form = find_format(options.get("format", "default") or "", FORMATS, "flux-jobs")
    except FormatShown:
        return 0
    with connect(context) as flux:
        return _Listing(options, context, form).run(flux, ids)


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
            active = self._print_stats(flux, self._query)
            if self._stats_only:
                return 0 if active else 1
        records, errors = fetch(flux, self._query, ids, self._names)
        truncated = self._query.truncate(records) if not ids else False
        add_instances(records, self._format.fields)
        sys.stderr.writelines(f"{line}\n" for line in errors)
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

    def _print_stats(self, flux: Flux, query: Query) -> int:
        stats = query.stats_of(flux.jobs.stats())
        print(
            f"{stats['running']} running, {stats['successful']} completed, {stats['failed']} failed, "
            f"{stats['pending']} pending, {stats['inactive_purged']} inactive purged"
        )
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
            stats = self._query.stats_of(flux.jobs.stats())
            print(
                f"{stats['running']} running, {stats['successful']} completed, {stats['failed']} failed, "
                f"{stats['pending']} pending"
            )
        self._print(form, records, path, levels - 1)

    def _instances(self, records: list[JobRecord]) -> list[JobRecord]:
        from pytest_flux.cli.commands.job_words import own_user

        mine = own_user()
        return [
            record
            for record in self._format.sorted(records)
            if isinstance(record, JobRecord)
            and record.uri
            and record.status == "RUN"
            and (self._recurse_all or record.values.get("userid") == mine)
        ]

    def _descend(self, record: JobRecord, use: Any) -> None:  # noqa: ANN401
        """Ask an instance; one that cannot be reached, or is not ready, has no jobs."""
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


COMMAND = ArgumentCommand("flux-jobs", run, usage="[OPTIONS] [JOBID ...]", summary="List jobs", options=OPTIONS)

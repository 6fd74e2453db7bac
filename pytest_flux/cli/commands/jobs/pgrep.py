"""`flux pgrep` and `flux pkill`: find jobs by name or by a range of ids, and cancel them."""

from __future__ import annotations

import re

from pytest_flux.cli.arguments import ArgumentCommand, connect, integer, queue_names, warn
from pytest_flux.cli.command import CommandError, reason
from pytest_flux.cli.commands.jobs.jobs import FORMATS, add_instances, headings_for
from pytest_flux.cli.commands.jobs.query import FILTERS, Query, fetch
from pytest_flux.cli.format import Format
from pytest_flux.cli.named_formats import find_format
from pytest_flux.client.job_record import JobRecord
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import f58, parse_fluid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_flux.cli.command import Context
    from pytest_flux.client import Flux
    from pytest_flux.options import Options

CHOICE = (
    Option("a", "a", usage="Search jobs in all states"),
    Option("A", "A", usage="Search jobs of all users"),
    *(option for option in FILTERS if option.name in ("filter", "user", "queue")),
    Option("count", "c", "N", usage="Only the first N that match"),
    Option("max-entries", argument="N", usage="Search N jobs at most (default 1000)"),
)
PGREP_OPTIONS = (
    *CHOICE,
    Option("no-header", "n", usage="Print no header"),
    Option("format", "o", "FORMAT", usage="The output format, or the name of one; 'help' lists those"),
)
_DEFAULT = "{id.f58}"
_FULL = ("full flux-pgrep format string", FORMATS["default"][1])
_FORMATS = {
    "default": ("Default flux-pgrep format string", _DEFAULT),
    "full": _FULL,
    "long": ("Extended flux-pgrep format string", FORMATS["long"][1]),
    "deps": FORMATS["deps"],
}
_SEARCHED = 1000
_PRINTED = 99999


class _Expression:
    """A pattern for the names of jobs, a range of their ids, or both. Raises ValueError."""

    def __init__(self, words: Sequence[str]) -> None:
        self._pattern: re.Pattern[str] | None = None
        self._range: tuple[int, int] | None = None
        for word in words:
            found = _range_of(word)
            if found is not None:
                self._range = found
                continue
            if self._pattern is not None:
                raise ValueError("Only one pattern can be provided")
            try:
                self._pattern = re.compile(word.removeprefix("name:"))
            except re.error as error:
                raise ValueError(str(error)) from None

    def match(self, record: JobRecord) -> bool:
        """Return whether a job matches."""
        if self._pattern is not None and not self._pattern.search(str(record.values.get("name", ""))):
            return False
        return self._range is None or self._range[0] <= record.id <= self._range[1]


def _range_of(word: str) -> tuple[int, int] | None:
    first, dots, last = word.partition("..")
    if ":" in word or not dots:
        return None
    try:
        return parse_fluid(first), parse_fluid(last)
    except ValueError:
        return None


def find(flux: Flux, options: Options, context: Context, query: Query) -> list[JobRecord]:
    """Return the jobs that match the expressions. Raises CommandError, OptionExit."""
    try:
        expression = _Expression(options.arguments)
    except ValueError as error:
        raise CommandError(f"expression error: {error}", 2) from None
    query.count = integer(options, context, "max-entries", _SEARCHED) - 1
    records, _ = fetch(flux, query, [])
    return [record for record in records if expression.match(record)][: integer(options, context, "count", _PRINTED)]


def _query_of(options: Options, context: Context, fields: Sequence[str]) -> Query:
    if not options.arguments:
        raise context.command.parser().usage_error("the following arguments are required: EXPRESSION")
    query = Query()
    query.set_user(options)
    query.queues = queue_names(options)
    words = {word for text in options.all("filter") for word in text.split(",")}
    words |= {"pending", "running", "inactive"} if options.has("a") else set()
    query.set_outcomes(words or {"pending", "running"})
    query.set_fields([*fields, "name"])
    return query


def pgrep(options: Options, context: Context) -> int:
    """Print jobs; the exit code is 1 if none matches."""
    form = find_format(options.get("format", "default") or "", _FORMATS, "flux-pgrep")
    try:
        output = Format(form, headings_for(form))
    except ValueError as error:
        raise ValueError(f"Error in user format: {error}") from None
    query = _query_of(options, context, output.fields)
    with connect() as flux:
        records = find(flux, options, context, query)
        add_instances(records, output.fields)
    if not records:
        return 1
    output.print(records, header=not options.has("no-header") and form != _DEFAULT)
    return 0


def pkill(options: Options, context: Context) -> int:
    """Cancel jobs; the exit code is 1 if none matches, or if some cannot be canceled."""
    query = _query_of(options, context, ["state"])
    failed = canceled = 0
    with connect() as flux:
        records = find(flux, options, context, query)
        if not records:
            return 1
        calls = [(record.id, flux.jobs.begin_raise(record.id)) for record in records]
        for jobid, call in calls:
            try:
                call.get()
                canceled += 1
            except FluxError as error:
                context.log(f"{f58(jobid)}: cancel: [Errno {error.errnum}] {reason(error)}")
                failed += 1
        if options.has("wait"):
            for jobid, _ in calls:
                flux.jobs.wait_event(jobid, "clean")
    warn(context, f"Canceled {canceled} job{'s' if canceled != 1 else ''}", "INFO")
    return 1 if failed else 0


COMMANDS = (
    ArgumentCommand(
        "flux-pgrep",
        pgrep,
        usage="[OPTIONS] EXPRESSION...",
        summary="Find jobs by name or range of ids",
        options=PGREP_OPTIONS,
    ),
    ArgumentCommand(
        "flux-pkill",
        pkill,
        usage="[OPTIONS] EXPRESSION...",
        summary="Cancel jobs by name or range of ids",
        options=(*CHOICE, Option("wait", usage="Wait until they are over")),
    ),
)

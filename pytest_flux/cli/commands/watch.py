"""`flux watch`: print the output of jobs, and wait for them."""

from __future__ import annotations

import sys

from pytest_flux.cli.arguments import ArgumentCommand, connect, integer, job_ids, warn
from pytest_flux.cli.commands.command import CommandError
from pytest_flux.cli.commands.jobs_query import Query, fetch, parse_since
from pytest_flux.cli.commands.watch_session import Destination, WatchSession
from pytest_flux.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.cli.commands.command import Context
    from pytest_flux.options import Options

OPTIONS = (
    Option("active", "a", usage="All active jobs of ours"),
    Option("all", "A", usage="All jobs of ours"),
    Option("count", "c", "N", usage="N jobs at most"),
    Option("filter", "f", "STATE|RESULT", usage="Those with these states or results"),
    Option("since", argument="WHEN", usage="Those that became inactive since then"),
    Option("progress", usage="Show a progress bar"),
    Option("jps", usage="With it, show jobs per second"),
    Option("label-io", "l", usage="Begin each line with the job and the task's rank"),
    Option("verbose", "v", usage="Say more on stderr; may be repeated"),
)
_ACTIVE = {"pending", "running"}


def run(options: Options, context: Context) -> int:
    """Watch; the exit code is the highest of the jobs."""
    ids = job_ids(options.arguments, context)
    if ids and any(options.has(name) for name in ("active", "all", "filter", "since", "count")):
        warn(context, "Filtering options ignored with jobid list")
    query, every = _query_of(options, context)
    if not query.filtered and not ids:
        context.log("At least one job selection option is required")
        sys.stderr.write("Try 'flux watch --help' for more information.\n")
        return 1
    with connect(context) as flux:
        started = float(flux.getattr("broker.starttime")) if every or options.has("since") else None
        records, errors = fetch(flux, query, ids, options.arguments)
        query.truncate(records)
        for line in errors:
            context.log(line)
        if not records:
            warn(context, "No matching jobs", "INFO")
            return 0
        if options.has("verbose"):
            warn(context, f"Watching {len(records)} jobs", "INFO")
        progress = options.has("progress")
        if progress and not sys.stdout.isatty():
            warn(context, "stdout is not a tty. Ignoring --progress option")
            progress = False
        session = WatchSession(
            flux,
            label=options.has("label-io"),
            log_status=options.has("verbose"),
            log_events=options.count("verbose") > 1,
            progress=progress,
            jobs_per_second=options.has("jps"),
            total=len(records),
            started=started,
        )
        for record in records:
            session.add(record.id, Destination(), "clean")
        return session.run()


def _query_of(options: Options, context: Context) -> tuple[Query, bool]:
    """Which jobs, and whether inactive ones are asked for. Raises CommandError, OptionExit."""
    query = Query()
    query.count = integer(options, context, "count", 0)
    query.set_fields(["state", "result", "t_submit"])
    words = {word for text in options.all("filter") for word in text.split(",")}
    every = options.has("all") or (options.has("since") and not words)
    if options.has("since"):
        text = options.get("since") or ""
        try:
            query.since = parse_since(text)
        except ValueError:
            raise CommandError(f"--since: invalid value '{text}'", 2) from None
        except CommandError as error:
            raise CommandError(str(error), 2) from None
    words |= _ACTIVE if options.has("active") or every else set()
    words |= {"inactive"} if every else set()
    query.set_outcomes(words)
    query.filtered = bool(words)
    return query, every


COMMAND = ArgumentCommand(
    "flux-watch",
    run,
    usage="[OPTIONS] [JOBID ...]",
    summary="Print the output of jobs, and wait for them",
    options=OPTIONS,
)

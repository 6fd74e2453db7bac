"""Query the instance for jobs, with the filters of `flux jobs`, `pgrep` and `watch`."""

from __future__ import annotations

import errno
import os

from pytest_flux.cli.arguments import integer, queue_names, warn
from pytest_flux.cli.command import CommandError
from pytest_flux.cli.commands.jobs.common import ANY_USER, user_argument
from pytest_flux.client.clock import instance_time, present_time
from pytest_flux.client.job_record import JobRecord, attributes_for
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.hostlist import decode_hostlist, encode_hostlist
from pytest_flux.protocol.idset import decode_idset, encode_idset
from pytest_flux.protocol.job_state import INACTIVE, PENDING, RUNNING, parse_result, parse_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from pytest_flux.cli.command import Context
    from pytest_flux.client import Flux
    from pytest_flux.options import Options

FILTERS = (
    Option("count", "c", "N", usage="List N jobs at most (default 1000)"),
    Option("filter", "f", "STATE|RESULT", usage="List jobs with these states or results"),
    Option("since", argument="WHEN", usage="Those that became inactive since then; implies -a"),
    Option("user", "u", "[USERNAME|UID]", usage="Those of this user, or 'all'"),
    Option("name", argument="JOB-NAME", usage="Those of this name"),
    Option("queue", "q", "QUEUE,...", usage="Those in these queues"),
    Option("include", "i", "HOSTS|RANKS", usage="Those that have been on these hosts or ranks"),
)
_ALL = PENDING | RUNNING | INACTIVE
_DEFAULT_COUNT = 1000


class Query:
    """Conditions on jobs, and the attributes to ask for. ``filtered`` says whether there are any conditions."""

    def __init__(self) -> None:
        self.count = _DEFAULT_COUNT
        self.filtered = False
        self.states = 0
        self.results = 0
        self.since = 0.0
        self.userid = os.getuid()
        self.name: str | None = None
        self.queues: list[str] = []
        self.include: dict[str, Any] | None = None
        self.attributes: list[str] = []

    def set_fields(self, fields: Iterable[str], *, everything: bool = False) -> None:
        """Ask for the attributes that these fields need."""
        self.attributes = ["all"] if everything else sorted(attributes_for(fields))

    def set_user(self, options: Options) -> None:
        """Ask for the jobs of the user that ``-A`` and ``--user`` say. Raises ValueError."""
        if options.has("user"):
            self.userid = user_argument(options.get("user") or "")
        if options.has("A"):
            self.userid = ANY_USER

    def set_outcomes(self, words: Iterable[str]) -> None:
        """Ask for jobs in these states, or with these results. Raises ValueError."""
        for word in sorted(words):
            try:
                self.states |= _ALL if word == "all" else parse_state(word)
            except ValueError:
                try:
                    self.results |= parse_result(word)
                except ValueError:
                    raise ValueError(f"Invalid filter specified: {word}") from None

    def constraint(self) -> dict[str, Any]:
        """Return the conditions as an RFC 31 object."""
        parts: list[dict[str, Any]] = [] if self.include is None else [self.include]
        if self.userid != ANY_USER:
            parts.append({"userid": [self.userid]})
        if self.name:
            parts.append({"name": [self.name]})
        if self.queues:
            parts.append({"queue": self.queues})
        outcomes = [{"states": [self.states]}] if self.states else []
        outcomes += [{"results": [self.results]}] if self.results else []
        parts += outcomes if len(outcomes) < 2 else [{"or": outcomes}]
        return {"and": parts}

    def truncate(self, records: list[JobRecord]) -> bool:
        """Cut the list to the count, and return whether there were more. One more than the count was asked for."""
        if self.count > 0 and len(records) > self.count:
            del records[self.count :]
            return True
        return False

    def stats_of(self, stats: dict[str, Any]) -> dict[str, int]:
        """Return numbers of jobs by state and result, in the queues that are asked for."""
        parts = [stats]
        if self.queues:
            known = {queue["name"]: queue for queue in stats.get("queues", ())}
            for name in self.queues:
                if name not in known:
                    raise CommandError(f"error retrieving job stats: no stats available for queue {name}")
            parts = [known[name] for name in self.queues]
        result = {name: sum(part[name] for part in parts) for name in ("successful", "inactive_purged")}
        result["failed"] = sum(part[name] for part in parts for name in ("failed", "timeout", "canceled"))
        states = [part["job_states"] for part in parts]
        result["pending"] = sum(map(count_pending, states))
        result["running"] = sum(map(count_running, states))
        return result


def count_pending(states: dict[str, int]) -> int:
    """Return how many jobs are pending, by the numbers of jobs in each state."""
    return states["depend"] + states["priority"] + states["sched"]


def count_running(states: dict[str, int]) -> int:
    """Return how many jobs are running."""
    return states["run"] + states["cleanup"]


def query_of(options: Options, context: Context) -> Query:
    """Return the query that the options ask for. Raises OptionExit, CommandError, ValueError."""
    query = Query()
    query.count = integer(options, context, "count", _DEFAULT_COUNT)
    query.name = options.get("name")
    query.queues = queue_names(options)
    words = {word for text in options.all("filter") for word in text.split(",")}
    every = options.has("a") or options.has("A")
    query.filtered = every or any(options.has(n) for n in ("count", "filter", "since", "user", "name", "queue"))
    query.set_user(options)
    if options.has("since"):
        query.since = parse_since(options.get("since") or "")
    if words and options.has("a"):
        warn(context, "Both -a and --filter specified, ignoring -a")
    elif not words and (options.has("a") or options.has("since")):
        words = {"pending", "running", "inactive"}
    query.set_outcomes(words or {"pending", "running"})
    if options.has("include"):
        query.include = _include(options.get("include") or "")
        if not options.has("user"):
            query.userid = ANY_USER
    return query


def parse_since(text: str) -> float:
    """Parse the argument of ``--since``. Raises CommandError, ValueError."""
    from pytest_flux.cli.moment import language_hint, parse_moment

    present = present_time()
    try:
        since = parse_moment(text, present)
    except ValueError:
        try:
            since = float(text)
        except ValueError:
            raise ValueError(f"could not convert string to float: '{text}'{language_hint()}") from None
    if since > present:
        raise CommandError(f"--since={text} appears to be in the future")
    return since


def _include(text: str) -> dict[str, Any]:
    try:
        return {"ranks": [encode_idset(decode_idset(text))]}
    except ValueError:
        try:
            return {"hostlist": [encode_hostlist(decode_hostlist(text))]}
        except ValueError:
            raise ValueError(f"-i/--include: invalid targets: {text}") from None


def fetch(flux: Flux, query: Query, ids: list[int], names: Sequence[str] = ()) -> tuple[list[JobRecord], list[str]]:
    """Return the jobs, and error lines for ids without a job."""
    if not ids:
        entries = query.count + 1 if query.count > 0 else query.count
        found = flux.jobs.list(
            query.attributes, constraint=query.constraint(), max_entries=entries, since=query.since
        )
        now = instance_time(flux)
        return [JobRecord(values, now) for values in found], []
    records, errors, now = [], [], instance_time(flux)
    calls = [flux.rpc("job-list.list-id", {"id": jobid, "attrs": query.attributes}) for jobid in ids]
    for name, call in zip(names, calls, strict=True):
        try:
            records.append(JobRecord(call.get()["job"], now))
        except FluxError as error:
            unknown = error.errnum == errno.ENOENT
            errors.append(f"JobID {name} unknown" if unknown else f"rpc: {error.strerror}")
    return records, errors

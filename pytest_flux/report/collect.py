"""Ask an instance for everything that its page shows, before it ends.

Parts of an instance may not answer: ranks are dead, the personality has no jobs, a broker is stopped. Each question
is therefore asked by itself, within one time limit for all of them, and what could not be learned is a line in
``notes``. Questions to many ranks are sent at once, so that the slowest answer counts and not the sum.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from pytest_flux.client.handle import Flux
from pytest_flux.client.story import tell
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.hostlist import decode_hostlist
from pytest_flux.protocol.job_state import ACTIVE, result_name, state_name
from pytest_flux.protocol.severity import LOG_INFO
from pytest_flux.protocol.stdlog import decode_entry
from pytest_flux.protocol.wait_status import exit_code

TIMES = ("t_submit", "t_depend", "t_priority", "t_sched", "t_run", "t_cleanup", "t_inactive")
"""When a job came to each state, in their order (RFC 21); the page relies on the order."""

_ATTRIBUTES = ("version", "rundir", "tbon.topo")
_FACTS = ("name", "queue", "ranks", "nnodes", "ncores", "ntasks", "urgency", "priority", "userid", "cwd")
_MOST_RANKS = 256
_MOST_STORIES = 100
_MOST_LINES = 20000
_PATIENCE = 10.0
_STORY_PATIENCE = 5.0
_FAILURES = (OSError, ProtocolError, LookupError, TypeError, ValueError)


class Collector:
    """Collects from one instance. ``patience``, in seconds, bounds all questions together."""

    def __init__(self, flux: Flux, patience: float = _PATIENCE) -> None:
        self._flux = flux
        self._deadline = time.monotonic() + patience
        self.notes: list[str] = []

    def collect(self) -> dict[str, Any]:
        """What the page shows of the instance: JSON, as ``page.js`` reads it."""
        size = self._ask("size", lambda: self._flux.size, 1)
        overlay = self._ask("overlay", self._overlay, [])
        jobs = self.jobs()
        # Last, because a rank that is stopped takes the time of all that follows.
        log = self._log(range(min(size, _MOST_RANKS)))
        if size > _MOST_RANKS:
            self.notes.append(f"log: of the ranks below {_MOST_RANKS} only")
        return {
            "size": size,
            "attributes": {name: value for name in _ATTRIBUTES if (value := self._attribute(name)) is not None},
            "hosts": self._ask("hostlist", self._hosts, []),
            "overlay": overlay,
            **jobs,
            "log": log,
            "notes": self.notes,
            "ended": time.time(),
        }

    def _left(self) -> float:
        """The time, in seconds, that is left to wait; never none, since some answers have arrived already."""
        return max(self._deadline - time.monotonic(), 0.05)

    def _ask(self, what: str, ask: Callable[[], Any], otherwise: Any) -> Any:  # noqa: ANN401 - by the question
        try:
            return ask()
        except _FAILURES as error:
            self.notes.append(f"{what}: {error}")
            return otherwise

    def _attribute(self, name: str) -> str | None:
        try:
            return str(self._flux.rpc("attr.get", {"name": name}).get(self._left())["value"])
        except _FAILURES:
            # Not every engine has every attribute.
            return None

    def _hosts(self) -> list[str]:
        answer = self._flux.rpc("attr.get", {"name": "hostlist"}).get(self._left())
        return list(decode_hostlist(str(answer["value"])))

    # -- the overlay

    def _overlay(self) -> list[dict[str, Any]]:
        """The tree of brokers, parents first: ``{rank, parent, status}``, and ``error`` if a rank was lost."""
        tree = self._flux.rpc("overlay.topology", {"rank": 0}, nodeid=0).get(self._left())
        brokers = list(_flatten(tree))
        # A broker knows the state of its children. All are asked at once; those that are gone give no answer.
        parents = [0, *{broker["parent"] for broker in brokers[1:]} - {0}]
        asked = [self._flux.rpc("overlay.health", {}, nodeid=rank) for rank in parents]
        known: dict[int, dict[str, Any]] = {}
        for rpc in asked:
            try:
                answer = rpc.get(self._left())
            except _FAILURES:
                continue
            known.update({child["rank"]: child for child in answer["children"]})
            known.setdefault(answer["rank"], answer)
        for broker in brokers:
            health = known.get(broker["rank"], {})
            broker["status"] = health.get("status", "unknown")
            if health.get("error"):
                broker["error"] = health["error"]
        return brokers

    # -- jobs

    def jobs(self) -> dict[str, Any]:
        """The jobs that the instance lists now, and the stories of some of them."""
        listed = self._ask("job-list", lambda: self._flux.jobs.list(timeout=self._left()), [])
        rows = [row for job in listed if (row := _row(job)) is not None]
        return {"jobs": rows, "stories": self._stories(listed)}

    def _stories(self, listed: Iterable[dict[str, Any]]) -> dict[str, str]:
        """The stories of jobs that have failed or are active, by id: of the first ones, as long as time is left."""
        told = [job for job in listed if job.get("success") is False or job["state"] & ACTIVE]
        told.sort(key=lambda job: float(job.get("t_submit", 0.0)))
        limit = time.monotonic() + min(self._left(), _STORY_PATIENCE)
        stories = {}
        for job in told[:_MOST_STORIES]:
            if time.monotonic() > limit:
                break
            stories[f58(job["id"])] = tell(self._flux, job["id"], job)
        if len(stories) < len(told):
            self.notes.append(f"details of {len(stories)} of {len(told)} jobs that failed or are active were read")
        return stories

    # -- logs

    def _log(self, ranks: range) -> list[list[Any]]:
        """The logs of the ranks as one: ``[time, rank, level, name, text]``, in the order of times."""
        try:
            asked = [(rank, self._dmesg(rank)) for rank in ranks]
        except OSError as error:
            self.notes.append(f"log: {error}")
            return []
        lines: list[list[Any]] = []
        for rank, rpc in asked:
            lines += self._ask(f"log of rank {rank}", partial(self._entries, rank, rpc), [])
        lines.sort(key=lambda line: float(line[0] or 0))
        if len(lines) > _MOST_LINES:
            self.notes.append(f"log: the last {_MOST_LINES} of {len(lines)} lines")
        return lines[-_MOST_LINES:]

    def _dmesg(self, rank: int) -> Any:  # noqa: ANN401 - a call
        return self._flux.rpc("log.dmesg", {"follow": False, "nobacklog": False}, nodeid=rank, streaming=True)

    def _entries(self, rank: int, rpc: Any) -> list[list[Any]]:  # noqa: ANN401 - a call
        """What a rank has logged. Rank 0 has messages of others as well, which they have themselves."""
        lines: list[list[Any]] = []
        while True:
            try:
                text = rpc.get_text(self._left())
            except FluxError as error:
                if error.errnum != errno.ENODATA:
                    raise
                return lines
            try:
                entry = decode_entry(text)
            except ProtocolError:
                lines.append([None, rank, LOG_INFO, "", text])
                continue
            if entry.rank == str(rank):
                lines.append([_seconds(entry.timestamp), rank, entry.severity, entry.appname, entry.text])


def collect_jobs(flux: Flux, patience: float = _PATIENCE) -> dict[str, Any]:
    """Collect only the jobs of an instance, and their stories. Does not raise OSError."""
    return Collector(flux, patience).jobs()


def collect(flux: Flux, patience: float = _PATIENCE) -> dict[str, Any]:
    """Collect what a page shows of the instance that ``flux`` is connected to. Does not raise OSError."""
    return Collector(flux, patience).collect()


def facts(collected: dict[str, Any]) -> dict[str, str]:
    """The lines about an instance that head its part of the page."""
    jobs = collected["jobs"]
    counts: dict[str, int] = {}
    for job in jobs:
        word = job.get("result", job["state"]).lower()
        counts[word] = counts.get(word, 0) + 1
    summary = ", ".join(f"{count} {word}" for word, count in counts.items())
    return {
        "size": str(collected["size"]),
        "jobs": f"{len(jobs)}{f' ({summary})' if jobs else ''}",
        **collected["attributes"],
    }


def moment(seconds: float) -> str:
    """A time as people read it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _flatten(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    # Iterative, since a chain of brokers (tbon.topo=kary:1) is as deep as it is long.
    waiting = [(tree, -1)]
    while waiting:
        node, parent = waiting.pop()
        yield {"rank": node["rank"], "parent": parent}
        waiting += [(child, node["rank"]) for child in reversed(node["children"])]


def _row(job: dict[str, Any]) -> dict[str, Any] | None:
    """A job as the page reads it. Ids are text: JavaScript's numbers hold 53 bits of the 64."""
    try:
        row: dict[str, Any] = {
            "id": f58(job["id"]),
            "number": str(job["id"]),
            "state": state_name(job["state"]),
            "times": [job.get(name) for name in TIMES],
            **{name: job[name] for name in _FACTS if job.get(name) not in (None, "")},
        }
        if "result" in job:
            row["result"] = result_name(job["result"])
        else:
            row["seen"] = time.time()
        if "waitstatus" in job:
            row["code"] = exit_code(job["waitstatus"])
        if job.get("exception_occurred"):
            row["exception"] = f"{job.get('exception_type', '')}: {job.get('exception_note', '')}".rstrip(": ")
    except _FAILURES:
        return None
    return row


def _seconds(timestamp: str) -> float | None:
    """``2026-11-22T11:45:39.104527Z`` as seconds since the epoch."""
    from datetime import datetime, timezone

    try:
        return datetime.strptime(timestamp, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None

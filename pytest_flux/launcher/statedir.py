"""Find the temporary statedir of a real Flux's rank 0, to remove it even if rank 0 is killed.

It is outside of the run directory, and only rank 0 knows its name. We must not extend the command line or environment
of a real broker, so we ask it as soon as it accepts clients; that is about ten milliseconds after it has made the
directory. If rank 0 is killed in between, nothing proves that the directory is ours, except that it cannot belong to
any other process.

Embedded brokers keep a temporary statedir in the run directory.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable

from pytest_flux.launcher.descendants import descendants
from pytest_flux.launcher.rundir import Rundir
from pytest_flux.reactor.reactor import Reactor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import psutil

    from pytest_flux.launcher.query import BrokerQuery

#: The requests to rank 0; :func:`temporary_statedir` reads the answers.
QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("attr.get", {"name": "statedir"}),
    ("attr.get", {"name": "statedir-cleanup"}),
)

_INTERVAL = 0.01
# The time, in seconds, to wait for the answer of a broker that is about to be killed.
_LAST_WORDS = 0.5
# The time, in seconds, from the start of a program to its making of such a directory, at the most.
_YOUTH = 5.0


class StatedirWatch:
    """Finds the temporary statedir of rank 0, which listens at ``path``, each time that it is started.

    ``found`` is called with each of them.
    """

    def __init__(self, reactor: Reactor, path: str, found: Callable[[Rundir], None]) -> None:
        self._reactor = reactor
        self._path = path
        self._found = found
        self._query: BrokerQuery | None = None
        self._start = 0.0
        self._then: Callable[[], None] | None = None
        self.unknown = False

    def begin(self) -> None:
        """Begin to watch: rank 0 is about to be started."""
        self._start = time.time()
        self.unknown = True
        self._reactor.call_soon(self._ask)

    def end(self, code: int) -> None:
        """Note the end of rank 0, with its exit code or negative signal number."""
        if self.unknown and code < 0:
            remove_untold_statedir(self._start)
        self._know()

    def after_last_words(self, then: Callable[[], None]) -> None:
        """Call ``then`` when rank 0 may be killed: after it has told its statedir, if it has not.

        That is only so for a moment after its start, and the wait is short. The reactor must run meanwhile.
        """
        if not self.unknown:
            then()
            return
        self._then = then
        self._reactor.call_later(_LAST_WORDS, self._continue)

    def close(self) -> None:
        """Cancel the question."""
        if self._query is not None:
            self._query.cancel()
            self._query = None

    def _ask(self) -> None:
        from pytest_flux.launcher.query import BrokerQuery

        if self.unknown:
            self._query = BrokerQuery(self._reactor, self._path, QUESTIONS, self._take, interval=_INTERVAL)

    def _take(self, answers: list[dict[str, Any]]) -> None:
        statedir = temporary_statedir(answers)
        if statedir is not None:
            self._found(statedir)
        self._know()

    def _know(self) -> None:
        self.unknown = False
        self.close()
        self._continue()

    def _continue(self) -> None:
        then, self._then = self._then, None
        if then is not None:
            then()


def temporary_statedir(answers: list[dict[str, Any]]) -> Rundir | None:
    """The directory that a broker removes at its end, by its answers to QUESTIONS; None if it removes none."""
    if len(answers) != len(QUESTIONS) or answers[1].get("value") != "1":
        return None
    path = str(answers[0].get("value"))
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return Rundir(path, True, os.path.realpath(path), (status.st_dev, status.st_ino))


def remove_untold_statedir(since: float) -> None:
    """Remove the statedir of a rank 0 that was started at ``since`` (seconds since 1970) and killed before it told.

    That is an empty directory of our user with the right place, name, mode and age, if no running process may have
    made it: one of our user, of the same age, with "flux" in its command line.
    """
    place = os.environ.get("TMPDIR", "/var/tmp")
    candidates = _candidates(place, since)
    if candidates and not _others(since - _YOUTH):
        for path in candidates:
            try:
                os.rmdir(path)
            except OSError:
                continue


def _candidates(place: str, since: float) -> list[str]:
    import re

    found = []
    try:
        for name in filter(re.compile("flux-[0-9A-Za-z]{6}").fullmatch, os.listdir(place)):
            path = f"{place}/{name}"
            status = os.lstat(path)
            made_by_us = status.st_uid == os.getuid() and status.st_mode == stat.S_IFDIR | 0o700
            if made_by_us and status.st_ctime >= since and not os.listdir(path):
                found.append(path)
    except OSError:
        return []
    return found


def _others(since: float) -> list[psutil.Process]:
    """Processes of our user, started since, that have to do with Flux but not with this session."""
    import psutil

    related = {os.getpid(), *descendants(), *(process.pid for process in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid in related or process.uids().real != os.getuid() or process.create_time() < since:
                continue
            if any("flux" in word for word in (process.name(), *process.cmdline())):
                found.append(process)
        except psutil.Error:
            continue
    return found

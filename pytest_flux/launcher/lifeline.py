"""How embedded brokers notice that front and supervisor have ended, and what they do then.

A pipe whose writing end only front and supervisor hold ends when both are dead, however they died. Each broker has
the reading end; it then kills its descendants, removes the run directory and exits. The last one leaves nothing.

If only one of the two is dead, the other cleans up, unless it is stopped (SIGSTOP). Therefore everybody is woken by
SIGCONT when the parent dies (PR_SET_PDEATHSIG), and a broker that was woken so wakes its new parent, the front.
PR_SET_PDEATHSIG follows the thread that forked; that does not matter, as SIGCONT does nothing to a process that runs.
"""

from __future__ import annotations

import os
import select
import signal

from pytest_flux.launcher.descendants import become_subreaper, kill_descendants, kill_marked, wake_with_parent
from pytest_flux.launcher.rundir import Rundir, remove_leftovers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn


class Lifeline:
    """The lifeline of the brokers that a supervisor forks: the pipe's reading end, and the rundir of the session."""

    def __init__(self, descriptor: int, rundir: Rundir) -> None:
        self.descriptor = descriptor
        self._rundir = rundir
        self._supervisor = os.getpid()

    def attach(self) -> None:
        """In a new broker: be woken if the supervisor dies, and adopt all orphans below us."""
        wake_with_parent()
        become_subreaper()

    def wake_parent(self, signum: int) -> None:
        """On SIGCONT: if the supervisor is dead, wake the front, which may be stopped."""
        parent = os.getppid()
        if parent not in (1, self._supervisor):
            os.kill(parent, signum)

    def has_ended(self) -> bool:
        """Whether front and supervisor are dead."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        return bool(poll.poll(0))

    def perish(self, clean_up: Callable[[], None]) -> NoReturn:
        """Kill all that is left of the instance, call ``clean_up``, remove the rundir and exit."""
        try:
            kill_descendants()
            kill_marked(self._rundir.path)
            clean_up()
        finally:
            remove_leftovers([self._rundir])
            os._exit(128 + signal.SIGKILL)

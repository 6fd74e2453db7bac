"""The way between a job, on rank 0, and one of its shells, which may be at another broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.message import Message

if TYPE_CHECKING:
    from pytest_flux.broker.exec.placement import Placement
    from pytest_flux.broker.exec.shells import Shells
    from pytest_flux.broker.exec.work import Work
    from pytest_flux.broker.router import Router
    from pytest_flux.protocol.resource_set import ResourceSet

_QUANTUM = 1 << 17

Report = Callable[[int, str, dict[str, Any]], None]
"""Takes the broker's rank, what the shell reports, and its particulars."""


class Link:
    """Starts a shell at the broker of that rank. ``lost`` is called when there will be no more reports."""

    def __init__(
        self, router: Router, shells: Shells, rank: int, job_id: int, report: Report, lost: Callable[[int], None]
    ) -> None:
        self.rank = rank
        self._job_id = job_id
        self._router = router
        self._shells = shells if rank == router.rank else None
        self._report = report
        self._lost = lost
        self._is_over = False
        self._stored = 0

    def start(self, work: Work, resources: ResourceSet, placement: Placement | None) -> None:
        """Make the shell. ``resources`` and ``placement``, if there is one, need not be found out a second time."""
        userid, jobspec = work.userid, work.jobspec
        if self._shells is not None:
            self._shells.start(self._job_id, userid, jobspec, resources, self._told, placement)
            return
        request = {"id": self._job_id, "userid": userid, "jobspec": jobspec, "R": work.resources}
        self._router.rpc("job-shell.start", request, self._answered, nodeid=self.rank, streaming=True)

    def command(self, name: str, **particulars: object) -> None:
        """Tell the shell to do something; see Shells.command."""
        if self._is_over:
            return
        if self._shells is not None:
            self._shells.command(self._job_id, name, particulars)
            return
        request = {"id": self._job_id, "command": name, "particulars": particulars}
        self._router.rpc("job-shell.command", request, nodeid=self.rank)

    def cut(self) -> None:
        """Listen no more."""
        self._is_over = True

    def _answered(self, message: Message) -> None:
        if not message.errnum:
            answer = message.json()
            self._told(answer["report"], answer["particulars"])
            if answer["report"] == "output":
                self._count(len(answer["particulars"]["text"]))
        elif not self._is_over:
            self._is_over = True
            self._lost(self.rank)

    def _count(self, size: int) -> None:
        """So much output of a shell at another broker is in the KVS. It is told so, now and then."""
        self._stored += size
        if self._stored >= _QUANTUM:
            stored, self._stored = self._stored, 0
            self.command("stored", size=stored)

    def _told(self, report: str, particulars: dict[str, Any]) -> None:
        if not self._is_over:
            self._is_over = report == "exit"
            self._report(self.rank, report, particulars)

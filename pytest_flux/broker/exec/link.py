"""The way between a job, on rank 0, and one of its shells, which may be at another broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_flux.broker.exec.messages import (
    Command,
    Exited,
    OutputLines,
    Report,
    Stored,
    decode_report,
    encode_command,
)
from pytest_flux.protocol.message import Message

if TYPE_CHECKING:
    from pytest_flux.broker.exec.placement import Placement
    from pytest_flux.broker.exec.shells import Shells
    from pytest_flux.broker.exec.work import Work
    from pytest_flux.broker.router import Router
    from pytest_flux.protocol.resource_set import ResourceSet

_QUANTUM = 1 << 17
"""A shell at another broker hears what was stored each time this many characters of its output are."""


class Link:
    """The connection to the shell at the broker of ``rank``.

    ``report`` gets the rank and what the shell reports. ``lost`` is called when there will be no more reports.
    """

    def __init__(
        self,
        router: Router,
        shells: Shells,
        rank: int,
        job_id: int,
        report: Callable[[int, Report], None],
        lost: Callable[[int], None],
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
        """Make the shell. A shell here gets ``resources`` and ``placement``, and need not compute them again."""
        userid, jobspec = work.userid, work.jobspec
        if self._shells is not None:
            self._shells.start(self._job_id, userid, jobspec, resources, self._reported, placement)
            return
        request = {"id": self._job_id, "userid": userid, "jobspec": jobspec, "R": work.resources}
        self._router.rpc("job-shell.start", request, self._answered, nodeid=self.rank, streaming=True)

    def command(self, command: Command) -> None:
        """Send a command to the shell."""
        if self._is_over:
            return
        if self._shells is not None:
            self._shells.command(self._job_id, command)
            return
        self._router.rpc("job-shell.command", encode_command(self._job_id, command), nodeid=self.rank)

    def cut(self) -> None:
        """Ignore whatever still comes."""
        self._is_over = True

    def _answered(self, message: Message) -> None:
        if not message.errnum:
            report = decode_report(message.json())
            self._reported(report)
            if isinstance(report, OutputLines):
                self._count(len(report.text))
        elif not self._is_over:
            self._is_over = True
            self._lost(self.rank)

    def _count(self, size: int) -> None:
        """Output of a shell at another broker was stored: tell the shell now and then."""
        self._stored += size
        if self._stored >= _QUANTUM:
            stored, self._stored = self._stored, 0
            self.command(Stored(stored))

    def _reported(self, report: Report) -> None:
        if not self._is_over:
            self._is_over = isinstance(report, Exited)
            self._report(self.rank, report)

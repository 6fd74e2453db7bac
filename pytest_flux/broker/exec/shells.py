"""All job shells at one broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_flux.broker.exec.directories import Directories
from pytest_flux.broker.exec.failure import ShellFailure
from pytest_flux.broker.exec.shell import Report, Shell
from pytest_flux.broker.exec.stdin import StdinService
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.idset import decode_idset
from pytest_flux.protocol.ioencode import decode_io
from pytest_flux.protocol.message import Message

if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.exec.placement import Placement
    from pytest_flux.broker.router import Router
    from pytest_flux.protocol.resource_set import ResourceSet
    from pytest_flux.reactor.reactor import Reactor


_WINDOW = 1 << 20


class Shells:
    """Shells by the ids of their jobs. Signals of users come to them as events ``shell-<id>.kill``.

    What all of them together have put out, and rank 0 has not put into the KVS yet, fills links and memory: with too
    much of it, none reads on. (A job shell of flux-core stops at a number of its own commits that are not done.)
    """

    def __init__(self, reactor: Reactor, router: Router, attributes: Attributes) -> None:
        self._reactor = reactor
        self._router = router
        self._attributes = attributes
        self._directories = Directories(attributes.get("rundir") or "", router.rank)
        self._shells: dict[int, Shell] = {}
        self._stdins: dict[int, StdinService] = {}
        self._unstored: dict[int, int] = {}
        self._is_paused = False
        router.subscribe("shell-", self._event)

    def start(
        self,
        job_id: int,
        userid: int,
        jobspec: dict[str, Any],
        resources: ResourceSet,
        report: Report,
        placement: Placement | None = None,
    ) -> None:
        """Make a shell; it reports what becomes of it. ``placement`` is what it would find out itself."""

        def told(name: str, particulars: dict[str, Any]) -> None:
            if name == "exit":
                self._forget(job_id)
            report(name, particulars)

        shell = self._shells[job_id] = Shell(
            self._reactor,
            self._attributes,
            self._router.rank,
            self._directories,
            job_id,
            jobspec,
            resources,
            told,
            placement,
        )
        shell.pause(self._is_paused)
        if next(iter(resources), None) == self._router.rank:
            self._stdins[job_id] = StdinService(self._router, job_id, userid, shell)
        shell.prepare()

    def count(self, job_id: int, size: int) -> None:
        """A shell sends so much output, or, if it is negative, so much of it has been stored."""
        if job_id in self._shells:
            self._unstored[job_id] = self._unstored.get(job_id, 0) + size
            self._check_pause()

    def _check_pause(self) -> None:
        paused = sum(self._unstored.values()) > _WINDOW
        if paused != self._is_paused:
            self._is_paused = paused
            for shell in list(self._shells.values()):
                shell.pause(paused)

    def _forget(self, job_id: int) -> None:
        self._shells.pop(job_id, None)
        if self._unstored.pop(job_id, None) is not None:
            self._check_pause()
        stdin = self._stdins.pop(job_id, None)
        if stdin is not None:
            stdin.close()

    def command(self, job_id: int, name: str, particulars: dict[str, Any]) -> None:
        """What a job tells its shell: run, kill, write, exchange, log, stored, die or destroy."""
        shell = self._shells.get(job_id)
        if shell is None:
            return
        if name == "run":
            shell.run()
        elif name == "kill":
            shell.kill(particulars["signum"])
        elif name == "write":
            piece = decode_io(particulars["io"])
            ranks = None if piece.rank == "all" else frozenset(decode_idset(piece.rank))
            shell.write(ranks, piece.data, eof=piece.eof)
        elif name == "exchange":
            shell.exchanged(particulars["values"])
        elif name == "log":
            shell.output.log(particulars["level"], particulars["message"], particulars["component"])
        elif name == "stored":
            self.count(job_id, -particulars["size"])
        elif name == "die":
            shell.die(ShellFailure(**particulars))
        elif name == "destroy":
            shell.destroy()

    def _event(self, message: Message) -> None:
        number, _, what = (message.topic or "").removeprefix("shell-").partition(".")
        shell = self._shells.get(int(number)) if number.isdigit() else None
        if shell is None or what != "kill":
            return
        try:
            signum = message.json().get("signum")
        except ProtocolError:
            return
        if isinstance(signum, int) and 0 < signum < 65:
            shell.kill(signum)

    def destroy(self) -> None:
        """The broker ends: so does everything that its shells have running."""
        for shell in list(self._shells.values()):
            shell.destroy()
        self._directories.destroy()

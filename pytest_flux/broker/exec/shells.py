"""All job shells at one broker, and the services of those that lead a job."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.exec.directories import Directories
from pytest_flux.broker.exec.messages import (
    Command,
    Destroy,
    Die,
    Exchange,
    Exited,
    Finish,
    Kill,
    Log,
    Report,
    Run,
    StdinData,
    Stored,
    Write,
)
from pytest_flux.broker.exec.options import ShellFailure, reads_file
from pytest_flux.broker.exec.shell import Shell
from pytest_flux.broker.exec.shell_process import ShellProcesses
from pytest_flux.broker.exec.terminal import SESSION
from pytest_flux.broker.service import Request
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.fluid import f58plain
from pytest_flux.protocol.idset import decode_idset
from pytest_flux.protocol.ioencode import decode_io
from pytest_flux.protocol.message import ROLE_OWNER, Message

if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.exec.placement import Placement
    from pytest_flux.broker.router import Router
    from pytest_flux.protocol.resource_set import ResourceSet
    from pytest_flux.reactor.reactor import Reactor

_WINDOW = 1 << 20
"""Above this many characters of output that rank 0 has not stored yet, no shell reads on."""


def service_name(userid: int, job_id: int) -> str:
    """The name of a leading shell's service, as in the event ``shell.init``."""
    return f"{userid}-shell-{f58plain(job_id)}"


class Shells:
    """Shells by the ids of their jobs. Signals of users reach them as events ``shell-<id>.kill``.

    Output that rank 0 has not stored yet fills links and memory. If all shells together have sent too much of it,
    none of them reads on. (A job shell of flux-core stops at a number of its own commits that are not done.)
    """

    def __init__(self, reactor: Reactor, router: Router, attributes: Attributes) -> None:
        self._reactor = reactor
        self._router = router
        self._attributes = attributes
        self._directories = Directories(attributes.get("rundir") or "", router.rank)
        self._processes = ShellProcesses(reactor)
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
        report: Callable[[Report], None],
        placement: Placement | None = None,
    ) -> None:
        """Make a shell, which calls ``report``. If there is no ``placement``, it computes that itself."""

        def reported(told: Report) -> None:
            if isinstance(told, Exited):
                self._forget(job_id)
            report(told)

        shell = self._shells[job_id] = Shell(
            self._reactor,
            self._attributes,
            self._router.rank,
            self._directories,
            self._processes,
            job_id,
            jobspec,
            resources,
            reported,
            placement,
        )
        shell.pause(self._is_paused)
        if next(iter(resources), None) == self._router.rank:
            self._stdins[job_id] = StdinService(self._router, job_id, userid, shell)
        shell.prepare()

    def count(self, job_id: int, size: int) -> None:
        """A shell has sent ``size`` characters of output, or, if negative, so many were stored."""
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

    def command(self, job_id: int, command: Command) -> None:
        """Carry out what a job commands its shell."""
        shell = self._shells.get(job_id)
        if shell is None:
            return
        if isinstance(command, Run):
            shell.run()
        elif isinstance(command, Kill):
            shell.kill(command.signum)
        elif isinstance(command, Write):
            piece = decode_io(command.io)
            ranks = None if piece.rank == "all" else frozenset(decode_idset(piece.rank))
            shell.write(ranks, piece.data, eof=piece.eof)
        elif isinstance(command, Exchange):
            shell.exchanged(command.values)
        elif isinstance(command, Log):
            shell.output.log(*command)
        elif isinstance(command, Stored):
            self.count(job_id, -command.size)
        elif isinstance(command, Die):
            failure = ShellFailure(
                command.text, command.code, component=command.component, wait_status=command.wait_status
            )
            shell.die(failure)
        elif isinstance(command, Finish):
            shell.finish()
        elif isinstance(command, Destroy):
            shell.destroy(command.signum)

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
        """The broker ends: end all shells, and everything that they run."""
        for shell in list(self._shells.values()):
            shell.destroy()
        self._processes.destroy()
        self._directories.destroy()


class StdinService:
    """``<uid>-shell-<job id>``: the service of the shell that leads a job.

    It takes ``stdin`` requests, RFC 24 data for one task, several, or all; and requests to the job's terminal.
    """

    def __init__(self, router: Router, job_id: int, userid: int, shell: Shell) -> None:
        self._router = router
        self._name = service_name(userid, job_id)
        self._userid = userid
        self._shell = shell
        self._closed: set[int] = set()
        router.services[self._name] = self._receive

    def close(self) -> None:
        """The shell has ended."""
        self._router.services.pop(self._name, None)

    def _receive(self, message: Message) -> None:
        method = (message.topic or "").partition(".")[2]
        try:
            if method == "disconnect":
                self._disconnect(message)
            elif method == SESSION:
                self._reach_terminal(message)
                return
            else:
                self._take(message)
        except FluxError as error:
            self._router.refuse(message, error.errnum, error.text)
        except ProtocolError as error:
            self._router.refuse(message, errno.EPROTO, str(error))
        else:
            self._router.refuse(message, 0)

    def _unknown(self, message: Message) -> FluxError:
        return FluxError(errno.ENOSYS, f"No service matching {message.topic} is registered")

    def _check_user(self, message: Message) -> None:
        if not message.rolemask & ROLE_OWNER and message.userid != self._userid:
            raise FluxError(errno.EPERM)

    def _reach_terminal(self, message: Message) -> None:
        self._check_user(message)
        terminal = self._shell.terminal(0)
        if terminal is None:
            raise self._unknown(message)
        terminal.receive(Request(message, self._router.respond))

    def _disconnect(self, message: Message) -> None:
        terminal = self._shell.terminal(0)
        if terminal is not None and message.routes:
            terminal.detach(message.routes[0])

    def _take(self, message: Message) -> None:
        if (message.topic or "").partition(".")[2] != "stdin" or reads_file(self._shell.options):
            raise self._unknown(message)
        self._check_user(message)
        request = message.json()
        piece = decode_io(request)
        size = self._shell.placement.ntasks
        everybody = piece.rank == "all"
        ranks = set(range(size)) if everybody else set(decode_idset(piece.rank))
        if not ranks - self._closed if everybody else ranks & self._closed or not ranks <= set(range(size)):
            raise FluxError(errno.EPIPE)
        if piece.eof:
            self._closed |= ranks
        self._shell.report(StdinData(request, len(piece.data)))

"""`<uid>-shell-<job id>`: the service of a job's leading shell, for standard input and for its terminal."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pytest_flux.broker.exec.options import reads_file
from pytest_flux.broker.exec.terminal import SESSION
from pytest_flux.broker.service import Request
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.fluid import f58plain
from pytest_flux.protocol.idset import decode_idset
from pytest_flux.protocol.ioencode import decode_io
from pytest_flux.protocol.message import ROLE_OWNER, Message

if TYPE_CHECKING:
    from pytest_flux.broker.exec.shell import Shell
    from pytest_flux.broker.router import Router


def service_name(userid: int, job_id: int) -> str:
    """The name of the service, which ``shell.init`` tells."""
    return f"{userid}-shell-{f58plain(job_id)}"


class StdinService:
    """Takes ``stdin`` requests with RFC 24 data for one task, several, or all; and those to a terminal."""

    def __init__(self, router: Router, job_id: int, userid: int, shell: Shell) -> None:
        self._router = router
        self._name = service_name(userid, job_id)
        self._userid = userid
        self._shell = shell
        self._closed: set[int] = set()
        router.services[self._name] = self._receive

    def close(self) -> None:
        """The shell is gone."""
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
        self._shell.report("stdin", {"io": request, "size": len(piece.data)})

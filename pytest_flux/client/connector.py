"""The way to a broker: a local socket, or, on another host, a `flux relay` that ssh starts there."""

from __future__ import annotations

import errno
import os
import select
import time

# Only the C part: the rest of `socket` costs a tenth of the run time of `flux getattr`.
from _socket import AF_UNIX, SOCK_STREAM, socket, socketpair

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SYSTEM_URI = "local:///run/flux/local"
"""The URI of the system instance, as in flux-core's packages."""

RETRIES_VARIABLE = "FLUX_LOCAL_CONNECTOR_RETRY_COUNT"
"""The environment variable with the number of retries if nobody listens."""

SSH_VARIABLE = "FLUX_SSH"
"""The environment variable with the program to use instead of ssh."""

COMMAND_VARIABLE = "FLUX_SSH_RCMD"
"""The environment variable with the `flux` to run on the other host."""

_RETRIES = 5
_FIRST_DELAY = 0.016
_LONGEST_DELAY = 2.0
_LOCAL, _SSH = "local://", "ssh://"
_MAX_PATH = 107
_CHUNK = 1 << 16

# The shell ends at once, so that nobody has to wait for ssh. Its background program ignores ^C; without descriptor 3
# it would get an empty stdin.
_LAUNCHER = 'exec 3<&0; "$@" <&3 3<&- &'


def default_uri() -> str:
    """``FLUX_URI``, or, outside of an instance, that of the system instance."""
    return os.environ.get("FLUX_URI") or SYSTEM_URI


def local_path(uri: str) -> str:
    """The path of the socket that ``uri`` names. Raises ValueError for any URI but ``local://PATH``."""
    path = uri[len(_LOCAL) :] if uri.startswith(_LOCAL) else ""
    if not path:
        raise ValueError(f"cannot connect to {uri!r}: only local://PATH and ssh://HOST/PATH are understood")
    if len(os.fsencode(path)) > _MAX_PATH:
        raise ValueError(f"cannot connect to {uri!r}: the path is longer than {_MAX_PATH} bytes")
    return path


def connect(uri: str) -> socket:
    """A socket connected to the broker, which has not yet said whether it accepts us.

    Tries again for about half a second, with growing delays, as flux-core does: a broker that is just starting binds
    its socket a moment before it listens. Raises OSError, which carries the URI, and ValueError for a malformed
    URI or retry count.
    """
    if uri.startswith(_SSH):
        if not _is_here(uri):
            return _connect_by_ssh(uri)
        uri = f"{_LOCAL}/" + uri[len(_SSH) :].partition("/")[2]
    path = local_path(uri)
    retries = _retry_count()
    delay = _FIRST_DELAY
    while True:
        sock = socket(AF_UNIX, SOCK_STREAM)
        try:
            sock.connect(path)
        except OSError as error:
            sock.close()
            if retries <= 0:
                raise OSError(error.errno or errno.EIO, error.strerror, uri) from None
        else:
            return sock
        retries -= 1
        time.sleep(delay)
        delay = min(delay * 2, _LONGEST_DELAY)


def _retry_count() -> int:
    text = os.environ.get(RETRIES_VARIABLE)
    if text is None:
        return _RETRIES
    try:
        count = int(text)
    except ValueError:
        count = -1
    if count < 0:
        raise ValueError(f"{RETRIES_VARIABLE}={text}: not a number of retries")
    return count


def _ssh_command(uri: str) -> list[str]:
    """The command line for ``ssh://[USER@]HOST[:PORT]/PATH``. Raises ValueError for any other URI."""
    place, slash, path = uri[len(_SSH) :].partition("/")
    host, colon, port = place.rpartition(":")
    if not colon:
        host, port = place, ""
    if not slash or not path or not host or host.startswith("-") or (colon and not port.isdigit()):
        raise ValueError(f"cannot connect to {uri!r}: it is not ssh://[USER@]HOST[:PORT]/PATH")
    ports = ["-p", port] if port else []
    program = os.environ.get(SSH_VARIABLE) or "ssh"
    remote = (os.environ.get(COMMAND_VARIABLE) or "flux").split()
    return [program, *ports, host, *remote, "relay", f"/{path}"]


def _is_here(uri: str) -> bool:
    """Whether the broker is on this host, so that ssh is not needed. Never true if the user chose another ssh."""
    host, _, path = uri[len(_SSH) :].partition("/")
    return SSH_VARIABLE not in os.environ and host == os.uname().nodename and os.path.exists(f"/{path}")


def _connect_by_ssh(uri: str) -> socket:
    """A socket whose other end is the relay. If ssh fails, the socket ends without a greeting."""
    command = _ssh_command(uri)
    ours, theirs = socketpair(AF_UNIX, SOCK_STREAM)
    descriptor = theirs.fileno()
    actions = [(os.POSIX_SPAWN_DUP2, descriptor, 0), (os.POSIX_SPAWN_DUP2, descriptor, 1)]
    words = ["/bin/sh", "-c", _LAUNCHER, "sh", *command]
    pid = os.posix_spawn("/bin/sh", words, os.environ, file_actions=actions)
    theirs.close()
    os.waitpid(pid, 0)
    return ours


def relay(pairs: Sequence[tuple[int, int]]) -> None:
    """Copy from the first descriptor of each pair to the second, until a source ends.

    This is how brokers are reached through ssh, and through `flux proxy`.
    """
    poll = select.poll()
    targets = dict(pairs)
    for source in targets:
        poll.register(source, select.POLLIN)
    while True:
        for source, _ in poll.poll():
            try:
                data = os.read(source, _CHUNK)
                _write_all(targets[source], data)
            except OSError:
                return
            if not data:
                return


def _write_all(fd: int, data: bytes) -> None:
    """Write all of ``data``. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]

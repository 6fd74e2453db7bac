"""Brokers of other hosts, through ssh: ``ssh://[USER@]HOST[:PORT]/PATH`` runs `flux relay PATH` there."""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_STREAM, socket, socketpair

SSH_VARIABLE = "FLUX_SSH"
"""Names the environment variable with the program to use instead of ssh."""

COMMAND_VARIABLE = "FLUX_SSH_RCMD"
"""Names the environment variable with the `flux` to run on the other host."""

_SCHEME = "ssh://"

# The shell ends at once, so that nobody has to wait for ssh. What it starts in the background ignores ^C, and would
# get an empty stdin.
_LAUNCHER = 'exec 3<&0; "$@" <&3 3<&- &'


def ssh_command(uri: str) -> list[str]:
    """The command line for a URI. Raises ValueError for one that is none."""
    place, slash, path = uri[len(_SCHEME) :].partition("/")
    host, colon, port = place.rpartition(":")
    if not colon:
        host, port = place, ""
    if not slash or not path or not host or host.startswith("-") or (colon and not port.isdigit()):
        raise ValueError(f"cannot connect to {uri!r}: it is not ssh://[USER@]HOST[:PORT]/PATH")
    ports = ["-p", port] if port else []
    program = os.environ.get(SSH_VARIABLE) or "ssh"
    remote = (os.environ.get(COMMAND_VARIABLE) or "flux").split()
    return [program, *ports, host, *remote, "relay", f"/{path}"]


def is_here(uri: str) -> bool:
    """Whether the broker is on this host, so that ssh is not needed; never if the user chose what to use for ssh."""
    host, _, path = uri[len(_SCHEME) :].partition("/")
    return SSH_VARIABLE not in os.environ and host == os.uname().nodename and os.path.exists(f"/{path}")


def connect_by_ssh(uri: str) -> socket:
    """A socket whose other end is the relay. What goes wrong shows when nothing, or no greeting, comes from it."""
    command = ssh_command(uri)
    ours, theirs = socketpair(AF_UNIX, SOCK_STREAM)
    descriptor = theirs.fileno()
    actions = [(os.POSIX_SPAWN_DUP2, descriptor, 0), (os.POSIX_SPAWN_DUP2, descriptor, 1)]
    words = ["/bin/sh", "-c", _LAUNCHER, "sh", *command]
    pid = os.posix_spawn("/bin/sh", words, os.environ, file_actions=actions)
    theirs.close()
    os.waitpid(pid, 0)
    return ours

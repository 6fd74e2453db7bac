"""Asking an installed `flux` command for the environment that it gives to the brokers it starts."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: Seconds after which a `flux` command is taken for something else.
PATIENCE = 10.0
_MAX_ANSWER = 2**24


def ask_environment(command: str, name: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program run by ``command`` (called by ``name``); empty if it does not tell.

    Other programs are called `flux`, too: what fails, hangs or talks without end has nothing to tell. An
    installed Flux answers within milliseconds.
    """
    # A subcommand with a slash is executed as it is, in exactly the environment that `flux start` would have
    # (`flux env` would add PYTHONPATH). posix_spawn, because importing subprocess takes longer than all of
    # this.
    reader, writer = os.pipe()
    try:
        pid = os.posix_spawn(
            command,
            [name, "/usr/bin/env", "-0"],
            environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, writer, 1),
                (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
            ],
        )
    except OSError:
        os.close(reader)
        return {}
    finally:
        os.close(writer)
    try:
        answer = _read_all(reader)
    finally:
        os.close(reader)
        # It has exited, or is a stranger that hangs. What it was worth shows in the answer, not in its
        # status.
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    if not answer.endswith(b"\0"):
        return {}
    entries = (os.fsdecode(entry).partition("=") for entry in answer[:-1].split(b"\0"))
    return {name: value for name, equals, value in entries if equals}


def _read_all(reader: int) -> bytes:
    """Everything up to end of file; nothing if that takes too long or is too much."""
    import select
    import time

    poll = select.poll()
    poll.register(reader, select.POLLIN)
    deadline = time.monotonic() + PATIENCE
    answer = bytearray()
    while len(answer) <= _MAX_ANSWER and poll.poll(max(0, deadline - time.monotonic()) * 1000):
        piece = os.read(reader, 65536)
        if not piece:
            return bytes(answer)
        answer += piece
    return b""

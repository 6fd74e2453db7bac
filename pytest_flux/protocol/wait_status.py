"""Wait statuses, as ``waitpid(2)`` returns them and as ``finish`` events carry them (RFC 21, "Finish Event")."""

from __future__ import annotations

import os

from pytest_flux.protocol.errors import ProtocolError


def exit_code(status: int) -> int:
    """The exit code that a shell reports: that of the process, or 128 plus the number of the signal that killed it.

    Raises ProtocolError if the status is not that of an ended process.
    """
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    raise ProtocolError("unexpected wait(2) status", str(status))


def describe_failure(status: int) -> str:
    """Why a job failed, in the words of flux-core (src/common/libjob/job.c); empty if it succeeded."""
    code = exit_code(status)
    if os.WIFSIGNALED(status):
        return f"job shell {signal_text(code - 128)}"
    # Shells report a task's signal as 128 plus its number.
    if code > 128:
        return f"task(s) {signal_text(code - 128)}"
    return f"task(s) exited with exit code {code}" if code else ""


def signal_text(signum: int) -> str:
    """What ``strsignal(3)`` says: ``Killed`` for 9; ``Unknown signal 250`` for a number without a signal."""
    # Imported here: the module signal loads enum, and few readers of wait statuses need a text.
    import signal

    try:
        text = signal.strsignal(signum)
    except ValueError:
        text = None
    return text or f"Unknown signal {signum}"

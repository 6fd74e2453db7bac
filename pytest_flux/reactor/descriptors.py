"""The descriptors of a process: those it must have, and those that programs it starts must not have."""

from __future__ import annotations

import os
import sys

#: Standard input, output and error are below.
FIRST_OTHER = 3


def open_descriptors() -> list[int]:
    """All open descriptors. Raises OSError without /dev/fd."""
    # This works on Linux and on macOS. The descriptor of the listing is closed again when it returns.
    found = [int(name) for name in os.listdir("/dev/fd")]
    return [descriptor for descriptor in found if _is_open(descriptor)]


def keep_to_ourselves() -> None:
    """Let programs inherit standard input, output and error, and nothing else that is open now."""
    for descriptor in open_descriptors():
        if descriptor >= FIRST_OTHER:
            os.set_inheritable(descriptor, False)


def open_standard_descriptors() -> None:
    """Open those that are closed, on /dev/null. Otherwise the next file to be opened gets the number, and the output.

    Python has no ``sys.stdout`` and the like if it has found them closed; it gets them now.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if not _is_open(descriptor):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            if getattr(sys, name) is None:
                setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True

"""Messages of the launcher on stderr."""

from __future__ import annotations

import os


def report(text: str) -> None:
    """Write ``flux-start: text``."""
    write_error(f"flux-start: {text}\n")


def write_error(lines: str) -> None:
    """Write complete lines to stderr in one piece, because brokers write there as well.

    Bytes from arguments are written unchanged. It is no error if nobody reads.
    """
    data = os.fsencode(lines)
    while data:
        try:
            data = data[os.write(2, data) :]
        except OSError:
            return

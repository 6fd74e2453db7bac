"""What the launcher says on stderr."""

from __future__ import annotations

import os


def report(text: str) -> None:
    """Say ``flux-start: text``."""
    write_error(f"flux-start: {text}\n")


def write_error(lines: str) -> None:
    """Write complete lines to stderr, in one piece: brokers write there as well.

    Bytes that came in as arguments go out as they came. Nobody listening is not an error.
    """
    data = os.fsencode(lines)
    while data:
        try:
            data = data[os.write(2, data) :]
        except OSError:
            return

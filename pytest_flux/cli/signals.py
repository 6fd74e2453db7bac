"""Signals as users name them."""

from __future__ import annotations


def parse_signal(text: str) -> int:
    """The number of a signal: ``15``, ``TERM``, ``SIGTERM``. Raises ValueError."""
    if text.isdigit():
        if not int(text):
            raise ValueError("signal must be > 0")
        return int(text)
    import signal

    for name in (text, f"SIG{text}"):
        found = getattr(signal, name, None)
        if isinstance(found, signal.Signals):
            return int(found)
    raise ValueError(f"signal '{text}' is invalid")

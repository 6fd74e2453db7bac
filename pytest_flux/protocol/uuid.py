"""UUIDs: brokers and connections are known by them in the routes of messages (RFC 3)."""

from __future__ import annotations

import os


def random_uuid() -> str:
    """A random UUID (RFC 9562 section 5.4, version 4).

    The standard library's uuid module is not used: importing it takes longer than accepting a connection, and each
    broker would keep what it imports.
    """
    digits = f"{int.from_bytes(os.urandom(16), 'big') & ~(0xF << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

"""The errors that decoders and services raise."""

from __future__ import annotations

import os


class ProtocolError(ValueError):
    """Input that breaks the rules of its format.

    ``what`` names the rule, ``where`` the input or the place in it. Both are part of the text.
    """

    def __init__(self, what: str, where: str = "") -> None:
        super().__init__(f"{what}: {where}" if where else what)
        self.what = what
        self.where = where


class FluxError(OSError):
    """An error response (RFC 6, "Response Messages"): a Linux errno, and its text, if it has one.

    Services raise it to answer a request with an error; clients raise it when such an answer arrives.
    """

    def __init__(self, errnum: int, text: str | None = None) -> None:
        super().__init__(errnum, text or os.strerror(errnum))
        self.errnum = errnum
        self.text = text

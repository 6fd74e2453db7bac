"""The one family of errors that every decoder of this package raises."""

from __future__ import annotations

import os


class ProtocolError(ValueError):
    """Input that breaks the rules of its format.

    ``what`` says which rule, ``where`` which input or which place in it; both are part of the text.
    """

    def __init__(self, what: str, where: str = "") -> None:
        super().__init__(f"{what}: {where}" if where else what)
        self.what = what
        self.where = where


class FluxError(OSError):
    """What an error response says (RFC 6): a Linux errno, and the text that came with it, if any.

    Services raise it to answer a request with an error; clients raise it when such an answer arrives.
    """

    def __init__(self, errnum: int, text: str | None = None) -> None:
        super().__init__(errnum, text or os.strerror(errnum))
        self.errnum = errnum
        self.text = text

"""The one family of errors that every decoder of this package raises."""

from __future__ import annotations


class ProtocolError(ValueError):
    """Input that breaks the rules of its format.

    ``what`` says which rule, ``where`` which input or which place in it; both are part of the text.
    """

    def __init__(self, what: str, where: str = "") -> None:
        super().__init__(f"{what}: {where}" if where else what)
        self.what = what
        self.where = where

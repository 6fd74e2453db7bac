"""A `NamedTuple` that does without the `typing` module.

Importing `typing` takes as long as starting Python, and most of the time of `flux-start` is the start of Python. Type
checkers see the real `typing.NamedTuple`; at run time the class below builds the same class from
`collections.namedtuple`.
"""

from __future__ import annotations

__all__ = ["NamedTuple"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from collections import namedtuple

    class _Meta(type):
        def __new__(meta, name: str, bases: tuple[type, ...], namespace: dict[str, object]) -> type:
            if not bases:
                return super().__new__(meta, name, bases, namespace)
            fields = namespace.pop("__annotations__")
            defaults = [namespace.pop(field) for field in fields if field in namespace]
            values = namedtuple(name, fields, defaults=defaults, module=namespace["__module__"])
            return type(name, (values,), {"__slots__": (), **namespace})

    class NamedTuple(metaclass=_Meta):
        """Base of value classes: annotated names are the fields, in order; assigned values are their defaults."""

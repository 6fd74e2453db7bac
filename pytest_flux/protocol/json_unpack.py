"""Checks the members of a JSON object as jansson's json_unpack_ex() does, in its words, which reach Flux's users."""

from __future__ import annotations

from pytest_flux.protocol.errors import ProtocolError

_EXPECTED: dict[type, str] = {
    dict: "object",
    str: "string",
    int: "integer",
    bool: "true or false",
    float: "real or integer",
}


def kind_of(value: object) -> str:
    """The name that jansson has for the type of a value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    names: dict[type, str] = {dict: "object", list: "array", str: "string", int: "integer", float: "real"}
    return names[type(value)]


def unpack(table: object, kinds: dict[str, type], *, required: tuple[str, ...] = (), strict: bool = True) -> None:
    """Check the members of a table, in the order of ``kinds``; ``object`` stands for any type.

    With ``strict``, other members are refused. Raises ProtocolError in jansson's words.
    """
    if not isinstance(table, dict):
        raise ProtocolError(f"Expected object, got {kind_of(table)}")
    for name, kind in kinds.items():
        if name not in table:
            if name in required:
                raise ProtocolError(f"Object item not found: {name}")
            continue
        value = table[name]
        fits = kind is object or isinstance(value, (int, float) if kind is float else kind)
        if not fits or (isinstance(value, bool) and kind in (int, float)):
            raise ProtocolError(f"Expected {_EXPECTED[kind]}, got {kind_of(value)}")
    unknown = [name for name in table if name not in kinds]
    if strict and unknown:
        raise ProtocolError(f"{len(unknown)} object item(s) left unpacked: {', '.join(unknown)}")

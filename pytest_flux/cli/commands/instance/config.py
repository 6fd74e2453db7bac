"""`flux config`: the configuration that the broker runs with, and values that are built in."""

from __future__ import annotations

import errno
import os
import sys

from pytest_flux.cli.command import Command, CommandError, Context, explaining
from pytest_flux.options import Option
from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.json_value import compact

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_flux.options import Options

GET_OPTIONS = (
    Option(
        "config-path",
        "c",
        "PATH|system|security|imp",
        usage="Read this file or directory (or that in /etc/flux) instead of asking the broker",
    ),
    Option(
        "type",
        "t",
        "TYPE",
        usage="What the value must be: string, integer, real, boolean, object, array, "
        "fsd, fsd-integer, fsd-real (the last two: in seconds), or any",
    ),
    Option("quiet", "q", usage="Do not complain about a value that is not set"),
    Option("default", "d", "VAL", usage="Print this if the value is not set"),
)

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "real": (float,),
    "boolean": (bool,),
    "any": (),
    "fsd": (str,),
    "fsd-integer": (str,),
    "fsd-real": (str,),
}


def get(options: Options, context: Context) -> int:
    """Print one value, or everything."""
    if len(options.arguments) > 1:
        raise context.command.usage_error()
    kind = (options.get("type", "any") or "").lower()
    path = options.get("config-path")
    config = _fetch(context) if path is None else _load(path)
    if kind not in _TYPES:
        raise CommandError(f"Unknown type: {options.get('type')}")
    if not options.arguments:
        print(format_value(config, kind, "value"))
        return 0
    name = options.arguments[0]
    try:
        value = find_value(config, name)
    except LookupError:
        default = options.get("default")
        if default is not None:
            print(default)
            return 0
        if options.has("quiet"):
            return 1
        raise CommandError(f"{name} is not set") from None
    print(format_value(value, kind, name))
    return 0


def _fetch(context: Context) -> dict[str, Any]:
    with context.open() as flux, explaining("Error fetching config object"):
        return flux.rpc("config.get").get()


def find_value(config: dict[str, Any], name: str) -> object:
    """Return the value under a dotted name. Raises LookupError, and CommandError if a part of the name is empty."""
    value: object = config
    for key in name.split("."):
        if not key:
            raise CommandError(f"{name}: {os.strerror(errno.EINVAL)}")
        tables = value if isinstance(value, dict) else {}
        value = tables[key]
    return value


def format_value(value: object, kind: str, name: str) -> str:
    """Format a string as it is, a duration as ``kind`` says, others as JSON. Raises CommandError for a wrong type."""
    if not _has_type(value, kind):
        raise CommandError(f"{name} does not have the requested type")
    if not isinstance(value, str):
        return compact(value)
    if kind == "fsd-integer":
        return str(int(parse_duration(value)))
    return f"{parse_duration(value):f}" if kind == "fsd-real" else value


def _has_type(value: object, kind: str) -> bool:
    if kind == "any":
        return True
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return False
    if kind.startswith("fsd") and isinstance(value, str):
        try:
            parse_duration(value)
        except ValueError:
            return False
    return True


def _load(path: str) -> dict[str, Any]:
    from pytest_flux.broker.config import ConfigError, load_config

    try:
        return load_config(f"/etc/flux/{path}/conf.d" if path in ("system", "security", "imp") else path)
    except ConfigError as error:
        # The broker's messages begin with this, those of this command in Flux do not.
        raise CommandError(str(error).removeprefix("Config file error: ")) from None


SET_OPTIONS = (
    Option(
        "type",
        "t",
        "TYPE",
        usage="What the value is: string, integer, real, boolean, object, array or fsd (default: as before)",
    ),
)


def _parse_object(text: str, kind: type) -> object:
    import json

    value = json.loads(text)
    if not isinstance(value, kind):
        raise ValueError  # noqa: TRY004, an error of the user
    return value


def _parse_string(text: str) -> object:
    return _parse_object(text, str) if text.startswith('"') else text


def _parse_fsd(text: str) -> object:
    parse_duration(text)
    return _parse_string(text)


_PARSERS: dict[str, tuple[Callable[[str], object], str]] = {
    "boolean": (lambda text: text[:1] not in ("0", "f", "F", ""), ""),
    "real": (float, "real value"),
    "integer": (lambda text: int(text, 0), "integer value"),
    "object": (lambda text: _parse_object(text, dict), "json object"),
    "array": (lambda text: _parse_object(text, list), "json array"),
    "string": (_parse_string, "string"),
    "fsd": (_parse_fsd, "Flux Standard Duration"),
}
"""Parsers of values, and what errors call the value."""


def parse_value(text: str, kind: str) -> object:
    """Parse a value of a type. Raises CommandError."""
    if kind not in _PARSERS:
        raise CommandError("Error updating config object")
    parse, what = _PARSERS[kind]
    try:
        return parse(text)
    except ValueError:
        raise CommandError(f"Error parsing {what}") from None


def _type_of(value: object) -> str:
    """Return the name of a value's type."""
    kinds = (("boolean", bool), ("integer", int), ("real", float), ("string", str), ("array", list), ("object", dict))
    return next((name for name, kind in kinds if isinstance(value, kind)), "any")


def _split(name: str) -> list[str]:
    keys = name.split(".")
    return keys if all(keys) else []


def set_value(options: Options, context: Context) -> int:
    """Change one value of the broker's configuration."""
    if len(options.arguments) != 2:
        raise context.command.usage_error()
    name, text = options.arguments
    kind = (options.get("type") or "").lower()
    if options.has("type"):
        if kind not in _TYPES:
            raise CommandError(f"Unknown type: {options.get('type')}")
        if kind in ("fsd-integer", "fsd-real"):
            raise CommandError(f"Invalid type for the set subcommand: {kind}")
    config = _fetch(context)
    if not kind:
        try:
            kind = _type_of(find_value(config, name))
        except (LookupError, CommandError):
            raise CommandError("Type is unknown, please specify --type") from None
    value = parse_value(text, kind)
    *tables, last = _split(name) or [""]
    table: object = config
    for key in tables:
        table = table.setdefault(key, {}) if isinstance(table, dict) else None
    if not last or not isinstance(table, dict):
        raise CommandError("Error updating config object")
    table[last] = value
    return _update(config, context)


def unset_value(options: Options, context: Context) -> int:
    """Remove one value from the broker's configuration."""
    if len(options.arguments) != 1:
        raise context.command.usage_error()
    name = options.arguments[0]
    config = _fetch(context)
    *tables, last = _split(name) or [""]
    if not last:
        raise CommandError(f"Error deleting {name} from config object: {os.strerror(errno.EINVAL)}")
    table: object = config
    for key in tables:
        table = table.get(key) if isinstance(table, dict) else None
    if isinstance(table, dict):
        table.pop(last, None)
    return _update(config, context)


def _update(config: dict[str, Any], context: Context) -> int:
    with context.open() as flux, explaining("Error updating config object"):
        flux.rpc("config.load", config).get()
    return 0


def load(options: Options, context: Context) -> int:
    """Replace the broker's configuration by that in a file, in a directory or on stdin."""
    if len(options.arguments) > 1:
        raise context.command.usage_error()
    if options.arguments:
        try:
            config = _load(options.arguments[0])
        except CommandError as error:
            raise CommandError(f"Error parsing config: {error}") from None
    else:
        config = _read_stdin()
    with context.open() as flux, explaining("load"):
        flux.rpc("config.load", config).get()
    return 0


def _read_stdin() -> dict[str, Any]:
    """Return what stdin says in JSON or in TOML. Raises CommandError."""
    import json

    from pytest_flux.cli.named_formats import load_toml

    text = sys.stdin.read()
    try:
        value = json.loads(text)
    except ValueError:
        try:
            return load_toml(text)
        except ValueError as error:
            raise CommandError(f"TOML parse error: {error}") from None
    return value if isinstance(value, dict) else {}


_BUILTIN_LACKING = frozenset(
    (
        "shell_path shell_pluginpath shell_initrc jobtap_pluginpath upmi_pluginpath pmi_library_path no_docs_path "
        "lua_cpath_add lua_path_add python_wrapper"
    ).split()
)
"""What flux-core has there, and an embedded instance does not need."""


def builtin(options: Options, context: Context) -> int:
    """Print a value that is built in."""
    if len(options.arguments) != 1:
        raise context.command.usage_error()
    from pytest_flux.broker.defaults import BUILTIN

    name = options.arguments[0]
    if name in _BUILTIN_LACKING:
        raise CommandError(f"{name} is a part of flux-core that embedded instances do not have")
    if name not in BUILTIN:
        raise CommandError(f"{name} is invalid")
    print(BUILTIN[name])
    return 0


def reload(options: Options, context: Context) -> int:
    """Make the broker read its configuration files again."""
    if options.arguments:
        raise context.command.usage_error()
    with context.open() as flux:
        if options.has("follower-noop") and flux.rank > 0:
            return 0
        with explaining("reload"):
            flux.rpc("config.reload").get()
    return 0


COMMANDS = (
    Command(
        "flux config",
        summary="Look at the broker's configuration, and change it",
        subcommands=(
            Command("flux config load", load, usage="[PATH]", summary="Replace it by that in PATH, or on stdin"),
            Command(
                "flux config reload",
                reload,
                summary="Have the broker read its configuration files again",
                options=(Option("follower-noop", usage="Do nothing unless on rank 0"),),
            ),
            Command(
                "flux config get",
                get,
                usage="[OPTIONS] [NAME]",
                summary="Print the configuration, or one value of it",
                options=GET_OPTIONS,
            ),
            Command(
                "flux config set",
                set_value,
                usage="[OPTIONS] NAME VALUE",
                summary="Change one value",
                options=SET_OPTIONS,
            ),
            Command("flux config unset", unset_value, usage="NAME", summary="Remove one value"),
            Command(
                "flux config builtin",
                builtin,
                usage="NAME",
                summary="Print a path that is built in",
                options=(
                    Option("intree", usage="For compatibility with flux-core"),
                    Option("installed", usage="For compatibility with flux-core"),
                ),
            ),
        ),
    ),
)

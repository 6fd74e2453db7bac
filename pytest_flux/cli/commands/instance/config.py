"""`flux config`: the configuration that the broker runs with."""

from __future__ import annotations

import errno
import os

from pytest_flux.cli.command import Command, CommandError, Context, explaining
from pytest_flux.options import Option
from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.json_value import compact

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.options import Options

GET_OPTIONS = (
    Option("config-path", "c", "PATH", usage="Read this file or directory instead of asking the broker"),
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
        return load_config(path)
    except ConfigError as error:
        # The broker's messages begin with this, those of this command in Flux do not.
        raise CommandError(str(error).removeprefix("Config file error: ")) from None


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
        summary="Look at the broker's configuration",
        subcommands=(
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
        ),
    ),
)

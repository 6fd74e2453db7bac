"""`flux module`: the modules of a broker."""

from __future__ import annotations

import errno
import json
import os

from pytest_flux.cli.command import Command, CommandError, Context, naming, reason
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.client import Flux
    from pytest_flux.options import Options

LIST_OPTIONS = (Option("long", "l", usage="Print the path of each module too"),)
STATS_OPTIONS = (
    Option("parse", "p", "OBJNAME", usage="Print this part only; names are joined by periods"),
    Option("scale", "s", "N", usage="Multiply the number by N"),
    Option("type", "t", "int|double", usage="Print the number as one of these"),
    Option(
        "rusage",
        "R",
        "[self|children|thread]",
        optional=True,
        attached=True,
        usage="Print resource usage instead (default: self)",
    ),
    Option("clear", "c", usage="Set the statistics of this broker's module to zero"),
    Option("clear-all", "C", usage="The same on all brokers"),
)
DEBUG_OPTIONS = (
    Option("clear", "C", usage="Clear all flags"),
    Option("set", "S", "MASK", usage="Set the flags to MASK"),
    Option("setbit", "s", "MASK", usage="Set these flags"),
    Option("clearbit", "c", "MASK", usage="Clear these flags"),
)
LOAD_OPTIONS = (
    Option("name", argument="NAME", usage="Give the module another name"),
    Option("exec", usage="Run the module in a process of its own"),
)
REMOVE_OPTIONS = (
    Option("force", "f", usage="Do not complain if the module is not loaded"),
    Option("cancel", usage="Stop a module that does not answer"),
)

_MAX_IDLE = 99
_STATES = "IRFX"
_SERVICES_WIDTH = 8


def list_modules(options: Options, context: Context) -> int:
    """Print a table of modules."""
    if options.arguments:
        raise context.command.usage_error()
    with context.open() as flux, naming("list"):
        modules = flux.rpc("module.list").get()["mods"]
    header = f"{'Module':<25} {'Idle':>4}  S Sendq Recvq"
    print(f"{header} {'Service':<8} Path" if options.has("long") else f"{header} Service")
    for module in modules:
        print(format_module(module, long=options.has("long")))
    return 0


def format_module(module: dict[str, Any], *, long: bool) -> str:
    """Format one line of the table."""
    idle = str(module["idle"]) if module["idle"] <= _MAX_IDLE else "idle"
    state = _STATES[module["status"]] if 0 <= module["status"] < len(_STATES) else "?"
    queues = f"{module.get('sendqueue', 0):>5} {module.get('recvqueue', 0):>5}"
    services = ",".join(name for name in module["services"] if name != module["name"])
    line = f"{module['name']:<25.25} {idle:>4}  {state} {queues} "
    if not long:
        return line + services
    if len(services) > _SERVICES_WIDTH:
        services = services[: _SERVICES_WIDTH - 1] + "+"
    return f"{line}{services:<{_SERVICES_WIDTH}} {module['path']}"


def stats(options: Options, context: Context) -> int:
    """Print or clear the statistics of a module."""
    if len(options.arguments) != 1:
        raise context.command.usage_error()
    service = options.arguments[0]
    with context.open() as flux:
        if options.has("clear-all"):
            flux.send_event(f"{service}.stats-clear")
            return 0
        method = "stats-clear" if options.has("clear") else "rusage" if options.has("rusage") else "stats-get"
        who = options.get("rusage")
        topic = f"{service}.{method}"
        try:
            answer = flux.rpc(topic, {"who": who} if who and method == "rusage" else None).get()
        except FluxError as error:
            text = os.strerror(error.errnum) if options.has("clear") else reason(error)
            raise CommandError(f"{topic}: {text}") from None
    if not options.has("clear"):
        print(_format_value(answer, options))
    return 0


def _format_value(value: object, options: Options) -> str:
    path = options.get("parse")
    for key in path.split(".") if path else ():
        if not isinstance(value, dict) or key not in value:
            raise CommandError(f"`{path}' not found in response")
        value = value[key]
    try:
        scale = float(options.get("scale", "1") or "")
    except ValueError:
        raise CommandError("flux-module stats: stats: Option 'scale' requires a floating point argument") from None
    kind = options.get("type")
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if kind == "int" or isinstance(number, int):
        return str(int((number or 0) * scale))
    if kind == "double" or isinstance(number, float):
        return f"{(number or 0) * scale:f}"
    return json.dumps(value, indent=1, ensure_ascii=False)


def debug(options: Options, context: Context) -> int:
    """Change the debug flags of a module if asked to, and print them."""
    if len(options.arguments) != 1:
        raise CommandError("flux-debug requires service argument")
    topic = f"{options.arguments[0]}.debug"
    request: dict[str, Any] = {"op": "setbit", "flags": 0}
    if options.has("clear"):
        request["op"] = "clr"
    else:
        for name, operation in (("set", "set"), ("clearbit", "clrbit"), ("setbit", "setbit")):
            if options.has(name):
                request = {"op": operation, "flags": _parse_mask(options.get(name) or "")}
                break
    with context.open() as flux, naming(f"{topic}"):
        print(f"{flux.rpc(topic, request).get()['flags']:#x}")
    return 0


def _parse_mask(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise CommandError(f"'{text}' is not a mask of flags") from None


def load(options: Options, context: Context) -> int:
    """Load a module."""
    if not options.arguments:
        raise context.command.usage_error()
    with context.open() as flux:
        _load(flux, options)
    return 0


def _load(flux: Flux, options: Options) -> None:
    path, *arguments = options.arguments
    request: dict[str, Any] = {"path": _canonical(path), "args": arguments, "exec": options.has("exec")}
    if options.has("name"):
        request["name"] = options.get("name")
    with naming(f"load {path}"):
        flux.rpc("module.load", request).get()


def remove(options: Options, context: Context) -> int:
    """Remove a module."""
    if len(options.arguments) != 1:
        raise context.command.usage_error()
    with context.open() as flux:
        _remove(flux, options.arguments[0], options)
    return 0


def _remove(flux: Flux, name: str, options: Options) -> None:
    with naming(f"remove {name}"):
        try:
            flux.rpc("module.remove", {"name": _canonical(name), "cancel": options.has("cancel")}).get()
        except FluxError as error:
            if not (options.has("force") and error.errnum == errno.ENOENT):
                raise


def reload(options: Options, context: Context) -> int:
    """Remove a module, and load it again."""
    if not options.arguments:
        raise context.command.usage_error()
    with context.open() as flux:
        _remove(flux, options.get("name") or options.arguments[0], options)
        _load(flux, options)
    return 0


def _canonical(path: str) -> str:
    """Return the path for a broker that runs in another directory; names of modules are no paths."""
    return os.path.realpath(path) if "/" in path or path.endswith(".so") else path


def lacking(options: Options, context: Context) -> int:
    """Refuse to trace."""
    name = context.command.name
    raise CommandError(f"{name}: only the command of flux-core can do that; it works with embedded brokers, too")


COMMANDS = (
    Command(
        "flux-module",
        subcommands=(
            Command("flux-module list", list_modules, summary="List the modules", options=LIST_OPTIONS),
            Command(
                "flux-module stats",
                stats,
                usage="[OPTIONS] module",
                summary="Print what a module counts",
                options=STATS_OPTIONS,
            ),
            Command(
                "flux-module debug",
                debug,
                usage="[OPTIONS] module",
                summary="Print or change debug flags",
                options=DEBUG_OPTIONS,
            ),
            Command(
                "flux-module load",
                load,
                usage="[OPTIONS] module [ARGUMENT...]",
                summary="Load a module",
                options=LOAD_OPTIONS,
            ),
            Command(
                "flux-module remove",
                remove,
                usage="[OPTIONS] module",
                summary="Remove a module",
                options=REMOVE_OPTIONS,
            ),
            Command(
                "flux-module reload",
                reload,
                usage="[OPTIONS] module [ARGUMENT...]",
                summary="Remove a module and load it again",
                options=(*REMOVE_OPTIONS, *LOAD_OPTIONS),
            ),
            Command("flux-module trace", lacking, usage="[...]", summary="Needs flux-core", takes_all=True),
        ),
    ),
)

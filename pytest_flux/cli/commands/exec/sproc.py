"""`flux sproc`: the processes that `flux exec` has left running."""

from __future__ import annotations

import errno
import sys

from pytest_flux.cli.command import Command, CommandError, Context, explaining, reason
from pytest_flux.options import Option, parse_integer
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.ioencode import decode_io
from pytest_flux.protocol.message import NODEID_ANY
from pytest_flux.protocol.wait_status import exit_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.client import Flux, Rpc
    from pytest_flux.options import Options

_COMMON = (
    Option("rank", "r", "RANK", usage="Ask the broker of this rank (default: the nearest)"),
    Option("service", "s", "SERVICE", usage="Ask this service (default: rexec)"),
)
KILL_OPTIONS = (*_COMMON, Option("wait", "w", usage="Wait for the process, and exit as it did"))
WAIT_OPTIONS = (*_COMMON, Option("output", "o", usage="Print what it wrote, as far as that was kept"))
PS_OPTIONS = (
    *_COMMON,
    Option("format", "o", "FORMAT", usage="Print lines of this form, e.g. '{pid} {state} {label} {rank} {cmd}'"),
    Option("no-header", "n", usage="Do not print a header"),
)

_FORMAT = "{pid:>9} {state:<2} {label:<12} {cmd}"
_HEADINGS = {"pid": "PID", "state": "ST", "label": "LABEL", "rank": "RANK", "cmd": "COMMAND"}


def kill(options: Options, context: Context) -> int:
    """Send a signal to a process."""
    if len(options.arguments) != 2:
        raise context.command.usage_error()
    signum = parse_integer(options.arguments[0])
    if signum is None:
        raise CommandError(f"'{options.arguments[0]}' is not the number of a signal")
    target = _target(options.arguments[1])
    with context.open() as flux:
        # Wait first: after the signal the process may be gone, and its status with it.
        waiting = _ask(flux, options, "wait", target) if options.has("wait") else None
        try:
            _ask(flux, options, "kill", {**target, "signum": signum}).get()
        except FluxError as error:
            context.log(f"kill: {reason(error)}")
            if waiting is None or error.errnum != errno.ESRCH:
                return 1
        return 0 if waiting is None else exit_code(_get(waiting, "kill: wait failed")["status"])


def wait(options: Options, context: Context) -> int:
    """Wait for a process to end, and exit as it did."""
    if len(options.arguments) != 1:
        raise context.command.usage_error()
    with context.open() as flux:
        answer = _get(_ask(flux, options, "wait", _target(options.arguments[0])), "wait")
    if options.has("output"):
        for value in answer.get("output", ()):
            io = decode_io(value)
            stream = sys.stdout if io.stream == "stdout" else sys.stderr
            stream.buffer.write(io.data)
            stream.buffer.flush()
    return exit_code(answer["status"])


def ps(options: Options, context: Context) -> int:
    """List the processes."""
    if options.arguments:
        raise context.command.usage_error()
    with context.open() as flux:
        answer = _get(_ask(flux, options, "list", {}), "ps")
    rows = [{**process, "label": process.get("label") or "-", "rank": answer["rank"]} for process in answer["procs"]]
    form = options.get("format", _FORMAT) or _FORMAT
    try:
        for row in rows if options.has("no-header") else [_HEADINGS, *rows]:
            print(form.format_map(row))
    except (KeyError, ValueError, AttributeError, IndexError) as error:
        raise CommandError(f"ps: cannot print '{form}': {error}") from None
    return 0


def _target(text: str) -> dict[str, Any]:
    pid = parse_integer(text)
    return {"pid": -1, "label": text} if pid is None else {"pid": pid}


def _ask(flux: Flux, options: Options, method: str, request: dict[str, Any]) -> Rpc:
    nodeid = options.integer("rank", NODEID_ANY)
    return flux.rpc(f"{options.get('service', 'rexec')}.{method}", request, nodeid=nodeid)


def _get(rpc: Rpc, complaint: str) -> dict[str, Any]:
    with explaining(f"{complaint}"):
        return rpc.get()


COMMANDS = (
    Command(
        "flux-sproc",
        subcommands=(
            Command("flux-sproc kill", kill, usage="[OPTIONS] SIGNUM PID|LABEL", options=KILL_OPTIONS, permute=True),
            Command("flux-sproc wait", wait, usage="[OPTIONS] PID|LABEL", options=WAIT_OPTIONS, permute=True),
            Command("flux-sproc ps", ps, options=PS_OPTIONS),
        ),
    ),
)

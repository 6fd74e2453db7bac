"""`flux queue`: the queues of the instance."""

from __future__ import annotations

import sys

from pytest_flux.cli.arguments import ArgumentCommand, connect
from pytest_flux.cli.commands.command import CommandError, reason
from pytest_flux.cli.commands.queue_list import print_queues
from pytest_flux.cli.named_formats import FormatShown
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.cli.commands.command import Context, Run
    from pytest_flux.client import Flux
    from pytest_flux.options import Options

_QUEUE = Option("queue", "q", "NAME", hidden=True)
_VERBOSE = Option("verbose", "v", usage="Tell more about the job manager")
_CHANGE = (
    _QUEUE,
    Option("all", "a", usage="All queues, if none is named"),
    Option("quiet", usage="Print errors only"),
    _VERBOSE,
)
_STOP = (
    Option("nocheckpoint", usage="A restart of the instance undoes it"),
    Option("message", "m", "REASON", usage="Why"),
)
_TIMEOUT = Option("timeout", "t", "DURATION", usage="Do not wait longer")
LIST_OPTIONS = (
    Option("queue", "q", "QUEUE,...", usage="Only these queues"),
    Option("format", "o", "FORMAT", usage="The output format, or the name of one; 'help' lists those"),
    Option("no-header", "n", usage="Print no header"),
)
_ENABLE, _START = "enable", "start"


def list_queues(options: Options, context: Context) -> int:
    """Print queues and their limits."""
    try:
        print_queues(options, context)
    except FormatShown:
        pass
    return 0


def status(options: Options, context: Context) -> int:
    """Print whether queues take jobs, and whether they start."""
    name = _queue_name(options)
    with connect(context) as flux:
        _print_status(flux, options, name, (_ENABLE, _START))
        if options.has("verbose"):
            _print_requests(flux)
    return 0


def enable(options: Options, context: Context) -> int:
    """Take jobs."""
    return _set_enabled(options, context, {"enable": True})


def disable(options: Options, context: Context) -> int:
    """Refuse jobs."""
    return _set_enabled(options, context, {"enable": False, "reason": options.get("message") or _DISABLED})


_DISABLED = "disabled by administrator"


def _set_enabled(options: Options, context: Context, request: dict[str, Any]) -> int:
    return _change(options, context, "enable", request, _ENABLE)


def start(options: Options, context: Context) -> int:
    """Let jobs start."""
    return _set_started(options, context, {"start": True, "nocheckpoint": False})


def stop(options: Options, context: Context) -> int:
    """Let no more jobs start."""
    request: dict[str, Any] = {"start": False, "nocheckpoint": options.has("nocheckpoint")}
    if options.has("message"):
        request["reason"] = options.get("message")
    return _set_started(options, context, request)


def _set_started(options: Options, context: Context, request: dict[str, Any]) -> int:
    if not _queue_name(options) and not options.has("all"):
        with connect(context) as flux:
            if flux.rpc("job-manager.queue-list").get()["queues"]:
                raise CommandError("Named queues are defined. Specify queues or use --all.")
    return _change(options, context, "start", request, _START)


def _change(options: Options, context: Context, method: str, request: dict[str, Any], shown: str) -> int:
    name = _queue_name(options)
    request["all"] = options.has("all")
    if name:
        request["name"] = name
    with connect(context) as flux:
        try:
            flux.rpc(f"job-manager.queue-{method}", request, nodeid=0).get()
        except FluxError as error:
            raise CommandError(f"{method}: {reason(error)}") from None
        if not options.has("quiet"):
            _print_status(flux, options, name, (shown,))
            if shown == _START and options.has("verbose"):
                _print_requests(flux)
    return 0


def _queue_name(options: Options) -> str | None:
    named, old = options.arguments[0] if options.arguments else None, options.get("queue")
    if named and old:
        raise ValueError(f"Conflicting queues specified as --queue={old} and {named}")
    return named or old


def _print_status(flux: Flux, options: Options, name: str | None, shown: tuple[str, ...]) -> None:
    queues = flux.rpc("job-manager.queue-list").get()["queues"]
    names = [name] if (name and not options.has("verbose")) or not queues else queues
    calls = [(each, flux.rpc("job-manager.queue-status", {"name": each} if each else {}, nodeid=0)) for each in names]
    for each, call in calls:
        try:
            state = call.get()
        except FluxError as error:
            raise CommandError(f"status: {reason(error)}") from None
        label = f"{each}: " if each else ""
        if _ENABLE in shown:
            why = "enabled" if state["enable"] else f"disabled: {state['disable_reason']}"
            print(f"{label}Job submission is {why}")
        if _START in shown:
            why = "started" if state["start"] else "stopped"
            why += f": {state['stop_reason']}" if not state["start"] and "stop_reason" in state else ""
            print(f"{label}Scheduling is {why}")


def _print_requests(flux: Flux) -> None:
    try:
        query = flux.rpc("job-manager.alloc-query").get()
    except FluxError as error:
        raise CommandError(f"alloc-query: {reason(error)}") from None
    print(f"{query['queue_length']} alloc requests queued")
    print(f"{query['alloc_pending']} alloc requests pending to scheduler")
    print(f"{query['running']} running jobs")


def drain(options: Options, context: Context) -> int:
    """Wait until there are no active jobs."""
    _wait(options, context, "drain")
    return 0


def idle(options: Options, context: Context) -> int:
    """Wait until no job runs."""
    pending = _wait(options, context, "idle")["pending"]
    if not options.has("quiet") or pending > 0:
        sys.stdout.write(f"{pending} jobs\n")
    return 0


def _wait(options: Options, context: Context, method: str) -> dict[str, Any]:
    from pytest_flux.cli.commands.submit_jobspec import parse_fsd

    timeout = parse_fsd(options.get("timeout") or "") if options.has("timeout") else None
    with connect(context) as flux:
        try:
            return flux.rpc(f"job-manager.{method}").get(timeout)
        except TimeoutError:
            raise CommandError(f"{method}: timeout") from None
        except FluxError as error:
            raise CommandError(f"{method}: {reason(error)}") from None


def _subcommand(name: str, run: Run, usage: str, options: tuple[Option, ...]) -> ArgumentCommand:
    return ArgumentCommand(f"flux-queue {name}", run, usage=usage, options=options)


COMMAND = ArgumentCommand(
    "flux-queue",
    subcommands=(
        _subcommand("list", list_queues, "[OPTIONS]", LIST_OPTIONS),
        _subcommand("status", status, "[OPTIONS] [QUEUE]", (_QUEUE, _VERBOSE)),
        _subcommand("enable", enable, "[OPTIONS] [QUEUE]", _CHANGE),
        _subcommand("disable", disable, "[OPTIONS] [QUEUE]", (*_CHANGE, *_STOP)),
        _subcommand("start", start, "[OPTIONS] [QUEUE]", _CHANGE),
        _subcommand("stop", stop, "[OPTIONS] [QUEUE]", (*_CHANGE, *_STOP)),
        _subcommand("drain", drain, "[OPTIONS]", (_TIMEOUT,)),
        _subcommand("idle", idle, "[OPTIONS]", (_TIMEOUT, Option("quiet", usage="Print pending jobs only, if any"))),
    ),
)

"""`flux queue`: the queues of the instance, and their limits."""

from __future__ import annotations

import sys
from math import inf

from pytest_flux.cli.arguments import ArgumentCommand, connect, queue_names
from pytest_flux.cli.command import CommandError, explaining, reason
from pytest_flux.cli.commands.resource.tables import in_queue
from pytest_flux.cli.format import Format
from pytest_flux.cli.named_formats import find_format
from pytest_flux.client.resources import STATES, ResourceList, Resources
from pytest_flux.options import Option
from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.cli.command import Context, Run
    from pytest_flux.client import Flux
    from pytest_flux.options import Options

_FLAGS = "?:{queuem:<8.8} {color_enabled}{enabled:>2}{color_off} {color_started}{started:>2}{color_off} "
_TIMES = "{defaults.timelimit!F:>8} {limits.timelimit!F:>8} "
_KINDS = {"nnodes": "node", "ncores": "core", "ngpus": "gpu"}
_WIDTHS = {"all": 6, "up": 10, "down": 10, "allocated": 11, "free": 10}
FORMATS = {
    "default": (
        "Default flux-queue list format string",
        _FLAGS + _TIMES + " ".join(f"{{limits.range.effective.{count}:>10}}" for count in _KINDS),
    ),
    "policy": (
        "flux-queue list with policy limits only",
        f"{_FLAGS}{_TIMES}{{limits.range.nnodes:>10}} {{limits.range.ncores:>10}} {{limits.range.ngpus:>10}}",
    ),
    "nodes": (
        "Show queue status plus all/up/allocated/free nodes",
        _FLAGS + " ".join(f"{{resources.{state}.nnodes:>{width}}}" for state, width in _WIDTHS.items()),
    ),
}
HEADINGS = {
    "queue": "QUEUE",
    "queuem": "QUEUE",
    "submission": "SUBMIT",
    "scheduling": "SCHED",
    "enabled": "EN",
    "started": "ST",
    "enabled.ascii": "EN",
    "started.ascii": "ST",
    "color_enabled": "",
    "color_started": "",
    "color_off": "",
    "defaults.timelimit": "TDEFAULT",
    "limits.timelimit": "TLIMIT",
}
for _count in _KINDS:
    _plain = _count[1:].upper()
    HEADINGS |= {f"limits.range.{_count}": _count.upper(), f"limits.range.effective.{_count}": _count.upper()}
    HEADINGS |= {f"limits.min.{_count}": f"MIN{_plain}", f"limits.max.{_count}": f"MAX{_plain}"}
    HEADINGS |= {f"resources.{state}.{_count}": f"{_plain}:{state[:5].upper()}" for state in STATES if state != "all"}
    HEADINGS[f"resources.all.{_count}"] = _plain


class Queue:
    """One queue. Its name is empty if no queues are configured."""

    def __init__(self, name: str, config: dict[str, Any], resources: ResourceList, status: dict[str, Any]) -> None:
        self._name = name
        self._config = config
        self._own: dict[str, Any] = config.get("queues", {}).get(name, {})
        self._status = status
        self._resources = resources.changed(lambda each: in_queue(each, self._own)) if name else resources

    def field(self, name: str) -> Any:  # noqa: ANN401
        """Return the value of a field."""
        first, _, rest = name.partition(".")
        if first == "limits":
            return self._limit(rest)
        if first == "defaults":
            return parse_duration(str(self._policy("jobspec.defaults.system.duration", "inf")))
        if first == "resources":
            state, _, count = rest.partition(".")
            return self._resources.of(state).count(_KINDS[count])
        return self._simple(name)

    def _simple(self, name: str) -> str:
        enabled, started = self._status["enable"], self._status["start"]
        default = _lookup(self._config, "policy.jobspec.defaults.system.queue") == self._name
        values = {
            "queue": self._name,
            "queuem": f"{self._name}*" if self._name and default else self._name,
            "submission": "enabled" if enabled else "disabled",
            "scheduling": "started" if started else "stopped",
            "color_off": "\033[0;0m",
        }
        for key, is_on in (("enabled", enabled), ("started", started)):
            values[key] = "✔" if is_on else "✗"
            values[f"{key}.ascii"] = "y" if is_on else "n"
            values[f"color_{key}"] = "\033[01;32m" if is_on else "\033[01;31m"
        return values[name]

    def _limit(self, name: str) -> Any:  # noqa: ANN401
        if name == "timelimit":
            return parse_duration(str(self._policy("limits.duration", "inf")))
        kind, _, count = name.partition(".")
        if kind in ("min", "max"):
            return self._size(kind, count)
        if count.startswith("effective."):
            count = count.partition(".")[2]
            return f"{self._size('min', count)}-{min(self._size('max', count), self._all(count))}"
        return f"{self._size('min', count)}-{self._size('max', count)}"

    def _all(self, count: str) -> int:
        return self._resources.all.count(_KINDS[count])

    def _size(self, end: str, count: str) -> float:
        size = self._policy(f"limits.job-size.{end}.{count}", inf if end == "max" else 0)
        return inf if size < 0 else float(size) if size == inf else int(size)

    def _policy(self, path: str, default: Any) -> Any:  # noqa: ANN401
        """Return a value of the queue's policy, or else of the policy for all queues."""
        for config in (self._own, self._config):
            value = _lookup(config, f"policy.{path}")
            if value is not None:
                return value
        return default


def _lookup(config: dict[str, Any], path: str) -> Any:  # noqa: ANN401
    value: Any = config
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def print_queues(options: Options) -> None:
    """Print a line for each queue."""
    output = Format(find_format(options.get("format") or "default", FORMATS, "flux-queue", "list"), HEADINGS)
    with connect() as flux:
        call = flux.rpc("config.get")
        resources = Resources(flux).list()
        config = call.get()
        names = queue_names(options) or list(config.get("queues", {}))
        for name in names:
            if name not in config.get("queues", {}):
                raise ValueError(f"No such queue: {name}")
        calls = [
            (name, flux.rpc("job-manager.queue-status", {"name": name} if name else {})) for name in names or [""]
        ]
        queues = [Queue(name, config, resources, call.get()) for name, call in calls]
    output.print(queues, header=not options.has("no-header"))


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
    print_queues(options)
    return 0


def status(options: Options, context: Context) -> int:
    """Print whether queues take jobs, and whether they start."""
    name = _queue_name(options)
    with connect() as flux:
        _print_status(flux, options, name, (_ENABLE, _START))
        if options.has("verbose"):
            _print_requests(flux)
    return 0


def enable(options: Options, context: Context) -> int:
    """Enable queues, so that they accept jobs."""
    return _set_enabled(options, context, {"enable": True})


def disable(options: Options, context: Context) -> int:
    """Disable queues, so that they refuse jobs."""
    return _set_enabled(options, context, {"enable": False, "reason": options.get("message") or _DISABLED})


_DISABLED = "disabled by administrator"


def _set_enabled(options: Options, context: Context, request: dict[str, Any]) -> int:
    return _change(options, context, "enable", request, _ENABLE)


def start(options: Options, context: Context) -> int:
    """Start queues, so that their jobs can run."""
    return _set_started(options, context, {"start": True, "nocheckpoint": False})


def stop(options: Options, context: Context) -> int:
    """Stop queues, so that no more of their jobs start."""
    request: dict[str, Any] = {"start": False, "nocheckpoint": options.has("nocheckpoint")}
    if options.has("message"):
        request["reason"] = options.get("message")
    return _set_started(options, context, request)


def _set_started(options: Options, context: Context, request: dict[str, Any]) -> int:
    if not _queue_name(options) and not options.has("all"):
        with connect() as flux:
            if flux.rpc("job-manager.queue-list").get()["queues"]:
                raise CommandError("Named queues are defined. Specify queues or use --all.")
    return _change(options, context, "start", request, _START)


def _change(options: Options, context: Context, method: str, request: dict[str, Any], shown: str) -> int:
    name = _queue_name(options)
    request["all"] = options.has("all")
    if name:
        request["name"] = name
    with connect() as flux:
        with explaining(f"{method}"):
            flux.rpc(f"job-manager.queue-{method}", request, nodeid=0).get()
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
        with explaining("status"):
            state = call.get()
        label = f"{each}: " if each else ""
        if _ENABLE in shown:
            why = "enabled" if state["enable"] else f"disabled: {state['disable_reason']}"
            print(f"{label}Job submission is {why}")
        if _START in shown:
            why = "started" if state["start"] else "stopped"
            why += f": {state['stop_reason']}" if not state["start"] and "stop_reason" in state else ""
            print(f"{label}Scheduling is {why}")


def _print_requests(flux: Flux) -> None:
    with explaining("alloc-query"):
        query = flux.rpc("job-manager.alloc-query").get()
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
    from pytest_flux.cli.commands.submit.jobspec import parse_fsd

    timeout = parse_fsd(options.get("timeout") or "") if options.has("timeout") else None
    with connect() as flux:
        try:
            return flux.rpc(f"job-manager.{method}").get(timeout)
        except TimeoutError:
            raise CommandError(f"{method}: timeout") from None
        except FluxError as error:
            raise CommandError(f"{method}: {reason(error)}") from None


def _subcommand(name: str, run: Run, usage: str, options: tuple[Option, ...]) -> ArgumentCommand:
    return ArgumentCommand(f"flux-queue {name}", run, usage=usage, options=options)


COMMANDS = (
    ArgumentCommand(
        "flux-queue",
        subcommands=(
            _subcommand("list", list_queues, "[OPTIONS]", LIST_OPTIONS),
            _subcommand("status", status, "[OPTIONS] [QUEUE]", (_QUEUE, _VERBOSE)),
            _subcommand("enable", enable, "[OPTIONS] [QUEUE]", _CHANGE),
            _subcommand("disable", disable, "[OPTIONS] [QUEUE]", (*_CHANGE, *_STOP)),
            _subcommand("start", start, "[OPTIONS] [QUEUE]", _CHANGE),
            _subcommand("stop", stop, "[OPTIONS] [QUEUE]", (*_CHANGE, *_STOP)),
            _subcommand("drain", drain, "[OPTIONS]", (_TIMEOUT,)),
            _subcommand(
                "idle", idle, "[OPTIONS]", (_TIMEOUT, Option("quiet", usage="Print pending jobs only, if any"))
            ),
        ),
    ),
)

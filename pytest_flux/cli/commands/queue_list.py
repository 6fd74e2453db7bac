"""`flux queue list`: queues, whether they are in use, and their limits."""

from __future__ import annotations

from math import inf

from pytest_flux.cli.arguments import connect
from pytest_flux.cli.commands.resource_list import in_queue, queue_names
from pytest_flux.cli.format import Format
from pytest_flux.cli.named_formats import find_format
from pytest_flux.client.resources import STATES, ResourceList, Resources
from pytest_flux.protocol.duration import parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.cli.commands.command import Context
    from pytest_flux.options import Options

_START = "?:{queuem:<8.8} {color_enabled}{enabled:>2}{color_off} {color_started}{started:>2}{color_off} "
_TIMES = "{defaults.timelimit!F:>8} {limits.timelimit!F:>8} "
_KINDS = {"nnodes": "node", "ncores": "core", "ngpus": "gpu"}
_WIDTHS = {"all": 6, "up": 10, "down": 10, "allocated": 11, "free": 10}
FORMATS = {
    "default": (
        "Default flux-queue list format string",
        _START + _TIMES + " ".join(f"{{limits.range.effective.{count}:>10}}" for count in _KINDS),
    ),
    "policy": (
        "flux-queue list with policy limits only",
        f"{_START}{_TIMES}{{limits.range.nnodes:>10}} {{limits.range.ncores:>10}} {{limits.range.ngpus:>10}}",
    ),
    "nodes": (
        "Show queue status plus all/up/allocated/free nodes",
        _START + " ".join(f"{{resources.{state}.nnodes:>{width}}}" for state, width in _WIDTHS.items()),
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
    """One queue; the one without a name, where none is configured."""

    def __init__(self, name: str, config: dict[str, Any], resources: ResourceList, status: dict[str, Any]) -> None:
        self._name = name
        self._config = config
        self._own: dict[str, Any] = config.get("queues", {}).get(name, {})
        self._status = status
        self._resources = resources.changed(lambda each: in_queue(each, self._own)) if name else resources

    def field(self, name: str) -> Any:  # noqa: ANN401
        """The value of a field."""
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
        """What the queue's policy says, or else that of all queues."""
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


def print_queues(options: Options, context: Context) -> None:
    """Print the lines."""
    output = Format(find_format(options.get("format") or "default", FORMATS, "flux-queue", "list"), HEADINGS)
    with connect(context) as flux:
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

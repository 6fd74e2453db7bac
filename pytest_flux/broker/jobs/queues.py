"""Queues (RFC 33): the anonymous one, or those that ``[queues]`` names (flux-core's job-manager/queues.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from typing import Any

from pytest_flux.protocol.errors import FluxError


class Queue:
    """Enabled: jobs may be submitted to it. Started: its jobs are scheduled."""

    def __init__(self, name: str | None, requires: list[str] | None = None) -> None:
        self.name = name
        self.requires = requires
        self.is_enabled = True
        self.disable_reason: str | None = None
        # A named queue is stopped until the first `flux queue start`, as in flux-core.
        self.is_started = self.is_started_sticky = name is None
        self.stop_reason: str | None = None

    def status(self, *, scheduler_is_online: bool) -> dict[str, Any]:
        """``{enable, start, disable_reason?, stop_reason?}``."""
        start, stop_reason = self.is_started, self.stop_reason
        if not scheduler_is_online:
            start, stop_reason = False, "Scheduler is offline"
        status: dict[str, Any] = {"enable": self.is_enabled, "start": start}
        if not self.is_enabled and self.disable_reason is not None:
            status["disable_reason"] = self.disable_reason
        if not start and stop_reason is not None:
            status["stop_reason"] = stop_reason
        return status

    def save(self) -> dict[str, Any]:
        """Return what the checkpoint keeps."""
        saved: dict[str, Any] = {"enable": self.is_enabled, "start": self.is_started_sticky}
        if self.name is not None:
            saved["name"] = self.name
        if not self.is_enabled:
            saved["disable_reason"] = self.disable_reason
        if not self.is_started_sticky and self.stop_reason is not None:
            saved["stop_reason"] = self.stop_reason
        return saved


class Queues:
    """All queues. ``changed`` is called with each queue that was started or stopped."""

    def __init__(self, config: dict[str, Any], changed: Callable[[Queue], None]) -> None:
        self._anonymous = Queue(None)
        self._named: dict[str, Queue] = {}
        self._changed = changed
        self._stops_on_restart = False
        self.configure(config)

    def configure(self, config: dict[str, Any]) -> None:
        """Take over ``[queues]`` of a configuration that was checked. Queues that remain keep their state.

        As in flux-core, jobs of a queue that goes stay active: those that wait for resources still get them. When the
        last named queue goes, the anonymous one begins anew, enabled and started.
        """
        tables = config.get("queues") or {}
        if self._named and not tables:
            self._anonymous = Queue(None)
        named = {name: self._named.get(name) or Queue(name) for name in tables}
        for name, table in tables.items():
            named[name].requires = table.get("requires")
        self._named = named
        self.settings = _settings(tables, config.get("policy") or {})
        self._stops_on_restart = bool((config.get("job-manager") or {}).get("stop-queues-on-restart"))

    @property
    def names(self) -> list[str]:
        """The names of the queues; empty if there is only the anonymous one."""
        return list(self._named)

    def find(self, name: str | None) -> Queue:
        """Return the queue with that name. Raises FluxError EINVAL, in flux-core's words, if there is none."""
        if name is None:
            if self._named:
                raise FluxError(errno.EINVAL, "a named queue is required")
            return self._anonymous
        if name not in self._named:
            raise FluxError(errno.EINVAL, f"'{name}' is not a valid queue")
        return self._named[name]

    def is_started(self, name: str | None) -> bool:
        """Return whether jobs of that queue are scheduled; False if the queue was removed."""
        if name is None:
            return not self._named and self._anonymous.is_started
        queue = self._named.get(name)
        return queue is not None and queue.is_started

    def check_submit(self, name: str | None) -> None:
        """Raise FluxError EINVAL unless the queue accepts jobs."""
        queue = self.find(name)
        if not queue.is_enabled:
            where = f" to {name}" if name else ""
            raise FluxError(errno.EINVAL, f"job submission{where} is disabled: {queue.disable_reason}")

    def _selected(self, name: str | None, *, everything: bool) -> Iterable[Queue]:
        if name is None and self._named:
            if not everything:
                raise FluxError(errno.EINVAL, "Use --all to apply this command to all queues")
            return list(self._named.values())
        return [self.find(name)]

    def enable(self, name: str | None, *, enable: bool, reason: str | None, everything: bool) -> None:
        """Accept jobs, or refuse them for a reason. Raises FluxError EINVAL."""
        if not enable and reason is None:
            raise FluxError(errno.EINVAL, "reason is required for disable")
        for queue in self._selected(name, everything=everything):
            queue.is_enabled = enable
            queue.disable_reason = None if enable else reason

    def start(
        self, name: str | None, *, start: bool, reason: str | None, everything: bool, nocheckpoint: bool
    ) -> None:
        """Start or stop scheduling; with ``nocheckpoint``, a restart forgets it. Raises FluxError EINVAL."""
        for queue in self._selected(name, everything=everything):
            queue.is_started = start
            queue.stop_reason = None if start else reason
            if not nocheckpoint:
                queue.is_started_sticky = start
            self._changed(queue)

    def save(self) -> list[dict[str, Any]]:
        """Return what the checkpoint keeps."""
        return [queue.save() for queue in self._named.values() or [self._anonymous]]

    def restore(self, saved: list[dict[str, Any]]) -> None:
        """Take over the result of :meth:`save` for the queues that still exist."""
        for entry in saved:
            name = entry.get("name")
            queue = self._anonymous if name is None else self._named.get(name)
            if queue is None or (name is None and self._named):
                continue
            queue.is_enabled = bool(entry.get("enable", True))
            queue.disable_reason = entry.get("disable_reason")
            queue.is_started = queue.is_started_sticky = bool(entry.get("start", True))
            queue.stop_reason = entry.get("stop_reason")
            if queue.is_started and self._stops_on_restart:
                queue.is_started = queue.is_started_sticky = False
                queue.stop_reason = "Automatically stopped due to restart"


def _settings(tables: dict[str, Any], policy: dict[str, Any]) -> dict[str, Any]:
    """``{queues: [{name, requires?, policy?}], policy?, default_queue?}``: what holds for each queue in the end."""
    queues = []
    for name, table in tables.items():
        effective = _overlaid(policy, table.get("policy") or {})
        queue = {"name": name, "requires": table.get("requires"), "policy": effective or None}
        queues.append({key: value for key, value in queue.items() if value is not None})
    settings: dict[str, Any] = {"queues": queues}
    if policy:
        settings["policy"] = policy
    default = policy.get("jobspec", {}).get("defaults", {}).get("system", {}).get("queue")
    if default is not None:
        settings["default_queue"] = default
    return settings


def _overlaid(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with what ``over`` says otherwise, table by table."""
    result = dict(base)
    for name, value in over.items():
        below = result.get(name)
        result[name] = _overlaid(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return result

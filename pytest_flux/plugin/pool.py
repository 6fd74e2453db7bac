"""The instances of one pytest process: which fixture holds them, for which test. They stop while other tests run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from pytest_flux.instance import flux_instance
from pytest_flux.instance.flux_instance import FluxInstance, InstanceError
from pytest_flux.instance.settings import Settings
from pytest_flux.launcher import forkserver
from pytest_flux.plugin import dumping, options, shapes
from pytest_flux.plugin.pristine import Baseline, Verdict
from pytest_flux.plugin.tracebacks import is_plain
from pytest_flux.plugin.workers import controller_pid

__tracebackhide__ = is_plain
# Instances know no pytest, so the plugin hides their frames.
vars(flux_instance)["__tracebackhide__"] = is_plain
_NAMED_ENGINES = ("auto", "system", "embedded")
# More instances that stop at the same time would slow down the tests that run meanwhile.
_MAX_STOPPING = 4

Maker = Callable[[Settings], FluxInstance]


class Held:
    """An instance that a fixture holds. ``mark`` is the position in its log where the present test begins.

    ``marked_node`` is, for a shared instance, the node whose markers gave its settings.
    """

    def __init__(self, name: str, instance: FluxInstance, scope: str, nodeid: str) -> None:
        self.name = name
        self.instance = instance
        self.scope = scope
        self.nodeid = nodeid
        self.mark = 0
        self.broken = ""
        self.failed = False
        self.baseline: Baseline | None = None
        self.user: pytest.Item | None = None
        self.marked_node: pytest.Item | pytest.Collector | None = None

    def is_used_by(self, item: pytest.Item) -> bool:
        """Whether a test uses it, judged by the test's fixtures."""
        return self.name in getattr(item, "fixturenames", ())


class Late(NamedTuple):
    """An error that was found after its test was over."""

    item: pytest.Item | None
    nodeid: str
    text: str


class Pool:
    """All instances of a pytest process. There is one pool, made on first use."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.held: list[Held] = []
        self.strict: bool = options.value_of(config, "strict")
        self._kept = options.value_of(config, "keep")
        self._dumps = dumping.is_on(config)
        self._trace: bool = options.value_of(config, "pmi_trace")
        self._stopping: list[tuple[FluxInstance, str, pytest.Item | None]] = []
        self._ready: list[FluxInstance] = []
        forkserver.keep()
        forkserver.guard(controller_pid(config))

    # -- starting

    def settle(self, settings: Settings, nodeid: str) -> Settings:
        """Let hooks change the settings, and find the engine. Raises UsageError."""
        changed = self.config.hook.pytest_flux_settings(config=self.config, settings=settings, nodeid=nodeid)
        settings = settings if changed is None else changed
        if settings.broker not in _NAMED_ENGINES and "/" not in settings.broker:
            path = self.config.hook.pytest_flux_engine(config=self.config, broker=settings.broker)
            if path is None:
                raise pytest.UsageError(
                    f"flux: broker={settings.broker!r}: known are {', '.join(_NAMED_ENGINES)}, paths, and what the"
                    " hook pytest_flux_engine provides"
                )
            settings = dataclasses.replace(settings, broker=path)
        return settings

    def make(self, settings: Settings) -> FluxInstance:
        """Make an instance without starting it."""
        # A dump of an instance whose rank 0 dies needs its state on disk.
        return FluxInstance(settings, keep=self._kept != "no", durable=self._dumps, trace=self._trace)

    def acquire(
        self, name: str, settings: Settings, scope: str, nodeid: str, item: pytest.Item | None, make: Maker | None
    ) -> Held:
        """Return a running instance. Raises InstanceError."""
        instance = self._take_ready(settings) if make is None else make(settings)
        self._start(instance, nodeid)
        held = Held(name, instance, scope, nodeid)
        held.user = item
        self.held.append(held)
        return held

    def watch(self, held: Held) -> None:
        """Take the baseline to compare an instance with after each test. Raises FluxError or OSError."""
        held.baseline = Baseline(held.instance)
        held.mark = held.instance.output.position() if held.user is None else held.mark

    def _start(self, instance: FluxInstance, nodeid: str) -> None:
        hook = self.config.hook
        try:
            instance.start()
        except InstanceError as error:
            hook.pytest_flux_instance_failed(
                config=self.config, settings=instance.settings, error=error, nodeid=nodeid
            )
            raise
        hook.pytest_flux_instance_started(config=self.config, instance=instance, nodeid=nodeid)

    def _take_ready(self, settings: Settings) -> FluxInstance:
        for instance in self._ready:
            if instance.settings == settings:
                self._ready.remove(instance)
                return instance
        return self.make(settings)

    def prestart(self, wanted: list[Settings]) -> None:
        """Start instances with these settings ahead of their tests; kill others that were started ahead."""
        spare = list(self._ready)
        self._ready = []
        for settings in wanted:
            match = next((instance for instance in spare if instance.settings == settings), None)
            if match is not None:
                spare.remove(match)
            else:
                match = self.make(settings)
                try:
                    match.begin()
                except InstanceError:
                    # The test that needs it will try again, and gets the error.
                    continue
            self._ready.append(match)
        for instance in spare:
            instance.kill()

    # -- between tests

    def used_by(self, item: pytest.Item) -> Iterator[Held]:
        """The instances that a test uses."""
        return (held for held in list(self.held) if held.user is item or held.is_used_by(item))

    def before(self, item: pytest.Item) -> None:
        """Prepare shared instances for a test: start again what another test has broken, and mark the log."""
        for held in self.held:
            if held.scope == "function" or not held.is_used_by(item):
                continue
            if held.marked_node is not None:
                shapes.check_scope(item, held.marked_node)
            if held.broken:
                held.broken = ""
                held.baseline = None
                held.instance.renew()
                self._start(held.instance, item.nodeid)
            if held.baseline is None and held.instance.can_be_restored:
                held.baseline = Baseline(held.instance)
            held.mark = held.instance.output.position()
            held.user = item

    def after(self, item: pytest.Item) -> list[str]:
        """Check the shared instances of a test that is over. Return what it has left behind in them."""
        leaks: list[str] = []
        for held in self.held:
            if held.user is item and held.scope != "function":
                leaks += self._check(held)
                held.user = None
        return leaks

    def _check(self, held: Held) -> list[str]:
        if held.baseline is None:
            return []
        verdict: Verdict = held.baseline.check()
        held.broken = verdict.broken
        return [f"{held.name}: {leak}" for leak in verdict.leaks]

    # -- stopping

    def release(self, held: Held, item: pytest.Item | None) -> list[str]:
        """Begin to stop an instance. Return what its last user left behind. InstanceError if brokers have died."""
        leaks: list[str] = []
        if held.user is not None and held.scope != "function":
            leaks = self._check(held)
        self.held.remove(held)
        instance = held.instance
        dumping.before_end(item, held.name, instance)
        instance.keep = self._kept == "all" or (self._kept == "failed" and held.failed)
        died = instance.failed_brokers()
        if held.broken or (died and leaks):
            # Reported already, for the test that did it.
            self._kill(instance, held.nodeid)
        elif died:
            self._finish(instance, held.nodeid)
        else:
            instance.begin_stop()
            self._stopping.append((instance, held.nodeid, item))
        return leaks

    def _kill(self, instance: FluxInstance, nodeid: str) -> None:
        instance.kill()
        self._call_stopped(instance, nodeid, None)

    def _finish(self, instance: FluxInstance, nodeid: str) -> None:
        try:
            instance.finish_stop()
        except InstanceError as error:
            self._call_stopped(instance, nodeid, error)
            raise
        self._call_stopped(instance, nodeid, None)

    def _call_stopped(self, instance: FluxInstance, nodeid: str, error: Exception | None) -> None:
        hook: Any = self.config.hook
        hook.pytest_flux_instance_stopped(config=self.config, instance=instance, error=error, nodeid=nodeid)

    def collect(self, *, everything: bool = False) -> list[Late]:
        """Finish the stops that are complete, or all of them, and return their errors."""
        late: list[Late] = []
        remaining = []
        for entry in self._stopping:
            instance, nodeid, item = entry
            if not everything and instance.is_stopping and len(self._stopping) <= _MAX_STOPPING:
                remaining.append(entry)
                continue
            try:
                self._finish(instance, nodeid)
            except InstanceError as error:
                late.append(Late(item, nodeid, f"InstanceError: {error}"))
        self._stopping = remaining
        return late

    def close(self) -> None:
        """Kill all instances that are left: unused ones and, after ^C, those of tests."""
        self.prestart([])
        for held in self.held:
            held.instance.kill()
        self.held.clear()
        for instance, _, _ in self._stopping:
            instance.kill()
        self._stopping.clear()

"""The instances of one pytest process: which fixture holds them, for which test. They stop while other tests run.

The problem: users want one instance for many tests (``--flux-scope=session``), but tests have markers, and a fixture
of wide scope has one value. Making a marked test an error, as we did, takes the speed from every suite with a marker.

Three ways were open. A fixture of scope ``function`` over a cache of instances is simplest, but then a fixture of the
user that has a wide scope could not use it. Parametrizing every test by its shape lets pytest do the work, but
changes the ids of tests. We do what pytest does when a parameter changes. A `Place` is a fixture of wide scope that
is set up. Before a test that wants another shape, the fixture is finished, with the fixtures that depend on it. Its
instance stays warm in the pool, and when the fixture is set up it takes the warm one of the wanted shape.

What must stay true:

* An instance is in one list: `held` by a fixture, warm in `_idle`, or stopping. Only one fixture holds it.
* A warm instance belongs to the node (module, session, ...) that it was started for, and is stopped with that node.
* An instance that a test has used is compared with its baseline after the test, before anybody else gets it.
* A test that harms its instance on purpose (``recovery=``, ``fresh=True``) gets one that never becomes warm.
* A set-up that has failed is a place as well: pytest remembers the error, and the next test may want another shape.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import pytest

from pytest_flux.client import job_result
from pytest_flux.instance import errors, flux_instance, operations
from pytest_flux.instance.flux_instance import FluxInstance, InstanceError
from pytest_flux.instance.leased import KeptInstance
from pytest_flux.instance.settings import Settings
from pytest_flux.launcher import forkserver
from pytest_flux.launcher.engine import find_engine
from pytest_flux.launcher.spec import LaunchError
from pytest_flux.plugin import dumping, options, shapes
from pytest_flux.plugin.current import current_item
from pytest_flux.plugin.pristine import Baseline, Verdict
from pytest_flux.plugin.tracebacks import is_plain
from pytest_flux.plugin.workers import controller_pid
from pytest_flux.protocol.errors import FluxError

__tracebackhide__ = is_plain
# Instances know no pytest, so the plugin hides their frames.
for module in (flux_instance, operations, errors, job_result):
    vars(module)["__tracebackhide__"] = is_plain
_NAMED_ENGINES = ("auto", "system", "embedded")
# More instances that stop at the same time would slow down the tests that run meanwhile.
_MAX_STOPPING = 4

OBSERVER = "flux-recorder"
"""The name of the plugin, if there is one, that is the pool's Observer."""

Maker = Callable[[Settings], FluxInstance]


class Held:
    """An instance that a fixture holds, or that is warm. ``mark`` is where the present test begins in its log.

    ``node`` is what a warm instance belongs to, None if it is never warm; ``shape`` is what it is found by.
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
        self.node: shapes.Node | None = None
        self.shape: Settings | None = None

    def is_used_by(self, item: pytest.Item) -> bool:
        """Whether a test uses it, judged by the test's fixtures."""
        return self.name in getattr(item, "fixturenames", ())


class Place:
    """A fixture of wide scope that is set up, or whose set-up has failed. ``wanted`` is what it was set up for."""

    def __init__(self, request: pytest.FixtureRequest, given: shapes.Given, wanted: shapes.Wanted | None) -> None:
        self.name = request.fixturename or shapes.FIXTURE
        self.given = given
        self.wanted = wanted
        self._request: Any = request

    def suits(self, item: pytest.Item) -> bool:
        """Whether a test may have what is set up."""
        if self.name not in getattr(item, "fixturenames", ()):
            return True
        wanted = shapes.of_item(item, self.name, self.given)
        return wanted is not None and not wanted.is_fresh and wanted == self.wanted

    def finish(self) -> None:
        """Tear the fixture down, and those that depend on it, so that pytest sets it up anew."""
        # pytest does the same when the parameter of a fixture changes, and has no public name for it.
        self._request._fixturedef.finish(self._request)


class Late(NamedTuple):
    """An error that was found after its test was over."""

    item: pytest.Item | None
    nodeid: str
    text: str


class Observer(Protocol):
    """What looks at instances at the last moment."""

    def before_check(self, held: Held) -> None:
        """Called after a test, before the instance is put right."""

    def before_end(self, held: Held) -> None:
        """Called before the instance ends, or is handed back."""


class Pool:
    """All instances of a pytest process. There is one pool, made on first use."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.held: list[Held] = []
        self.places: list[Place] = []
        # What the body of the present test has started.
        self.strict: bool = options.value_of(config, "strict")
        self._kept = options.value_of(config, "keep")
        self._dumps = dumping.is_on(config)
        self._trace: bool = options.value_of(config, "pmi_trace")
        self._stopping: list[tuple[FluxInstance, str, pytest.Item | None]] = []
        self._ready: list[FluxInstance] = []
        # Warm instances, the least recently used first, and the nodes that they are stopped with.
        self._idle: list[Held] = []
        self._nodes: set[shapes.Node] = set()
        self._observer: Observer | None = config.pluginmanager.get_plugin(OBSERVER)
        self._limit: int = max(options.value_of(config, "max_instances"), 1)
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
        if isinstance(instance, KeptInstance):
            held.baseline = self._put_right(instance, nodeid)
            held.mark = instance.output.position()
        self.held.append(held)
        return held

    def _put_right(self, instance: KeptInstance, nodeid: str) -> Baseline:
        """Restore an instance that another run has used, or start another. Raises InstanceError."""
        if not instance.is_new:
            try:
                baseline = Baseline(instance, instance.baseline)
                if not baseline.check().broken:
                    return baseline
            except (FluxError, OSError, ValueError):
                # The run that started it was killed before it had written the baseline.
                pass
            instance.renew()
            self._start(instance, nodeid)
        baseline = Baseline(instance)
        baseline.save(instance.baseline)
        return baseline

    def take(
        self,
        name: str,
        settings: Settings,
        scope: str,
        node: shapes.Node,
        item: pytest.Item | None,
        make: Maker | None,
    ) -> Held:
        """Return the warm instance of these settings, restored, or start one. Raises InstanceError."""
        shape = _shape_of(settings)
        held = next((one for one in self._idle if one.node is node and one.shape == shape), None)
        if held is None:
            self._make_room()
            held = self.acquire(name, settings, scope, node.nodeid or name, item, make)
            # An instance that others use as well cannot be restored, and they keep it warm.
            held.node = node if held.instance.can_be_restored else None
            held.shape = shape
            self._remember(held)
            if node not in self._nodes:
                self._nodes.add(node)
                node.addfinalizer(lambda: self._cool(node))
        else:
            self._idle.remove(held)
            held.name = name
            held.instance.settings = settings
            self.held.append(held)
            self.prepare(held, item)
        return held

    def _make_room(self) -> None:
        """Stop warm instances until there is room for one more."""
        wide = [held for held in self.held if held.scope != "function"]
        while self._idle and len(wide) + len(self._idle) >= self._limit:
            self._stop(self._idle.pop(0), None)

    def _cool(self, node: shapes.Node) -> None:
        """Stop the warm instances of a node that is torn down."""
        self._nodes.discard(node)
        for held in [held for held in self._idle if held.node is node]:
            self._idle.remove(held)
            self._stop(held, current_item(self.config))

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
        """Prepare instances of wide scope for a test: those of another shape make way, the others are restored."""
        for place in list(self.places):
            if not place.suits(item):
                place.finish()
        for held in self.held:
            if held.scope != "function" and held.is_used_by(item):
                self.prepare(held, item)

    def prepare(self, held: Held, item: pytest.Item | None) -> None:
        """Start again what another test has broken, and note where the log of this test begins."""
        held.user = item
        held.mark = held.instance.output.position()
        if held.broken:
            self._observe_end(held)
            held.broken = ""
            held.baseline = None
            held.instance.renew()
            # The new log begins with the start of the instance.
            held.mark = 0
            self._start(held.instance, held.nodeid if item is None else item.nodeid)
        self._remember(held)

    @staticmethod
    def _remember(held: Held) -> None:
        """Remember the state that is to be restored after tests."""
        if held.baseline is None and held.instance.can_be_restored:
            held.baseline = Baseline(held.instance)

    def after(self, item: pytest.Item) -> list[str]:
        """Check the instances of wide scope after a test, and end those that were for it alone.

        Returns what it has left behind.
        """
        leaks: list[str] = []
        for held in self.held:
            if held.user is item and held.scope != "function":
                leaks += self._check(held)
                held.user = None
        for place in [place for place in self.places if place.wanted is not None and place.wanted.is_fresh]:
            place.finish()
        return leaks

    def _check(self, held: Held) -> list[str]:
        if held.baseline is None:
            return []
        if self._observer is not None:
            self._observer.before_check(held)
        verdict: Verdict = held.baseline.check()
        held.broken = verdict.broken
        return [f"{held.name}: {leak}" for leak in verdict.leaks]

    # -- stopping

    def release(self, held: Held, item: pytest.Item | None) -> list[str]:
        """Keep an instance warm, or begin to stop it. Return what its last user left behind.

        Raises InstanceError if brokers have died.
        """
        leaks: list[str] = []
        if held.user is not None and held.scope != "function":
            leaks = self._check(held)
            held.user = None
        self.held.remove(held)
        if held.node in self._nodes and not held.broken and not held.instance.failed_brokers():
            self._idle.append(held)
        else:
            self._stop(held, item, is_reported=bool(leaks))
        return leaks

    def _stop(self, held: Held, item: pytest.Item | None, *, is_reported: bool = False) -> None:
        instance = held.instance
        dumping.before_end(item, held.name, instance)
        self._observe_end(held)
        instance.keep = self._kept == "all" or (self._kept == "failed" and held.failed)
        died = instance.failed_brokers()
        if held.broken or (died and is_reported):
            # Reported already, for the test that did it.
            self._kill(instance, held.nodeid)
        elif died:
            self._finish(instance, held.nodeid)
        else:
            instance.begin_stop()
            self._stopping.append((instance, held.nodeid, item))

    def _observe_end(self, held: Held) -> None:
        if self._observer is not None:
            self._observer.before_end(held)

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

    def everything(self) -> list[Held]:
        """The instances that run: those that fixtures hold, and warm ones."""
        return [*self.held, *self._idle]

    def close(self) -> None:
        """Kill all instances that are left: unused ones and, after ^C, those of tests."""
        self.prestart([])
        for held in self.everything():
            held.instance.kill()
        self.held.clear()
        self._idle.clear()
        for instance, _, _ in self._stopping:
            instance.kill()
        self._stopping.clear()


def _shape_of(settings: Settings) -> Settings:
    """The settings that make a difference to an instance: with the path of the engine, without the time limit."""
    try:
        broker = find_engine(settings.broker, os.environ, rehearsal=True).broker
    except LaunchError:
        broker = settings.broker
    return dataclasses.replace(settings, broker=broker, timeout=0.0)

"""Turn a fixture's request into an instance: start one, attach to one, or refuse with a reason."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_flux.instance.attached import AttachedInstance
from pytest_flux.instance.flux_instance import FluxInstance, InstanceError
from pytest_flux.instance.leased import KeptInstance
from pytest_flux.instance.store import Store, kept_directory
from pytest_flux.launcher.engine import find_engine
from pytest_flux.launcher.spec import LaunchError
from pytest_flux.plugin import options, reporting, shapes
from pytest_flux.plugin.current import current_item
from pytest_flux.plugin.pool import Place
from pytest_flux.plugin.tracebacks import is_plain
from pytest_flux.plugin.workers import is_task, shared_maker

if TYPE_CHECKING:
    from pytest_flux.instance.settings import Settings
    from pytest_flux.plugin.pool import Held, Maker, Pool

__tracebackhide__ = is_plain
_DEFINING = ("size", "personality", "recovery", "attrs", "conf", "hosts", "start_mode", "clock")


def provide(
    pool: Pool, request: pytest.FixtureRequest, given: shapes.Given, *, shared: bool
) -> Generator[FluxInstance, None, None]:
    """The body of every fixture that is an instance."""
    item = current_item(request.config)
    given = {name: value(request) if callable(value) else value for name, value in given.items()}
    held = _hold(pool, request, given, item, shared=shared)
    yield held.instance
    last = current_item(request.config)
    reporting.note_end(last, held)
    reporting.add_leaks(last, pool.release(held, last), strict=pool.strict)


def _hold(
    pool: Pool, request: pytest.FixtureRequest, given: shapes.Given, item: pytest.Item | None, *, shared: bool
) -> Held:
    node, config, name = _node_of(request), request.config, request.fixturename or shapes.FIXTURE
    is_wide = request.scope != "function"
    if is_wide and item is not None:
        # Before anything can fail: pytest remembers errors, too.
        place = Place(request, given, shapes.of_item(item, name, given))
        pool.places.append(place)
        request.addfinalizer(lambda: pool.places.remove(place))
    wanted = shapes.of_request(request, given, item)
    settings = pool.settle(wanted.settings, node.nodeid)
    make = _maker(config, settings, shared=shared and not wanted.is_fresh)
    if make is None:
        require_engine(config, settings)
    if is_wide and not wanted.is_fresh:
        return pool.take(name, settings, request.scope, node, item, make)
    nodeid = node.nodeid or (item.nodeid if item is not None else name)
    return pool.acquire(name, settings, "function", nodeid, item, make)


def _node_of(request: pytest.FixtureRequest) -> shapes.Node:
    """The node that an instance belongs to.

    For pytest, a function outside of classes is a class by itself. Its instance stays warm for others of its module.
    """
    node: shapes.Node = request.node
    if request.scope == "class" and isinstance(node, pytest.Item):
        return node.getparent(pytest.Module) or node
    return node


def _maker(config: pytest.Config, settings: Settings, *, shared: bool) -> Maker | None:
    """The way to an instance that this process does not start itself; None if it does."""
    uri = attached_uri(config)
    if uri is not None:
        return lambda settings: _attach(uri, settings)
    if shared and (attach := shared_maker(config)) is not None:
        require_engine(config, settings)
        return attach
    if options.value_of(config, "keep_alive"):
        require_engine(config, settings)
        store = Store(kept_directory(), options.value_of(config, "max_instances"))
        return lambda settings: KeptInstance(settings, lambda settings: store.lease(settings, -1, alone=True))
    return None


def attached_uri(config: pytest.Config) -> str | None:
    """The URI of the instance that the whole run must use, if any. Raises UsageError."""
    uri: str = options.value_of(config, "uri")
    if uri:
        # A task of a job that may be on another host: there, the instance has another socket.
        return os.environ.get("FLUX_URI", uri) if is_task(config) else uri
    if not options.value_of(config, "attach"):
        return None
    uri = os.environ.get("FLUX_URI", "")
    if not uri:
        raise pytest.UsageError("--flux-attach: FLUX_URI is not set: run pytest inside of an instance")
    return uri


def refuse_if_attached(config: pytest.Config, what: str) -> None:
    """Skip a test that starts instances if the run must use an existing one."""
    uri = attached_uri(config)
    if uri is not None:
        pytest.skip(f"{what} starts instances, and this run is to use the one at {uri}")


def _attach(uri: str, settings: Settings) -> FluxInstance:
    instance = AttachedInstance(uri, settings)
    default = type(settings)()
    wanted = [name for name in _DEFINING if getattr(settings, name) != getattr(default, name)]
    if wanted:
        try:
            size = int(instance.getattr("size"))
        except OSError as error:
            raise InstanceError(f"instance at {uri}: {error}") from None
        if wanted != ["size"] or size != settings.size:
            instance.kill()
            values = ", ".join(f"{name}={getattr(settings, name)!r}" for name in wanted)
            pytest.skip(f"{values} is asked for, and the instance at {uri} is what it is (size {size})")
    return instance


def require_engine(config: pytest.Config, settings: Settings) -> None:
    """Skip a test whose engine is absent, with the places searched; fail it if the run requires the engine."""
    required = options.value_of(config, "require")
    if settings.clock is not None:
        _require_clock(settings)
    if settings.broker != "system" and not (required and settings.broker == "auto"):
        return
    try:
        find_engine("system", os.environ, rehearsal=True)
    except LaunchError as error:
        reason = f"no real Flux: {error}"
        if required:
            pytest.fail(f"{reason} (--flux-require={required})", pytrace=False)
        pytest.skip(reason)


def _require_clock(settings: Settings) -> None:
    """Skip a test that needs a clock which can be moved if a real Flux would run."""
    try:
        engine = find_engine(settings.broker, os.environ, rehearsal=True)
    except LaunchError:
        # The start will fail, and say why.
        return
    if engine.kind != "embedded":
        pytest.skip(
            f"clock={settings.clock!r}: no real Flux can stop or move its time, and {engine.broker} is one"
            " (broker='embedded' would do)"
        )

"""The settings of a test or fixture: its keywords over markers over those of the run; and lists in them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pytest

from pytest_flux.instance.settings import NAMES, Settings, SettingsError, update
from pytest_flux.plugin import options
from pytest_flux.plugin.tracebacks import is_plain

__tracebackhide__ = is_plain

FIXTURE = "flux_instance"

FRESH = "fresh"
"""The keyword of a marker that asks for an instance that no other test uses."""

_RUN = pytest.StashKey[Settings]()

Given = Mapping[str, Any]
Node = pytest.Item | pytest.Collector


class Wanted(NamedTuple):
    """What a test wants of a fixture: settings, and whether the instance must be for this test alone."""

    settings: Settings
    is_fresh: bool


def usage(error: SettingsError) -> pytest.UsageError:
    """Convert the error to one that pytest reports as the user's."""
    return pytest.UsageError(f"flux: {error}")


def variants(given: Given) -> list[dict[str, Any]]:
    """The keywords, once for each combination of the values in lists."""
    axes = {name: value for name, value in given.items() if isinstance(value, list)}
    for name, values in axes.items():
        if not values:
            raise pytest.UsageError(f"flux: {name}=[]: an empty list leaves no test")
    return [{**given, **dict(zip(axes, values, strict=True))} for values in itertools.product(*axes.values())]


def identify(given: Given, axes: Iterable[str]) -> str:
    """The id of one variant: ``size=4-broker=embedded``."""
    return "-".join(f"{name}={_short(given[name])}" for name in axes)


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{_short(inner)}" for name, inner in value.items()) or "none"
    return str(value)


def identify_parameter(value: object) -> str | None:
    """The id of a mapping that parametrizes the fixture directly; None for pytest's default."""
    return identify(value, value) if isinstance(value, Mapping) and value else None


def axes_of(given: Given) -> list[str]:
    """The keywords whose values are lists."""
    return [name for name, value in given.items() if isinstance(value, list)]


def marked(node: Node) -> dict[str, Any]:
    """The keywords of a node's markers; the nearest marker wins. Raises UsageError."""
    given: dict[str, Any] = {}
    for marker in reversed(list(node.iter_markers("flux"))):
        if marker.args:
            raise pytest.UsageError(f"{node.nodeid}: pytest.mark.flux takes keywords only, as in size=4")
        given.update(marker.kwargs)
    return given


def check(given: Given, where: str) -> None:
    """Raise UsageError for keywords that no instance can have. Each value in a list is checked, functions are not."""
    for variant in variants(given):
        known = {name: value for name, value in variant.items() if not callable(value) or name not in NAMES}
        try:
            update(Settings(), known, where)
        except SettingsError as error:
            raise usage(error) from None


def generate(metafunc: pytest.Metafunc) -> None:
    """Multiply a test whose marker has lists."""
    given = marked(metafunc.definition)
    axes = axes_of(given)
    check({name: value for name, value in given.items() if name != FRESH}, metafunc.definition.nodeid)
    if not axes:
        return
    for marker in metafunc.definition.iter_markers("parametrize"):
        names = marker.args[0] if marker.args else marker.kwargs.get("argnames", ())
        names = names.split(",") if isinstance(names, str) else names
        if FIXTURE in [name.strip() for name in names]:
            text = (
                f"flux: {axes[0]}={given[axes[0]]} and parametrize({FIXTURE!r}): one of the two can multiply a test"
            )
            raise pytest.UsageError(f"{metafunc.definition.nodeid}: {text}")
    params = [{name: variant[name] for name in axes} for variant in variants(given)]
    ids = [identify(param, axes) for param in params]
    metafunc.parametrize(FIXTURE, params, indirect=True, ids=ids)


def of_request(request: pytest.FixtureRequest, given: Given, item: pytest.Item | None = None) -> Wanted:
    """What a fixture must provide: ``given`` by its definition, over its parameter, markers and the run's settings.

    The markers are those of the test ``item``, or those of the node that the fixture belongs to. Raises UsageError.
    """
    node = item or request.node
    where = node.nodeid or request.fixturename or "session"
    return _merge(request.config, marked(node), _parameter(request), given, where)


def of_node(node: Node, config: pytest.Config) -> Settings:
    """The settings that markers and the run give to a test or a collector. Raises UsageError."""
    return _merge(config, marked(node), {}, {}, node.nodeid).settings


def of_item(item: pytest.Item, fixture: str = FIXTURE, given: Given | None = None) -> Wanted | None:
    """What a fixture must provide for a test; None if that cannot be known now."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    try:
        # A test can use a fixture with parameters indirectly, through another fixture: pytest then knows them.
        parameter = _decode(params.get(fixture), fixture)
        return _merge(item.config, marked(item), parameter, given or {}, item.nodeid)
    except pytest.UsageError:
        return None


def _merge(config: pytest.Config, markers: Given, parameter: Given, given: Given, where: str) -> Wanted:
    keywords = {name: value for name, value in markers.items() if not isinstance(value, list)}
    keywords.update(parameter)
    own = {**keywords}
    is_fresh = bool(keywords.pop(FRESH, False))
    keywords.update(given)
    try:
        settings = update(of_run(config), keywords, where)
    except SettingsError as error:
        raise usage(error) from None
    return Wanted(settings, is_fresh or _is_harmful(own))


def _is_harmful(given: Given) -> bool:
    """Whether a test with these keywords leaves an instance that no other test can use."""
    return bool(given.get("recovery")) or given.get("start_mode") == "leader"


def _parameter(request: pytest.FixtureRequest) -> dict[str, Any]:
    return _decode(getattr(request, "param", None), request.fixturename or FIXTURE)


def _decode(value: object, fixture: str) -> dict[str, Any]:
    if isinstance(value, int):
        return {"size": value}
    if value is not None and not isinstance(value, Mapping):
        text = f"{value!r}: a number of brokers or a mapping of keywords is expected"
        raise pytest.UsageError(f"flux: parameter of {fixture}: {text}")
    return dict(value or {})


def of_run(config: pytest.Config) -> Settings:
    """The settings from command line and ini. Raises UsageError."""
    settings = config.stash.get(_RUN, None)
    if settings is None:
        try:
            settings = config.stash[_RUN] = update(Settings(), options.shape_of(config), "settings")
        except SettingsError as error:
            raise usage(error) from None
    return settings

"""The settings of a test or fixture: its keywords over markers over those of the run; and lists in them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from pytest_flux.instance.settings import Settings, SettingsError, update
from pytest_flux.plugin import options
from pytest_flux.plugin.tracebacks import is_plain

__tracebackhide__ = is_plain

FIXTURE = "flux_instance"

Given = Mapping[str, Any]


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


def marked(node: pytest.Item | pytest.Collector) -> dict[str, Any]:
    """The keywords of a node's markers; the nearest marker wins. Raises UsageError."""
    given: dict[str, Any] = {}
    for marker in reversed(list(node.iter_markers("flux"))):
        if marker.args:
            raise pytest.UsageError(f"{node.nodeid}: pytest.mark.flux takes keywords only, as in size=4")
        given.update(marker.kwargs)
    return given


def check(given: Given, where: str) -> None:
    """Raise UsageError for keywords that no instance can have. Each value in a list is checked."""
    for variant in variants(given):
        try:
            update(Settings(), variant, where)
        except SettingsError as error:
            raise usage(error) from None


def generate(metafunc: pytest.Metafunc) -> None:
    """Multiply a test whose marker has lists."""
    given = marked(metafunc.definition)
    axes = axes_of(given)
    check(given, metafunc.definition.nodeid)
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


def of_request(request: pytest.FixtureRequest, given: Given) -> Settings:
    """The settings for a fixture: ``given`` by its definition, over its parameter, markers and the run's."""
    node = request.node
    where = node.nodeid or request.fixturename or "session"
    keywords = {name: value for name, value in marked(node).items() if not isinstance(value, list)}
    keywords.update(_parameter(request))
    keywords.update(given)
    try:
        return update(of_run(request.config), keywords, where)
    except SettingsError as error:
        raise usage(error) from None


def of_item(item: pytest.Item) -> Settings | None:
    """The settings that the fixture flux_instance will have for a test; None if they cannot be known now."""
    given = {name: value for name, value in marked(item).items() if not isinstance(value, list)}
    params = getattr(getattr(item, "callspec", None), "params", {})
    try:
        given.update(_decode(params.get(FIXTURE), FIXTURE))
        return update(of_run(item.config), given, item.nodeid)
    except (SettingsError, pytest.UsageError):
        return None


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
    try:
        return update(Settings(), options.shape_of(config), "settings")
    except SettingsError as error:
        raise usage(error) from None


def check_scope(item: pytest.Item, scope_node: pytest.Item | pytest.Collector) -> None:
    """Raise UsageError for a marker below the node that the instance belongs to: it comes too late."""
    own = [marker for node, marker in item.iter_markers_with_node("flux") if _is_below(node, scope_node)]
    if own:
        text = "its instance is shared with other tests: put the marker there, or use flux_instance_factory"
        raise pytest.UsageError(f"{item.nodeid}: pytest.mark.flux on a test of its own, but {text}")


def _is_below(node: Any, scope_node: pytest.Item | pytest.Collector) -> bool:  # noqa: ANN401 - of pytest's own
    return node is not scope_node and scope_node in node.listchain()

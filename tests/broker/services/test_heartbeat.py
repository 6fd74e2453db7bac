"""The heartbeat of an instance: its period, and what its configuration may say."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from pytest_flux import flux_instance
from pytest_flux.instance.flux_instance import FluxInstance
from pytest_flux.protocol.config_tables import heartbeat_settings
from pytest_flux.protocol.errors import FluxError, ProtocolError

DEADLINE = 60.0

instance = flux_instance(size=2, broker="embedded", scope="module")


def test_beats(instance: FluxInstance) -> None:
    with instance.events("heartbeat.", timeout=DEADLINE) as events:
        instance.rpc("module.remove", {"name": "heartbeat"})
        instance.rpc("module.load", {"path": "heartbeat", "args": ["period=0.05s"]})
        for _ in range(2):
            assert events.next().topic == "heartbeat.pulse"
    stats = instance.rpc("heartbeat.stats-get")
    assert stats.pop("count") >= 2
    assert stats == {"period": 0.05, "timeout": 300.0, "warn_thresh": 3}
    # The other rank has the same module, and counts what it hears.
    assert instance.rpc("heartbeat.stats-get", rank=1)["period"] == 2.0


def test_arguments_and_configuration(instance: FluxInstance) -> None:
    instance.rpc("module.remove", {"name": "heartbeat"})
    for argument in ("period=1x", "foo=42"):
        with pytest.raises(FluxError) as caught:
            instance.rpc("module.load", {"path": "heartbeat", "args": [argument]})
        assert caught.value.errnum == errno.EINVAL
    instance.rpc("module.load", {"path": "heartbeat", "args": []})
    instance.rpc("config.load", {"heartbeat": {"period": "5s"}})
    assert instance.rpc("heartbeat.stats-get")["period"] == 5.0
    with pytest.raises(FluxError) as caught:
        instance.rpc("config.load", {"heartbeat": {"period": "zzz"}})
    assert caught.value.errnum == errno.EINVAL
    assert instance.rpc("heartbeat.stats-get")["period"] == 5.0
    instance.rpc("config.load", {})
    assert instance.rpc("heartbeat.stats-get")["period"] == 2.0


@pytest.mark.parametrize(
    ("table", "settings"),
    [
        ({}, (2.0, 300.0, 3)),
        ({"period": "1s", "timeout": "1m", "warn_thresh": 1}, (1.0, 60.0, 1)),
        ({"timeout": "infinity"}, (2.0, -1.0, 3)),
        ({"timeout": "0"}, (2.0, -1.0, 3)),
    ],
)
def test_settings(table: dict[str, Any], settings: tuple[float, float, int]) -> None:
    assert heartbeat_settings({"heartbeat": table}) == settings


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"period": 4}, "error reading [heartbeat] config table"),
        ({"z": 42}, "error reading [heartbeat] config table"),
        ({"period": "zzz"}, "error parsing heartbeat.period FSD value"),
        ({"period": "0"}, "heartbeat.period must be a positive FSD value"),
        ({"timeout": "1s"}, "heartbeat.timeout must be >= 2*heartbeat.period"),
        ({"warn_thresh": -1}, "heartbeat.warn_thresh must be positive"),
    ],
)
def test_settings_that_make_no_sense(table: dict[str, Any], text: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        heartbeat_settings({"heartbeat": table})
    assert text in str(caught.value)

"""Settings: what becomes of a configuration that is given as tables."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from pytest_flux.instance.settings import Settings, SettingsError

CONF: dict[str, Any] = {
    "queues": {"debug": {}, "batch": {"requires": ["b"]}},
    "resource": {
        "noverify": True,
        "config": [{"hosts": "h[0-1]", "cores": "0-3"}, {"hosts": "é", "cores": "0"}],
    },
    "a": {"x": 1.5, "l": [], "b c": {"d.e": {"f=": [[{}]]}}, "s": 'q"u\n[x]', "n": None},
}


def test_every_configuration_arrives() -> None:
    """Empty tables, lists of tables, names with periods."""
    options = [f"--conf={text}" for text in Settings(conf=CONF).spec().conf]
    command = (sys.executable, "-m", "pytest_flux.cli.flux_start", "--broker=embedded", *options)
    read = (sys.executable, "-m", "pytest_flux.cli.flux", "config", "get")
    done = subprocess.run([*command, *read], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == CONF


@pytest.mark.parametrize("conf", [{"a.b": 1}, {"a": {"b": {1, 2}}}, {"a": float("nan")}, {"": 1}])
def test_what_cannot_be_a_configuration(conf: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="conf"):
        Settings(conf=conf).spec()

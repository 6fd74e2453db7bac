"""Instances without pytest: in scripts and notebooks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_flux
from pytest_flux.instance.flux_instance import BindingsError


@pytest.fixture
def outside() -> Iterator[pytest_flux.FluxInstance]:
    with pytest_flux.start(broker="embedded") as flux:
        yield flux


def test_start(outside: pytest_flux.FluxInstance) -> None:
    assert outside.client.size == 1
    assert outside.is_running


def test_start_in_a_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import pytest_flux, sys\n"
        "assert 'pytest' not in sys.modules\n"
        "with pytest_flux.start(size=2, broker='embedded') as flux:\n"
        "    print(flux.client.size, 'pytest' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("2 False\n", "")


def test_wrong_keywords() -> None:
    with pytest.raises(pytest_flux.SettingsError, match="did you mean 'size'"), pytest_flux.start(sise=1):  # type: ignore[call-arg]
        pass


def test_handle_without_bindings(outside: pytest_flux.FluxInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flux", None)
    with pytest.raises(BindingsError, match="no Python bindings of Flux"):
        outside.handle()


def test_broker_handle_outlives_its_instance() -> None:
    with pytest_flux.start(broker="embedded") as flux:
        broker = flux.brokers[0]
        assert broker.is_running
    with pytest.raises(pytest_flux.InstanceError, match="not running"):
        broker.send_signal(0)

"""One body for each part of the bindings, on both sides of both kinds of instances."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_flux import FluxInstance
from tests.bindings.sides import Client

SCRIPT = Path(__file__).parent / "bodies.py"
_PARTS = re.search(r"^PARTS = \[(.*?)\]", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
assert _PARTS is not None


@pytest.mark.parametrize("part", re.findall(r"\w+", _PARTS[1]))
def test_body(instance: FluxInstance, client: Client, part: str) -> None:
    done = client.run(instance, str(SCRIPT), part, client.name)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith('"done"\n')

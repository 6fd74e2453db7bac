"""One body for each part of the bindings, on both sides of both kinds of instances.

Most of them share one interpreter, which costs more to start than they do.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pytest_flux import FluxInstance
from tests.bindings.sides import Client

SCRIPT = Path(__file__).parent / "bodies.py"


def _parts(group: str) -> list[str]:
    """The names in a list of the script, which can only be imported inside of an instance."""
    found = re.search(rf"^{group} = \[(.*?)\]", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    return re.findall(r"\w+", found[1])


def _run(instance: FluxInstance, client: Client, parts: list[str]) -> dict[str, str | None]:
    """What each part raised."""
    done = client.run(instance, str(SCRIPT), client.name, *parts)
    lines = [line for line in done.stdout.splitlines() if line.startswith('["')]
    results = dict(json.loads(line) for line in lines)
    left = [part for part in parts if part not in results]
    return {**results, **dict.fromkeys(left, f"exit code {done.returncode}\n{done.stdout}")}


@pytest.fixture(scope="module")
def shared(instance: FluxInstance, client: Client) -> dict[str, str | None]:
    """What the parts raised that share an interpreter."""
    return _run(instance, client, _parts("TOGETHER"))


@pytest.mark.parametrize("part", _parts("TOGETHER"))
def test_together(shared: dict[str, str | None], part: str) -> None:
    assert shared[part] is None, shared[part]


@pytest.mark.parametrize(
    "part", [*_parts("ALONE"), *(pytest.param(part, marks=pytest.mark.slow) for part in _parts("LONG"))]
)
def test_alone(instance: FluxInstance, client: Client, part: str) -> None:
    raised = _run(instance, client, [part])[part]
    assert raised is None, raised

"""The Python bindings of a real Flux, in an instance of either kind: the same answers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.parity.differences import hide_varying
from tests.parity.sides import on_embedded, on_real

SCRIPT = Path(__file__).parent / "bindings.py"
_PARTS = re.search(r"^PARTS = \((.*)\)$", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)
assert _PARTS is not None


@pytest.mark.system_flux
@pytest.mark.slow
@pytest.mark.parametrize("part", _PARTS[1].split(", "))
def test_the_same_answers(system_flux: str, part: str) -> None:
    script = f"flux python {SCRIPT} {part}; echo exit code $?"
    expected = on_real(system_flux, script)
    assert expected[-1] == "exit code 0", expected
    assert hide_varying(on_embedded(system_flux, script)) == hide_varying(expected)

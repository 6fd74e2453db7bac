"""docs/bindings.rst is what the code and the wheel's header say."""

from __future__ import annotations

import runpy
from pathlib import Path

from tests.bindings.differences import DIFFERENCES

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_page_is_current() -> None:
    render = runpy.run_path(str(DOCS / "bindings.py"))["render"]
    assert (DOCS / "bindings.rst").read_text(encoding="utf-8") == render(), "run: python docs/bindings.py"


def test_page_has_every_difference() -> None:
    head = runpy.run_path(str(DOCS / "bindings.py"))["HEAD"]
    assert head.count("\n* ") - head.count("\n* ``pytest_flux") == len(DIFFERENCES)

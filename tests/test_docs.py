"""docs/ is what the source says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_reference_is_current() -> None:
    render = runpy.run_path(str(DOCS / "reference.py"))["render"]
    assert (DOCS / "reference.rst").read_text(encoding="utf-8") == render(), "run: python docs/reference.py"


def test_index_leads_to_every_page() -> None:
    led_to = set(re.findall(r"<(\w+\.rst)>", (DOCS / "index.rst").read_text(encoding="utf-8")))
    assert led_to == {page.name for page in DOCS.glob("*.rst")} - {"index.rst"}

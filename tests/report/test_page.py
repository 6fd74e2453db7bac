"""The page: complete in one file, and nothing in the data can get out of its place."""

from __future__ import annotations

import html.parser
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_flux.report import page

NASTY = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>&amp;&lt;",
    "\u2028\u2029",
    "\udcff lone",
    "ƒ2oLkTLb",
    "'\"\\",
    "@DATA@ @SCRIPT@",
]


class Scripts(html.parser.HTMLParser):
    """Collects the texts of script elements, and what would be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.loaded: list[str] = []
        self._name: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "script":
            self._name = given.get("id") or "code"
            assert self._name not in self.texts
            self.texts[self._name] = ""
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._name = None

    def handle_data(self, data: str) -> None:
        if self._name is not None:
            self.texts[self._name] += data


def parsed(text: str) -> Scripts:
    scripts = Scripts()
    scripts.feed(text)
    scripts.close()
    return scripts


def data_of(text: str) -> dict[str, Any]:
    """The data of a page."""
    data: dict[str, Any] = json.loads(parsed(text).texts["data"])
    return data


@pytest.mark.parametrize("nasty", NASTY)
def test_data_stay_data(nasty: str) -> None:
    data = {"title": nasty, nasty: [nasty, {"a": nasty}]}
    # What a browser takes for the end of a script is more than what Python's parser does.
    assert not set("<>&") & set(page.encode(data))
    scripts = parsed(page.render(data))
    assert set(scripts.texts) == {"data", "code"}
    assert json.loads(scripts.texts["data"]) == data
    assert scripts.texts["code"].rstrip().endswith("})();")


def test_nothing_is_loaded() -> None:
    text = page.render({})
    assert parsed(text).loaded == ["data:,"]
    assert "default-src 'none'" in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text


def test_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    page.write(str(path), {"title": "one"})
    umask = os.umask(0o022)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    with pytest.raises(TypeError):
        page.write(str(path), {"title": object()})
    assert data_of(path.read_text(encoding="utf-8")) == {"title": "one"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(FileNotFoundError):
        page.write(str(tmp_path / "no" / "page.html"), {})

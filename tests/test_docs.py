"""docs/ says what the source says: pages are linked, and every file and function that they name exists."""

from __future__ import annotations

import ast
import functools
import io
import pydoc
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_flux

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MAP = DOCS / "architecture"
PACKAGE = ROOT / "pytest_flux"
README = ROOT / "README.rst"
SITE = "https://pytest-flux.readthedocs.io"
REPOSITORY = "https://github.com/pytest-flux/pytest-flux"

# ``dir/file.py``, ``dir/file.py:Class.method``, ``dir/``; in a drawing the same without quotes.
_REFERENCE = re.compile(r"``([\w./-]+\.(?:py|rst|dot|toml)(?::[\w.]+)?|\.ci/run|[\w./]*\w/)``")
_DRAWN = re.compile(r"[\w/]+/\w+\.py|[\w/]+/(?=\")")
_MODULE = re.compile(r"``(pytest_flux(?:\.\w+)+)")
_LINK = re.compile(r"<([\w./]+)>`_")


def _pages() -> list[Path]:
    return [*sorted(MAP.glob("*.rst")), ROOT / "CONTRIBUTING.rst"]


def _find(path: str) -> Path | None:
    return next((place / path for place in (PACKAGE, ROOT) if (place / path).exists()), None)


@functools.cache
def _names(path: Path) -> frozenset[str]:
    """What a module defines: ``function``, ``CONSTANT``, ``Class``, ``Class.method``, ``Class.attribute``."""

    def defined(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from defined(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign):
                yield from (prefix + target.id for target in node.targets if isinstance(target, ast.Name))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                yield prefix + node.target.id

    return frozenset(defined(ast.parse(path.read_text(encoding="utf-8")).body, ""))


def _problem(reference: str) -> str | None:
    """Why a reference leads nowhere, and where its name is defined if it has moved."""
    path, _, name = reference.partition(":")
    found = _find(path)
    if found is not None and (not name or name in _names(found)):
        return None
    wanted = name or Path(path).name
    moved = [
        str(other.relative_to(PACKAGE))
        for other in PACKAGE.rglob("*.py")
        if (wanted in _names(other) if name else other.name == wanted)
    ]
    reason = "no such file" if found is None else f"no {name} in it"
    return f"{reference}: {reason}; {wanted} is in {', '.join(moved) or 'no file'}"


def test_reference_is_current() -> None:
    render = runpy.run_path(str(DOCS / "reference.py"))["render"]
    assert (DOCS / "reference.rst").read_text(encoding="utf-8") == render(), "run: python docs/reference.py"


def test_everything_public_is_documented() -> None:
    text = (DOCS / "api.rst").read_text(encoding="utf-8")
    documented = re.findall(r"^\.\. auto\w+:: pytest_flux\.(\w+)$", text, re.MULTILINE)
    assert sorted(documented) == sorted(pytest_flux.__all__)


@pytest.mark.parametrize("index", [DOCS / "index.rst", MAP / "index.rst"], ids=["docs", "architecture"])
def test_index_leads_to_every_page(index: Path) -> None:
    links = set(_LINK.findall(index.read_text(encoding="utf-8")))
    assert {page.name for page in index.parent.glob("*.rst")} - {"index.rst"} <= links


def test_index_leads_to_the_map_and_to_contributing() -> None:
    links = set(_LINK.findall((DOCS / "index.rst").read_text(encoding="utf-8")))
    assert {"architecture/index.rst", "../CONTRIBUTING.rst"} <= links


@pytest.mark.parametrize(
    "page",
    [*DOCS.rglob("*.rst"), *(ROOT / "changes").glob("*.rst"), *ROOT.glob("*.rst")],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_links_lead_somewhere(page: Path) -> None:
    links = _LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_links_of_the_readme_are_absolute_and_lead_somewhere() -> None:
    """PyPI shows the README without the files around it."""
    text = README.read_text(encoding="utf-8")
    assert _LINK.findall(text) == []
    pages = re.findall(rf"<{re.escape(SITE)}/en/latest/([\w/]+)\.html>`_", text)
    files = re.findall(rf"<{re.escape(REPOSITORY)}/blob/main/([\w./]+)>`_", text)
    assert len(pages) > 3
    assert len(files) >= 1
    assert [page for page in pages if not (DOCS / f"{page}.rst").exists()] == []
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_citation_is_of_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {pytest_flux.__version__}\n" in text
    assert f'repository-code: "{REPOSITORY}"' in text


def test_places_are_the_same_everywhere() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'Documentation = "{SITE}"' in project
    assert f'Source = "{REPOSITORY}"' in project
    assert f'FILES = "{REPOSITORY}/blob/main"' in (DOCS / "conf.py").read_text(encoding="utf-8")


def test_readme_renders_on_pypi() -> None:
    renderer = pytest.importorskip("readme_renderer.rst", reason="readme_renderer, of twine, is not installed")
    messages = io.StringIO()
    assert renderer.render(README.read_text(encoding="utf-8"), stream=messages) is not None, messages.getvalue()


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("furo", reason="the extra `docs` is not installed")
    argv = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.stderr == ""
    assert done.returncode == 0
    page = (tmp_path / "api.html").read_text(encoding="utf-8")
    assert 'id="pytest_flux.FluxInstance.submit"' in page
    assert "SubmitKeywords" in page
    index = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="architecture/index.html"' in index
    assert f'href="{REPOSITORY}/blob/main/CONTRIBUTING.rst"' in index


@pytest.mark.parametrize("page", _pages(), ids=lambda page: page.stem)
def test_files_and_functions_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    references = _REFERENCE.findall(text)
    assert references
    assert [problem for reference in references if (problem := _problem(reference))] == []
    assert [name for name in _MODULE.findall(text) if pydoc.locate(name) is None] == []


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("broker/router.py", None),
        ("broker/router.py:Router.request", None),
        ("tests/test_imports.py:MAY_IMPORT", None),
        ("broker/kvs/", None),
        ("broker/nowhere/router.py", "no such file; router.py is in broker/router.py"),
        ("broker/service.py:Router", "no Router in it; Router is in broker/router.py"),
        ("broker/router.py:Router.nothing", "no Router.nothing in it; Router.nothing is in no file"),
    ],
)
def test_what_does_not_exist_is_found(reference: str, problem: str | None) -> None:
    assert _problem(reference) == (problem and f"{reference}: {problem}")


@pytest.mark.parametrize("source", sorted(MAP.glob("*.dot")), ids=lambda source: source.stem)
def test_drawing_is_current_and_shown(source: Path) -> None:
    stamp = runpy.run_path(str(MAP / "draw.py"))["stamp"]
    drawing = source.with_suffix(".svg").read_text(encoding="utf-8")
    assert drawing.startswith(stamp(source.read_bytes())), "run: python docs/architecture/draw.py"
    page = source.with_suffix(".rst").read_text(encoding="utf-8")
    assert f".. image:: {source.stem}.svg\n" in page
    assert f"<{source.name}>`_" in page
    references = _DRAWN.findall(source.read_text(encoding="utf-8").replace("\\n", "\n"))
    assert [problem for reference in references if (problem := _problem(reference))] == []


@pytest.mark.skipif(shutil.which("dot") is None, reason="no Graphviz: `dot` is not on PATH")
@pytest.mark.parametrize("source", sorted(MAP.glob("*.dot")), ids=lambda source: source.stem)
def test_drawing_is_without_mistakes(source: Path) -> None:
    assert "</svg>" in runpy.run_path(str(MAP / "draw.py"))["draw"](source.read_bytes())

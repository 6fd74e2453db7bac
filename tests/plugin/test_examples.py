"""The projects in examples/, and the snippets in docs/, as users run them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SNIPPET = re.compile(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", re.MULTILINE)


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    shutil.copytree(ROOT / "examples" / "project", pytester.path, dirs_exist_ok=True)
    return pytester


def test_project(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("--flux-broker=embedded")
    result.assert_outcomes(passed=14)
    result.stdout.fnmatch_lines(["test_module.py::test_leaves_a_key: two_brokers: KVS key left"])


def test_project_with_workers(project: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    project.runpytest_subprocess("--flux-broker=embedded", "-n4").assert_outcomes(passed=14)


def test_report_of_a_failure(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("--flux-broker=embedded", "failing.py")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*flux: log of rank 0*", "*flux: job ƒ*", "sh: failed, exit code 3", "something is wrong"]
    )


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.rst")), ids=lambda page: page.stem)
def test_snippets(pytester: pytest.Pytester, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that begin with a comment naming a file make up a project; the tests in it pass."""
    files: dict[str, str] = {}
    for match in SNIPPET.finditer(page.read_text(encoding="utf-8")):
        text = re.sub(r"^    ", "", match[1], flags=re.MULTILINE)
        name = re.match(r"# (\S+\.py)\n", text)
        assert name is not None, f"{page.name}: a snippet does not say which file it is: {text[:60]}"
        files[str(name[1])] = files.get(str(name[1]), "") + text
    for file, text in files.items():
        (pytester.path / file).write_text(text, encoding="utf-8")
    if not files:
        return
    scripts = [file for file in files if not file.startswith(("test_", "conftest"))]
    for script in scripts:
        assert pytester.runpython(pytester.path / script).ret == 0
    if any(file.startswith("test_") for file in files):
        if "anyio" in page.read_text(encoding="utf-8"):
            monkeypatch.delenv("PYTEST_ADDOPTS")
        result = pytester.runpytest_subprocess("--flux-broker=embedded")
        assert result.ret == 0

"""One warm instance for each shape, in a run as large as those of users."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Run
from tests.plugin.test_xdist import starts

pytest.importorskip("xdist", reason="pytest-xdist is not installed")
pytest.importorskip("pytest_randomly", reason="pytest-randomly is not installed")

SUITE = """
import pytest

def use(flux):
    assert int(flux.getattr("size")) == flux.size
    assert flux.submit("echo hi").output().stdout == b"hi\\n"
    with open("uris", "a") as file:
        file.write(flux.uri + "\\n")

@pytest.mark.parametrize("number", range(35))
def test_plain(flux_instance, number):
    use(flux_instance)

@pytest.mark.flux(size=2)
@pytest.mark.parametrize("number", range(4))
def test_two(flux_instance, number):
    assert flux_instance.size == 2
    use(flux_instance)

@pytest.mark.flux(size=1)
@pytest.mark.parametrize("number", range(4))
def test_one(flux_instance, number):
    use(flux_instance)

@pytest.mark.flux(attrs={"tbon.topo": "kary:1"})
@pytest.mark.parametrize("number", range(4))
def test_attribute(flux_instance, number):
    assert flux_instance.getattr("tbon.topo") == "kary:1"
    use(flux_instance)

@pytest.mark.flux(personality="job")
@pytest.mark.parametrize("number", range(3))
def test_cores(flux_instance, number):
    use(flux_instance)
"""


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=[pytest.mark.slow, pytest.mark.soak])])
def test_fifty_tests_of_four_shapes(run: Run, pytester: pytest.Pytester, seed: int) -> None:
    arguments = ["-n4", "--flux-shared", "--flux-scope=session", "-p", "pytest_randomly", f"--randomly-seed={seed}"]
    result = run(SUITE, *arguments)
    result.assert_outcomes(passed=50)
    assert len(set((pytester.path / "uris").read_text().split())) == 4
    assert starts(pytester.path) == [1, 1, 1, 1]


def test_without_workers(run: Run, pytester: pytest.Pytester) -> None:
    run(SUITE, "--flux-scope=session", "-p", "pytest_randomly").assert_outcomes(passed=50)
    assert len(set((pytester.path / "uris").read_text().split())) == 4


def test_groups_are_shapes(run: Run) -> None:
    result = run(SUITE, "--flux-scope=session", "-n2", "--dist=loadgroup", "-v")
    result.assert_outcomes(passed=50)
    result.stdout.fnmatch_lines(["*test_two[[]0[]]@size=2,broker=embedded*"])


@pytest.mark.slow
def test_limit_of_shared_instances(run: Run, pytester: pytest.Pytester) -> None:
    """Those that nobody uses make room; beyond the limit there are only those in use."""
    result = run(SUITE, "--flux-shared", "-n2", "--flux-max-instances=1")
    result.assert_outcomes(passed=50)

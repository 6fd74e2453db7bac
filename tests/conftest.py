"""The engines that tests run on, and an environment that knows of no instance around us."""

from __future__ import annotations

import functools
import os
import shutil
from typing import NamedTuple

import hypothesis
import pytest

import pytest_flux

# How long an example takes says something about the machine; time is looked at in benchmarks/.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")

VARIABLE = "PYTEST_FLUX_SYSTEM"
"""Names the `flux` command of the real Flux to test with, where it is not on PATH."""


class SystemFlux(NamedTuple):
    """Where a real Flux is, or why there is none."""

    path: str | None
    reason: str


@functools.cache
def find_system_flux() -> SystemFlux:
    """Look for a real Flux, once. What is not one: the command that embedded instances have on their PATH."""
    named = os.environ.get(VARIABLE)
    if named:
        if os.path.isfile(named) and os.access(named, os.X_OK):
            return SystemFlux(os.path.abspath(named), "")
        raise pytest.UsageError(f"{VARIABLE}={named}: not an executable file")
    search = os.environ.get("PATH", os.defpath)
    package = os.path.dirname(os.path.abspath(pytest_flux.__file__))
    places = [place for place in search.split(os.pathsep) if not os.path.abspath(place).startswith(package)]
    path = shutil.which("flux", path=os.pathsep.join(places))
    reason = f"no real Flux: {VARIABLE} is not set, and no `flux` is on PATH ({search})"
    return SystemFlux(path, "" if path else reason)


LEFT_OUT = (
    *("anyio", "asyncio", "html", "html_fixtures", "hypothesispytest", "metadata", "platformdirs", "pytest_cov"),
    *("randomly", "rerunfailures", "timeout"),
)
"""Plugins that inner sessions of pytest do without, unless they ask for one with `-p`: half of a start is theirs."""


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """pytest's own, whose sessions start sooner and run tests in their order."""
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(f"-p no:{name}" for name in LEFT_OUT))
    return pytester


def pytest_configure() -> None:
    find_system_flux()
    # Whether the tests are started by a launcher or inside of an instance must not show in their results.
    for name in list(os.environ):
        if name.startswith(("FLUX_", "PMI_", "PMIX_")):
            del os.environ[name]


def pytest_runtest_setup(item: pytest.Item) -> None:
    flux = find_system_flux()
    if flux.path is None and item.get_closest_marker("system_flux") is not None:
        pytest.skip(flux.reason)


@pytest.fixture(scope="session")
def system_flux() -> str:
    """The path of a real `flux` command; skips where there is none."""
    flux = find_system_flux()
    if flux.path is None:
        pytest.skip(flux.reason)
    return flux.path


@pytest.fixture(params=["embedded", pytest.param("system", marks=pytest.mark.system_flux)])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """For one body on two engines: a value for ``--broker``, with PATH such that ``system`` is found."""
    name: str = request.param
    if name == "system":
        place = os.path.dirname(request.getfixturevalue("system_flux"))
        monkeypatch.setenv("PATH", place + os.pathsep + os.environ.get("PATH", os.defpath))
    return name

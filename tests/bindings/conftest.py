"""Instances and clients for tests of the bindings; all skip where `flux-python` is not installed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psutil
import pytest

from pytest_flux import FluxInstance, bindings
from tests import leaks
from tests.bindings.sides import Client, c_client, instance_of, our_client

VALIDATOR = "flux-job-validator"


@pytest.fixture(scope="session", autouse=True)
def flux_python() -> str:
    """The version of `flux-python`."""
    try:
        return bindings.check()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=["embedded", pytest.param("system", marks=pytest.mark.system_flux)])
def instance(request: pytest.FixtureRequest) -> Iterator[FluxInstance]:
    """An instance of either kind, for all tests of a module."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "system":
            place = os.path.dirname(request.getfixturevalue("system_flux"))
            patch.setenv("PATH", place + os.pathsep + os.environ.get("PATH", os.defpath))
        with instance_of(request.param) as running:
            yield running


@pytest.fixture(scope="session", params=["ours", pytest.param("c", marks=pytest.mark.system_flux)])
def client(request: pytest.FixtureRequest) -> Client:
    """Our stand-in, or the C module of a real Flux."""
    return our_client() if request.param == "ours" else c_client(request.getfixturevalue("system_flux"))


@pytest.fixture(autouse=True)
def ended_validators(no_leaks: None) -> Iterator[None]:
    """Wait for the validators of a real Flux, which stay for some seconds after the last submission, to end."""
    yield
    ours = [process for process in leaks.find_our_processes(psutil.pids()) if _runs_validator(process)]
    assert not leaks.wait_for_end(ours, 60.0)


def _runs_validator(process: psutil.Process) -> bool:
    try:
        return any(VALIDATOR in word for word in process.cmdline())
    except psutil.Error:
        return False

"""Instances of four brokers of either engine, that the tests of a module share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.jobs.commands import Commands

_SIZE = "-s4"
_PROGRAM = ("sh", "-c", "echo $FLUX_URI; echo $PATH; exec cat")
_ROOT = Path(__file__).parent.parent.parent.parent


class Instance(NamedTuple):
    """The URI of rank 0, and where the `flux` for jobs is found."""

    uri: str
    path: str


def run_instance(command: tuple[str, ...], directory: Path) -> Iterator[Instance]:
    """An instance that is there until the generator goes on."""
    words = [*command, _SIZE, *_PROGRAM]
    environ = {**os.environ, "PYTHONPATH": str(_ROOT)}
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ, cwd=directory
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            uri = process.stdout.readline().strip()
            assert uri.startswith("local://"), "the instance did not start"
            yield Instance(uri, process.stdout.readline().strip())
        finally:
            process.stdin.close()
            process.wait(60)


@pytest.fixture(scope="module", params=["embedded", pytest.param("system", marks=pytest.mark.system_flux)])
def instance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance of either kind."""
    directory = tmp_path_factory.mktemp("instance")
    if request.param == "embedded":
        embedded = (sys.executable, "-m", "pytest_flux.cli.flux_start", "--broker=embedded")
        yield from run_instance(embedded, directory)
    else:
        path: str = request.getfixturevalue("system_flux")
        # Its validators come and go as it likes, which would look as if a test had left them behind.
        command = (path, "start", "--broker-opts=--conf=ingest.validator.disable=true")
        for found in run_instance(command, directory):
            yield found._replace(path=f"{os.path.dirname(path)}:{found.path}")


@pytest.fixture(scope="module")
def uri(instance: Instance) -> str:
    """Rank 0 of it."""
    return instance.uri


@pytest.fixture
def flux(instance: Instance, tmp_path: Path) -> Commands:
    """Our `flux` in that instance, in a directory of the test's own."""
    return Commands((sys.executable, "-m", "pytest_flux.cli.flux"), instance.uri, tmp_path, instance.path)

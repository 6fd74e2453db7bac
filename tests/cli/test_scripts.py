"""Scripts of commands print the same with our `flux` and with the real one, on instances of either kind.

Beside each script is what it prints with the commands of flux-core 0.88 on a real instance.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.jobs.commands import mask
from tests.cli.jobs.conftest import Instance, instance  # noqa: F401, a fixture

_SCRIPTS = Path(__file__).parent / "data" / "scripts"
_ROOT = Path(__file__).parent.parent.parent
_PRELUDE = 'r() { echo "-- $*"; "$@" 2>&1; echo "= $?"; }\n'
_TIMEOUT = 120

_MASKS = (
    (r" +[0-9.]+[sm] ", " T "),
    (r" +[0-9]:[0-9]{2}:[0-9]{2} ", " T "),
)


def run_script(name: str, flux: Instance, directory: Path, place: str) -> list[str]:
    """Run a script with the `flux` in ``place``, and return what it prints, without what no two runs share."""
    directory.mkdir()
    environ = {
        **os.environ,
        "FLUX_URI": flux.uri,
        "PATH": f"{place}:{flux.path}",
        "PYTHONPATH": str(_ROOT),
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        ["bash", "-c", _PRELUDE + (_SCRIPTS / name).read_text()],
        env=environ,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_TIMEOUT,
        check=False,
    )
    text = done.stdout.decode("utf-8", "replace").replace(str(directory), "DIRECTORY")
    for pattern, replacement in _MASKS:
        text = re.sub(pattern, replacement, text)
    return mask(text).splitlines()


@pytest.fixture
def ours(tmp_path: Path) -> str:
    """A directory with our `flux`."""
    place = tmp_path / "bin"
    place.mkdir()
    script = place / "flux"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m pytest_flux.cli.flux "$@"\n')
    script.chmod(0o755)
    return str(place)


def expected(name: str) -> list[str]:
    """Return what flux-core 0.88 prints."""
    return (_SCRIPTS / name).with_suffix(".out").read_text().splitlines()


_NAMES = sorted(path.name for path in _SCRIPTS.glob("*.sh"))


@pytest.mark.parametrize("name", _NAMES)
def test_our_commands_print_what_the_real_ones_do(
    name: str,
    instance: Instance,  # noqa: F811
    ours: str,
    tmp_path: Path,
) -> None:
    assert run_script(name, instance, tmp_path / "ours", ours) == expected(name)


@pytest.mark.system_flux
@pytest.mark.parametrize("name", _NAMES)
def test_the_real_commands_print_it(
    name: str,
    instance: Instance,  # noqa: F811
    system_flux: str,
    tmp_path: Path,
) -> None:
    assert run_script(name, instance, tmp_path / "real", os.path.dirname(system_flux)) == expected(name)

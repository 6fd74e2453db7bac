"""Embedded instances that are started in surroundings as users have them at their worst."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import pytest_flux

ROOT = os.path.dirname(os.path.dirname(pytest_flux.__file__))
START = "import sys; sys.path.insert(0, {!r}); from pytest_flux.cli.flux_start import main; sys.exit(main())"
PROGRAM = "flux getattr size && flux exec -r all flux getattr rank | sort"
EXPECTED = "2\n0\n1\n"
STDLIB = ("json", "os", "re", "selectors", "signal", "socket", "typing")


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory with a short path. Nothing may be left in it."""
    with tempfile.TemporaryDirectory(prefix="sur-", dir="/tmp") as path:
        yield Path(path)


def run(
    *options: str,
    program: str = PROGRAM,
    cwd: Path | None = None,
    environ: dict[str, str] | None = None,
    before: Callable[[], object] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run an instance of two brokers; ``environ`` is all that there is, with PATH."""
    return subprocess.run(
        [sys.executable, "-I", "-c", START.format(ROOT), "--broker=embedded", "-s2", *options, "sh", "-c", program],
        cwd=cwd,
        env={"PATH": os.defpath, **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=before,
    )


@pytest.mark.parametrize("name", ["with a blank", "ünï", "it's $HOME", "x" * 200, "."])
def test_places_for_temporary_files(place: Path, name: str) -> None:
    (place / name).mkdir(exist_ok=True)
    # A relative one must do for programs that go elsewhere.
    done = run(program=f"cd /; {PROGRAM}", cwd=place, environ={"TMPDIR": name, "LC_ALL": "C"})
    assert (done.stdout, done.stderr) == (EXPECTED, "")
    assert os.listdir(place / name) in ([], ["."])


@pytest.mark.parametrize("mask", [0, 0o077])
def test_umasks(mask: int) -> None:
    done = run(before=partial(os.umask, mask))
    assert (done.stdout, done.stderr) == (EXPECTED, "")


def test_modules_in_the_current_directory_are_not_imported(place: Path) -> None:
    for name in STDLIB:
        (place / f"{name}.py").write_text("raise SystemExit('trapped')")
    done = run(cwd=place)
    assert (done.stdout, done.stderr) == (EXPECTED, "")


def test_current_directory_that_goes_away(place: Path) -> None:
    (place / "gone").mkdir()
    done = run(program=f"rmdir {place}/gone; flux getattr size", cwd=place / "gone")
    assert (done.stdout, done.stderr) == ("2\n", "")


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_standard_streams(place: Path, closed: tuple[int, ...]) -> None:
    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    done = run(program=f"({PROGRAM}) > {place}/out 2> {place}/err", before=close)
    assert done.returncode == 0
    assert ((place / "out").read_text(), (place / "err").read_text()) == (EXPECTED, "")


def test_few_open_files() -> None:
    done = run(before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (68, 68)))
    assert (done.stdout, done.stderr) == (EXPECTED, "")


def test_an_instance_around_it() -> None:
    inner = f"FLUX_URI=local:///nowhere {sys.executable} -I -c '{START.format(ROOT)}' -s2 sh -c '{PROGRAM}'"
    done = run(program=inner.replace(f"'{ROOT}'", f'"{ROOT}"'))
    assert (done.stdout, done.stderr) == (EXPECTED, "")


def test_reader_that_leaves() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run(program="yes", before=partial(os.dup2, writer, 1))
    os.close(writer)
    assert done.returncode == 141
    assert "(rc=141)" in done.stderr

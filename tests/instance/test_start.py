"""pytest_flux.start() in programs: with and without a with statement, and in unusual surroundings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(program: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=cwd,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        errors="backslashreplace",
    )


def test_stop_and_end_of_the_program(tmp_path: Path) -> None:
    done = run(
        """
import os, pytest_flux
first = pytest_flux.start(broker="embedded")
second = pytest_flux.start(size=2, broker="embedded")
print(first.submit("echo hi").output().stdout, second)
first.stop()
assert not first.is_running and second.is_running
print(second.rundir, flush=True)
if os.fork() == 0:
    raise SystemExit(0)
os.wait()
assert second.run("flux getattr size").stdout == "2\\n"
""",
        tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("b'hi\\n' <FluxInstance size=2, broker='embedded', at local://")
    assert not os.path.exists(done.stdout.split()[-1])


def test_ascii_locale(tmp_path: Path) -> None:
    done = run(
        """
import pytest_flux
with pytest_flux.start(broker="embedded") as flux:
    job = flux.submit(["sh", "-c", "printf '\\\\303\\\\244\\\\n'; sleep 100"])
    job.wait_event("start")
    flux.kvs.put("a", "\\u0192")
    assert flux.kvs.get_text("a") == "\\u0192"
    try:
        job.result(0.2)
    except TimeoutError as error:
        print(ascii(str(error).splitlines()[0]))
    print(job.id)
    print(flux.run("echo hi").stdout)
    flux.job(job.id).cancel()
""",
        tmp_path,
        LC_ALL="C",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "hi" in done.stdout


def test_deleted_directory(tmp_path: Path) -> None:
    done = run(
        """
import os, pytest_flux
os.mkdir("gone")
os.chdir("gone")
os.rmdir("../gone")
with pytest_flux.start(broker="embedded") as flux:
    try:
        flux.submit("pwd")
    except FileNotFoundError as error:
        print(error)
    print(flux.submit("pwd", cwd="/").output().stdout)
""",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "submit(): the working directory of this process has been deleted: give cwd=",
        "b'/\\n'",
    ]


@pytest.mark.parametrize(
    ("conf", "told"),
    [
        ("{'queue': {}}", "unknown table 'queue': did you mean 'queues'?"),
        ("{'queues': 1}", "queues=1: a table is expected"),
        ("{'queues': {'a': 1}}", "queues.a=1: a table is expected"),
        ("{'resource': {'norverify': True}}", "unknown key resource.norverify: did you mean 'noverify'?"),
        ("{'resource': {'noverify': 1}}", "resource.noverify=1: true or false is expected"),
        ("{'kvs': {'gc-threshold': True}}", "kvs.gc-threshold=True: an integer is expected"),
    ],
)
def test_wrong_configuration(conf: str, told: str) -> None:
    import pytest_flux

    with pytest.raises(pytest_flux.SettingsError) as caught:
        pytest_flux.Settings(conf=eval(conf))
    assert told in str(caught.value)
    pytest_flux.Settings(conf={"a": {"b": 1}, "queues": {"debug": {"requires": ["x"]}}, "rabbit": {"x": 1}})


def test_boot_that_times_out_says_how_far_each_rank_got(tmp_path: Path) -> None:
    import pytest_flux

    attrs = {"broker.rc1_path": "sleep 100"}
    with pytest.raises(pytest_flux.InstanceError) as caught:
        pytest_flux.start(size=3, broker="embedded", attrs=attrs, timeout=3)
    lines = str(caught.value).splitlines()
    assert lines[0] == "instance of 3 brokers: not running after 3 s; for more time: timeout=6"
    assert lines[1] == "rank 0: in state init"
    assert lines[2].startswith("ranks 1-2: ")

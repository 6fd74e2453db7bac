"""Instances that something else has started, or that outlive a run; hooks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_flux
from tests.plugin.conftest import Run

TEST = """
import pytest

def test(flux_instance):
    open("uris", "a").write(flux_instance.uri + "\\n")
    assert flux_instance.run("flux getattr size").stdout == "1\\n"
"""


@pytest.fixture
def outside() -> Iterator[pytest_flux.FluxInstance]:
    with pytest_flux.start(broker="embedded") as flux:
        yield flux


def test_uri_and_attach(
    run: Run, pytester: pytest.Pytester, outside: pytest_flux.FluxInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(TEST, f"--flux-uri={outside.uri}").assert_outcomes(passed=1)
    monkeypatch.setenv("FLUX_URI", outside.uri)
    result = run(TEST, "--flux-attach")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"flux: the instance at {outside.uri}"])
    assert set((pytester.path / "uris").read_text().split()) == {outside.uri}
    assert outside.client.size == 1


def test_what_would_harm_an_attached_instance_is_refused(run: Run, outside: pytest_flux.FluxInstance) -> None:
    result = run(
        """
        import pytest

        def test_brokers(flux_instance):
            with pytest.raises(Exception, match="was not started for tests"):
                flux_instance.brokers

        def test_factory(flux_instance_factory):
            flux_instance_factory()

        @pytest.mark.flux(size=2)
        def test_size(flux_instance): pass
        """,
        f"--flux-uri={outside.uri}",
        "-rs",
    )
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["*size=2 is asked for, and the instance at * is what it is (size 1)"])


def test_keep_alive_and_sweep(run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    run(TEST, "--flux-keep-alive").assert_outcomes(passed=1)
    run(TEST, "--flux-keep-alive").assert_outcomes(passed=1)
    first, second = (pytester.path / "uris").read_text().split()
    assert first == second
    rundir = os.path.dirname(first.removeprefix("local://"))
    assert os.path.isdir(rundir)
    result = run("", "--flux-sweep")
    result.stdout.fnmatch_lines([f"instance at {first}: stopped"])
    assert not os.path.exists(rundir)


def test_what_is_kept_alive_is_put_right_at_hand_over(run: Run, pytester: pytest.Pytester) -> None:
    source = """
        import pytest

        @pytest.mark.parametrize("number", range(2))
        def test(flux_instance, number):
            flux = flux_instance
            assert flux.client.jobs.list() == []
            assert not flux.kvs.exists("left")
            assert flux.rpc("job-manager.queue-status")["start"]
            flux.kvs.put("left", "1")
            flux.submit(["sleep", "1000"]).wait_event("start")
            flux.run("flux queue stop -a", check=True)
            open("uris", "a").write(flux.uri + "\\n")
    """
    try:
        for _ in range(2):
            result = run(source, "--flux-keep-alive")
            result.assert_outcomes(passed=2)
        (uri,) = set((pytester.path / "uris").read_text().split())
        result.stdout.fnmatch_lines(
            [
                "*flux: kept alive for the next run*",
                f"{uri}  (broker='embedded')",
                f"  attach: *flux-start --attach {uri}",
                "  end all: pytest --flux-sweep",
            ]
        )
        command = [sys.executable, "-m", "pytest_flux.cli.flux_start"]
        pid = subprocess.check_output([*command, "--attach", uri, "flux", "getattr", "broker.pid"], text=True)
        for target in (pid.strip(), "last"):
            done = subprocess.run(
                [*command, "--attach", target, "sh", "-c", "echo $FLUX_URI; exit 7"], capture_output=True, text=True
            )
            assert (done.returncode, done.stderr) == (7, "")
            assert done.stdout == f"{uri}\n" or target == "last"
    finally:
        run("", "--flux-sweep")


def test_attach_says_what_it_cannot_find() -> None:
    command = [sys.executable, "-m", "pytest_flux.cli.flux_start", "--attach"]
    for target, told in (
        ("local:///nonexistent/local-0", "No such file or directory"),
        ("999999999", "there is no such process"),
        ("ftp:x", "No plugin for URI scheme ftp"),
    ):
        done = subprocess.run([*command, target, "true"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"--attach={target}: {told}" in done.stderr
    done = subprocess.run([*command, "last", "-s2"], capture_output=True, text=True)
    assert "--attach starts no instance, and excludes --test-size" in done.stderr


def test_kept_instance_that_is_broken_is_replaced(run: Run, pytester: pytest.Pytester) -> None:
    source = """
        import pytest

        @pytest.mark.flux(size=2)
        @pytest.mark.parametrize("number", range(2))
        def test(flux_instance, number):
            assert flux_instance.client.size == 2
            flux_instance.brokers[1].kill()
            flux_instance.wait_status("degraded")
    """
    try:
        run(source, "--flux-keep-alive").assert_outcomes(passed=2)
    finally:
        run("", "--flux-sweep")


def test_sweep_leaves_what_was_kept_on_purpose(run: Run, pytester: pytest.Pytester) -> None:
    result = run("def test(flux_instance): open('rundir', 'w').write(flux_instance.rundir)\n", "--flux-keep=all")
    result.assert_outcomes(passed=1)
    rundir = (pytester.path / "rundir").read_text()
    assert rundir not in run("", "--flux-sweep").stdout.str()
    assert os.path.exists(f"{rundir}/log")
    run("", "--flux-sweep=all").stdout.fnmatch_lines([f"directory {rundir}: removed"])
    assert not os.path.exists(rundir)
    result = run("", "--flux-sweep=al")
    result.stderr.fnmatch_lines(["ERROR: --flux-sweep=al: did you mean --flux-sweep=all?"])


def test_debugger_shows_how_to_attach(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it="def test(flux_instance): assert False\n")
    command = [sys.executable, "-m", "pytest", "--flux-broker=embedded", "--pdb", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=pytester.path, input="q\n", capture_output=True, text=True)
    assert "flux: flux_instance: " in done.stdout
    assert "flux-start --attach local://" in done.stdout


def test_sweep_removes_only_what_is_ours(run: Run, pytester: pytest.Pytester) -> None:
    import json
    import tempfile

    ours, others = (Path(tempfile.mkdtemp(prefix="flux-")) for _ in range(2))
    ended = subprocess.Popen(["true"])
    ended.wait()
    (ours / ".pytest-flux").write_text(json.dumps({"pid": ended.pid, "created": 1.0, "rundir": str(ours)}))
    environ = {**os.environ, "FLUX_START_URI": f"local://{ours}/start"}
    orphan = subprocess.Popen(["sleep", "1000"], env=environ)
    result = run("", "--flux-sweep")
    result.stdout.fnmatch_lines([f"process {orphan.pid} (sleep): killed", f"directory {ours}: removed"])
    assert orphan.wait(5) == -9
    assert (ours.exists(), others.exists()) == (False, True)
    others.rmdir()


def test_hooks(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import dataclasses
        from pytest_flux.launcher.engine import EMBEDDED_BROKER

        def pytest_flux_settings(settings, nodeid):
            if "test_two" in nodeid:
                return dataclasses.replace(settings, size=2)

        def pytest_flux_engine(broker):
            return EMBEDDED_BROKER if broker == "mine" else None

        def pytest_flux_instance_started(instance, nodeid): print("started", instance.size, nodeid)
        def pytest_flux_instance_failed(settings, error, nodeid): print("failed", settings.timeout, nodeid)
        def pytest_flux_instance_stopped(instance, error, nodeid): print("stopped", error, nodeid)
        """
    )
    result = run(
        """
        import pytest

        def test_two(flux_instance): assert flux_instance.client.size == 2

        @pytest.mark.flux(broker="mine")
        def test_engine(flux_instance): assert flux_instance.client.size == 1

        @pytest.mark.flux(attrs={"broker.rc1_path": "false"}, timeout=30)
        def test_fails(flux_instance): pass

        @pytest.mark.flux(broker="yours")
        def test_unknown(flux_instance): pass
        """,
        "-s",
    )
    result.assert_outcomes(passed=2, errors=2)
    for line in ("started 2 *test_two", "failed 30* *test_fails", "stopped None *test_two"):
        result.stdout.fnmatch_lines([f"*{line}*"])
    result.stdout.fnmatch_lines(["*broker='yours': known are auto, system, embedded*"])

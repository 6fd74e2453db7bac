"""`flux clock`, `flux-start --clock` and other commands in an instance whose time is moved."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pytest_flux import flux_instance
from pytest_flux.instance.flux_instance import FluxInstance
from pytest_flux.launcher.command import broker_argv
from pytest_flux.launcher.engine import Engine, find_engine
from pytest_flux.launcher.spec import LaunchError, LaunchSpec, validate

instance = flux_instance(broker="embedded", clock="manual", scope="module")


def clock(instance: FluxInstance, words: str) -> str:
    done = instance.run(f"flux clock {words}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_now_advance_and_mode(instance: FluxInstance) -> None:
    assert clock(instance, "now") == "2000-01-01T00:00:00+00:00\n"
    assert clock(instance, "now --raw") == "946684800.000000\n"
    assert clock(instance, "advance 36h") == "2000-01-02T12:00:00+00:00\n"
    assert clock(instance, "advance 2000-01-03T00:00+00:00") == "2000-01-03T00:00:00+00:00\n"
    instance.submit_mock("30m")
    assert clock(instance, "advance --next") == "2000-01-03T00:30:00+00:00\n"
    assert clock(instance, "mode") == "manual\n"


def test_errors(instance: FluxInstance) -> None:
    for words, text in (
        ("advance -n", "nothing is due"),
        ("advance tomorrowish", "a duration such as 8h"),
        ("advance 1999-01-01", "time does not go back"),
        ("mode fast", "'fast'"),
        ("now then", "Usage: flux clock now"),
    ):
        done = instance.run(f"flux clock {words}")
        assert done.returncode == 1
        assert text in done.stderr, words


def test_other_commands_show_the_time_of_the_instance(instance: FluxInstance) -> None:
    job = instance.submit(["sleep", "inf"], time_limit="3h")
    job.wait_event("start")
    instance.clock.advance("1h")
    assert instance.run("flux jobs -no {runtime:.1f},{t_remaining:.1f}").stdout == "3600.0,7200.0\n"
    assert instance.run(f"flux job timeleft {job.id}").stdout == "7200\n"
    assert instance.run("flux uptime").stdout.split()[0] == instance.clock.now().astimezone().strftime("%H:%M:%S")
    job.cancel()
    late = instance.job(instance.run("flux submit --mock=1h --begin-time=+2h", check=True).stdout.strip())
    assert instance.clock.next_event() == instance.clock.now() + timedelta(hours=2)
    instance.clock.advance("3h")
    assert late.result().succeeded


def test_mock_jobs(instance: FluxInstance) -> None:
    done = instance.run("flux submit --mock=10s,status=3 && flux submit --mock=1d,exception=run", check=True)
    jobs = [instance.job(text) for text in done.stdout.split()]
    instance.clock.advance("10s")
    assert jobs[0].result().exit_code == 3
    assert jobs[1].result().name == "FAILED"
    for words, text in (
        ("--mock=10s,code=3", "'code=3': status=N or exception=init|run is expected"),
        ("--mock=0s", "more than 0 seconds"),
        ("--mock=1s,status=300", "from 0 to 255"),
        ("--mock=1s,exception=never", "'init' or 'run'"),
    ):
        done = instance.run(f"flux submit {words}")
        assert done.returncode == 1
        assert text in done.stderr


def test_the_launcher_checks_the_mode_and_the_engine() -> None:
    with pytest.raises(LaunchError, match="--clock=slow: manual or auto is expected"):
        validate(LaunchSpec(size=1, clock="slow"))
    spec = LaunchSpec(size=1, clock="auto")
    assert "-Sclock.mode=auto" in broker_argv(spec, find_engine("embedded", {}), 0, "/nonexistent")
    with pytest.raises(LaunchError, match="no real Flux can stop or move its time"):
        broker_argv(spec, Engine("system", "/usr/libexec/flux/cmd/flux-broker", {}), 0, "/nonexistent")


def test_a_test_is_skipped_with_a_real_flux(pytester: pytest.Pytester, tmp_path: Path) -> None:
    broker = tmp_path / "flux-broker"
    broker.write_text("#!/bin/sh\nexit 1\n")
    broker.chmod(0o755)
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.flux(clock="manual")
        def test_it(flux_instance):
            raise AssertionError
        """
    )
    result = pytester.runpytest_subprocess(f"--flux-broker={broker}", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*clock='manual': no real Flux can stop or move its time*"])

"""The plugin as users meet it: pytest run inside pytest."""

from __future__ import annotations

import pytest

from tests.conftest import find_system_flux


def test_fixture_gives_a_running_instance(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os, subprocess

        def test_instance(flux_instance):
            assert flux_instance.size == 1
            assert flux_instance.getattr("size") == "1"
            assert flux_instance.uri == flux_instance.getattr("local-uri")
            assert os.path.isdir(flux_instance.rundir)
            assert flux_instance.rpc("state-machine.get")["state"] == "run"
            done = flux_instance.run(["flux", "getattr", "rank"])
            assert (done.returncode, done.stdout) == (0, "0\\n")
            assert flux_instance.env["FLUX_URI"] == flux_instance.uri
        """
    )
    pytester.runpytest_subprocess("--flux-broker=embedded").assert_outcomes(passed=1)


def test_marker_beats_command_line_beats_ini(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nflux_size = 3\nflux_broker = embedded\n")
    pytester.makepyfile(
        """
        import pytest

        def test_run(flux_instance):
            assert flux_instance.getattr("size") == SIZE

        @pytest.mark.flux(size=1, attrs={"tbon.topo": "kary:1"}, conf={"a": {"b": [1, "x"]}})
        def test_marked(flux_instance):
            assert flux_instance.getattr("size") == "1"
            assert flux_instance.getattr("tbon.topo") == "kary:1"
            assert flux_instance.rpc("config.get") == {"a": {"b": [1, "x"]}}
        """.replace("SIZE", "__import__('os').environ['SIZE']")
    )
    for arguments, size in (((), "3"), (("--flux-size=2",), "2")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SIZE", size)
            pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=2)


def test_every_rank_answers_by_rank(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.flux(size=3)
        def test_ranks(flux_instance):
            ranks = [flux_instance.rpc("attr.get", {"name": "rank"}, rank=rank)["value"] for rank in range(3)]
            assert ranks == ["0", "1", "2"]
        """
    )
    pytester.runpytest_subprocess("--flux-broker=embedded").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("siez=4", "unknown keyword 'siez': did you mean 'size'?"),
        ("size=0", "size=0: a number of brokers, at least 1"),
        ("size='4'", "size='4': a number of brokers"),
    ],
)
def test_wrong_marker_is_a_usage_error(pytester: pytest.Pytester, marker: str, message: str) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.flux({marker})\ndef test(flux_instance): pass\n")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{message.replace('[', '[[]')}*"])


def test_failed_boot_shows_the_log_of_each_rank(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.flux(size=2, attrs={"broker.rc1_path": "echo on the way; exit 9"})
        def test(flux_instance): pass
        """
    )
    result = pytester.runpytest_subprocess("--flux-broker=embedded")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*InstanceError: instance of 2 brokers:*", "*--- rank 0 ---", "*on the way*"])
    assert "broker.err[0]: rc1.0: echo on the way; exit 9 Exited (rc=9)" in result.stdout.str()


def test_instance_that_dies_is_an_error_of_its_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os, signal

        def test(flux_instance):
            os.kill(int(flux_instance.getattr("broker.pid")), signal.SIGKILL)
        """
    )
    result = pytester.runpytest_subprocess("--flux-broker=embedded")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*InstanceError: instance of 1 brokers ended: rank 0 with exit code 137"])


@pytest.mark.system_flux
def test_real_broker_is_used_where_there_is_one(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, system_flux: str
) -> None:
    path = find_system_flux().path
    assert path is not None
    monkeypatch.setenv("PATH", f"{path.rpartition('/')[0]}:/usr/bin:/bin")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.flux(size=2)
        def test(flux_instance):
            assert flux_instance.run("flux run -N2 echo real").stdout == "real\\nreal\\n"
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)

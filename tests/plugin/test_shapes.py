"""What instances are like: markers, lists, parameters, fixtures of one's own, settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.conftest import Run


def test_nearest_marker_wins_and_others_fill_in(run: Run) -> None:
    result = run(
        """
        import pytest

        pytestmark = pytest.mark.flux(size=2, attrs={"tbon.topo": "kary:1"})

        def test_module(flux_instance):
            assert (flux_instance.size, flux_instance.getattr("tbon.topo")) == (2, "kary:1")

        @pytest.mark.flux(size=3)
        class TestClass:
            def test_class(self, flux_instance):
                assert (flux_instance.client.size, flux_instance.getattr("tbon.topo")) == (3, "kary:1")

            @pytest.mark.flux(size=1)
            def test_own(self, flux_instance):
                assert flux_instance.client.size == 1
        """
    )
    result.assert_outcomes(passed=3)


def test_lists_multiply_with_readable_ids(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.flux(size=[1, 2], conf=[{}, {"a": {"b": 1}}])
        def test(flux_instance):
            print("shape", flux_instance.client.size, flux_instance.rpc("config.get"))
        """,
        "-v",
        "-rP",
    )
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*::test[[]size=1-conf=none] *", "*::test[[]size=2-conf=a:b:1] *"])
    result.stdout.fnmatch_lines(["shape 1 {}", "shape 2 {'a': {'b': 1}}"])


def test_indirect_parameters(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.parametrize("flux_instance", [1, {"size": 2}], indirect=True)
        def test(flux_instance):
            assert flux_instance.client.size == flux_instance.size
        """,
        "-v",
    )
    result.assert_outcomes(passed=2)


def test_factory_makes_several_at_once(run: Run) -> None:
    result = run(
        """
        import os

        def test(flux_instance_factory):
            one, two = flux_instance_factory(), flux_instance_factory(size=2)
            assert (one.client.size, two.client.size) == (1, 2)
            assert one.uri != two.uri
            open("rundirs", "w").write(one.rundir + " " + two.rundir)

        def test_gone(flux_instance):
            assert not any(map(os.path.exists, open("rundirs").read().split()))
        """
    )
    # Stops are waited for at the end of the run at the latest, and these two are quick.
    assert result.parseoutcomes()["passed"] >= 1


def test_fixtures_of_ones_own(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest_flux

        two = pytest_flux.flux_instance(size=2, scope="module")
        grid = pytest_flux.flux_instance(size=[1, 2])
        """
    )
    result = run(
        """
        import pytest

        @pytest.fixture(scope="module")
        def uri(two):
            return two.uri

        @pytest.mark.flux(size=1)
        def test_call_beats_marker(two, uri):
            assert two.client.size == 2 and two.uri == uri

        def test_same(two, uri):
            assert two.uri == uri

        def test_grid(grid):
            assert grid.client.size == grid.size
        """,
        "-v",
    )
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*::test_grid[[]size=1] *", "*::test_grid[[]size=2] *"])


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("siez=4", "unknown keyword 'siez': did you mean 'size'?"),
        ("personality='ful'", "personality='ful': did you mean 'full'?"),
        ("start_mode='leeder'", "start_mode='leeder': did you mean 'leader'?"),
        ("hosts='a,b', size=3", "hosts='a,b', size=3: that is 2 hosts: did you mean size=2?"),
        ("exit_timeout=-1", "exit_timeout=-1: a number of seconds is expected"),
        ("attrs=1", "attrs=1: a mapping is expected"),
        ("size=[]", "size=[[]]: an empty list leaves no test"),
        ("4", "pytest.mark.flux takes keywords only"),
        ("personality='system', rundir='/tmp/x'", "personality='system'"),
    ],
)
def test_wrong_markers_are_usage_errors(run: Run, marker: str, message: str) -> None:
    result = run(f"import pytest\n@pytest.mark.flux({marker})\ndef test(flux_instance): pass\n")
    assert result.ret != 0
    assert "passed" not in result.parseoutcomes()
    result.stdout.fnmatch_lines([f"*UsageError: *{message}*"])


def test_wrong_calls_are_usage_errors(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import pytest_flux\nfour = pytest_flux.flux_instance(seize=4)\n")
    result = run("def test(four): pass\n")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "unknown keyword 'seize': did you mean 'size'?" in result.stderr.str() + result.stdout.str()


def test_one_marker_and_one_parametrization_exclude_each_other(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.flux(size=[1, 2])
        @pytest.mark.parametrize("flux_instance", [1], indirect=True)
        def test(flux_instance): pass
        """
    )
    result.stdout.fnmatch_lines(["*size=[[]1, 2] and parametrize('flux_instance'): one of the two*"])


def test_settings_are_shown_with_their_origins(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nflux_size = 3\nflux_timeout = 5\n")
    result = run("", "--flux-timeout=7", "--flux-show-config")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "flux_size = 3 *(ini)",
            "flux_broker = embedded *(command line)",
            "flux_timeout = 7.0 *(command line)",
            "flux_scope = function *(default)",
        ]
    )


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--flux-size=many", "--flux-size, flux_size: 'many': a number is expected"),
        ("--flux-size=0", "flux: settings: size=0: a number of brokers, at least 1, is expected"),
        (
            "--flux-personality=fool",
            "--flux-personality, *'fool': one of full, job, minimal, kvs, system *",
        ),
        (
            "--flux-scope=modul",
            "--flux-scope, *'modul': one of function, class, module, package, session *",
        ),
        ("--flux-prestart=-1", "--flux-prestart, *'-1': a number that is not negative is expected"),
        ("--override-ini=flux_strict=ja", "--flux-strict, flux_strict: 'ja': true or false is expected"),
    ],
)
def test_wrong_options_are_usage_errors(run: Run, argument: str, told: str) -> None:
    result = run("def test(flux_instance): pass\n", "-q", argument)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {told}"])


def test_ids_of_parameters_can_be_read(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.parametrize("flux_instance", [1, {"size": 4, "personality": "job"}], indirect=True)
        def test(flux_instance): pass
        """,
        "--collect-only",
        "-q",
    )
    result.stdout.fnmatch_lines(["test_it.py::test[[]1]", "test_it.py::test[[]size=4-personality=job]"])


def test_errors_of_users_are_not_explained_with_our_source(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.flux(attrs={"broker.rc1_path": "exit 7"})
        def test_setup(flux_instance): pass

        def test_call(flux_instance_factory):
            flux_instance_factory(sise=4)
        """
    )
    result.assert_outcomes(failed=1, errors=1)
    result.stdout.no_fnmatch_line("*pytest_flux/*.py:*")
    result.stdout.fnmatch_lines(["E *InstanceError: * exit code 7 before it was up", "E *did you mean 'size'?"])


@pytest.mark.parametrize("personality", ["full", "job", "minimal", "kvs", "system"])
def test_personalities(run: Run, personality: str) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.flux(size=2)
        def test(flux_instance):
            flux = flux_instance
            assert flux.rpc("state-machine.get")["state"] == "run"
            personality = flux.settings.personality
            if personality in ("full", "job"):
                assert flux.submit(["printenv", "FLUX_JOB_NNODES"], nodes=2, tasks=2).output().stdout == b"2\\n" * 2
            if personality == "job":
                assert flux.resources["R"]["execution"]["R_lite"][0]["children"]["core"] == "0-1"
            if personality == "kvs":
                flux.kvs.put("a", "1")
                assert flux.kvs.get("a") == b"1"
            if personality == "system":
                assert flux.getattr("hostlist") == "fake[0-1]"
                assert flux.getattr("broker.boot-method") == "config"
        """,
        f"--flux-personality={personality}",
    )
    result.assert_outcomes(passed=1)


def test_rundir_hosts_wrap_and_recovery(run: Run, tmp_path: Path) -> None:
    result = run(
        """
        import os, tempfile, pytest

        def test(flux_instance_factory):
            rundir = tempfile.mktemp(prefix="rd-", dir="/tmp")
            flux = flux_instance_factory(rundir=rundir, hosts="a,b", wrap="env,WRAPPED=1")
            assert flux.rundir == rundir
            assert flux.getattr("hostlist") == "a,b"
            assert flux.env["WRAPPED"] == "1"

        def test_recovery(flux_instance_factory, tmp_path):
            flux = flux_instance_factory(attrs={"statedir": str(tmp_path)})
            flux.kvs.put("kept", "1")
            flux.stop()
            again = flux_instance_factory(recovery=tmp_path)
            assert again.kvs.get("kept") == b"1"
        """
    )
    result.assert_outcomes(passed=2)


@pytest.mark.skipif(pytest.version_tuple < (9, 0), reason="TOML files have types since pytest 9")
def test_toml_with_types(run: Run, pytester: pytest.Pytester) -> None:
    (pytester.path / "pyproject.toml").write_text(
        "[tool.pytest]\nflux_size = 2\nflux_strict = true\nflux_shared = false\nflux_timeout = 30.5\n"
        'flux_exit_timeout = 5\nflux_attr = ["tbon.topo=kary:1"]\nflux_conf = ["queues.debug={}"]\n'
    )
    source = """
        def test(flux_instance):
            assert flux_instance.size == 2 and flux_instance.settings.timeout == 30.5
            assert flux_instance.settings.exit_timeout == 5.0
            assert flux_instance.getattr("tbon.topo") == "kary:1"
            assert flux_instance.rpc("config.get") == {"queues": {"debug": {}}}
    """
    run(source).assert_outcomes(passed=1)
    result = run(source, "--flux-show-config")
    result.stdout.fnmatch_lines(["flux_size = 2 *(ini)", "flux_strict = True *(ini)", "flux_timeout = 30.5 *(ini)"])
    (pytester.path / "pyproject.toml").write_text('[tool.pytest]\nflux_size = "two"\n')
    result = run(source)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --flux-size, flux_size: 'two': a number is expected"])


def test_values_of_any_type_are_converted() -> None:
    """What TOML files have, and what ini files of older versions of pytest have."""
    from pytest_flux.plugin import options

    settings = {setting.name: setting for setting in (*options.SHAPE, *options.RUN)}
    for name, values, expected in (
        ("size", (2, "2"), 2),
        ("strict", (True, "true", "1", "on"), True),
        ("strict", (False, "no"), False),
        ("timeout", (3, 3.0, "3"), 3.0),
        ("broker", ("embedded",), "embedded"),
    ):
        for value in values:
            converted = settings[name].convert(value)
            assert (converted, type(converted)) == (expected, type(expected))
    for name, wrong in (("size", [1]), ("strict", 3), ("timeout", {})):
        with pytest.raises(pytest.UsageError, match=f"flux_{name}: "):
            settings[name].convert(wrong)


def test_attributes_and_configuration_of_the_run(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nflux_attr =\n    tbon.topo=kary:1\n    a=ini\nflux_conf = x.y=1\n")
    source = """
        import pytest

        def test(flux_instance):
            assert flux_instance.getattr("tbon.topo") == "kary:1"
            assert flux_instance.getattr("a") == "cli"
            assert flux_instance.rpc("config.get") == {"x": {"y": 1, "z": "some text"}, "l": [1, "b"]}

        @pytest.mark.flux(conf={"m": {}})
        def test_marker_wins(flux_instance):
            assert flux_instance.rpc("config.get") == {"m": {}}
    """
    arguments = ["--flux-attr=a=cli", "--flux-conf=x.z=some text", '--flux-conf=l=[1, "b"]']
    run(source, *arguments).assert_outcomes(passed=2)
    for wrong, told in (("--flux-attr=a", "'a': NAME=VALUE is expected"), ("--flux-conf=x.y.z=1", "no table")):
        result = run(source, wrong)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"ERROR: *{told}"])

"""What a report says when something goes wrong, and the header when nothing has yet."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from tests.plugin.conftest import Run


@pytest.mark.parametrize("scope", ["function", "module", "session"])
def test_logs_of_the_tests_own_time(run: Run, scope: str) -> None:
    result = run(
        """
        def log(flux, text):
            flux.run(["flux", "logger", "--severity=err", text], check=True)

        def test_before(flux_instance):
            log(flux_instance, "not of this test")

        def test_fails(flux_instance):
            log(flux_instance, "of this test")
            assert False
        """,
        f"--flux-scope={scope}",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*flux: log of rank 0 (flux_instance)*", "*logger.err[[]0]: of this test*"])
    assert "not of this test" not in result.stdout.str()


@pytest.mark.parametrize("scope", ["function", "session"])
def test_the_first_test_of_an_instance_has_the_log_of_its_start(run: Run, scope: str) -> None:
    result = run("def test(flux_instance): assert False\n", f"--flux-scope={scope}")
    result.stdout.fnmatch_lines(["*flux: log of rank 0 (flux_instance)*", "*broker.info[[]0]: parent-none: join->*"])


def test_failed_jobs_and_their_output(run: Run) -> None:
    result = run(
        """
        def test(flux_instance):
            job = flux_instance.submit(["sh", "-c", "echo to stdout; echo to stderr >&2; exit 3"])
            assert job.result().succeeded
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*flux: job ƒ* (flux_instance)*", "sh: failed, exit code 3", "to stdout", "to stderr"]
    )


def test_pmi_trace_if_asked(run: Run) -> None:
    source = "def test(flux_instance): assert False\n"
    assert "flux: PMI" not in run(source).stdout.str()
    result = run(source, "--flux-pmi-trace")
    result.stdout.fnmatch_lines(["*flux: PMI (flux_instance)*", "*cmd=init*"])


@pytest.mark.parametrize(("keep", "kept"), [("failed", ["fails"]), ("all", ["fails", "passes"])])
def test_directories_are_kept_and_named(run: Run, pytester: pytest.Pytester, keep: str, kept: list[str]) -> None:
    result = run(
        """
        import os, pytest

        @pytest.fixture(autouse=True)
        def note(request, flux_instance):
            open(request.node.name, "w").write(flux_instance.rundir)

        def test_fails(flux_instance):
            flux_instance.kvs.put("a", "1")
            assert False

        def test_passes(flux_instance): pass
        """,
        f"--flux-keep={keep}",
    )
    result.assert_outcomes(passed=1, failed=1)
    for name in ("fails", "passes"):
        rundir = (pytester.path / f"test_{name}").read_text()
        import shutil
        from pathlib import Path

        assert Path(rundir).exists() is (name in kept)
        if name in kept:
            assert "quorum->run" in (Path(rundir) / "log").read_text()
            assert (Path(rundir) / "state" / "content.sqlite").exists()
            assert not list(Path(rundir).glob("local-*"))
            shutil.rmtree(rundir)
    result.stdout.fnmatch_lines(["*flux: kept (flux_instance)*", (pytester.path / "test_fails").read_text()])


def test_facts_for_junit(run: Run, pytester: pytest.Pytester) -> None:
    run("import pytest\n@pytest.mark.flux(size=2)\ndef test(flux_instance): pass\n", "--junit-xml=out.xml")
    tree = ElementTree.parse(pytester.path / "out.xml")
    properties = {element.get("name"): element.get("value") for element in tree.iter("property")}
    assert "size 2, local://" in str(properties["flux: flux_instance"])


def test_header_names_the_engine(run: Run) -> None:
    result = run("def test(): pass\n")
    result.stdout.fnmatch_lines(["flux: embedded broker, pytest-flux *, *libexec/flux-broker"])


@pytest.mark.system_flux
def test_header_names_a_real_engine(run: Run, system_flux: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{system_flux.rpartition('/')[0]}:/usr/bin:/bin")
        result = run("def test(): pass\n", "--flux-broker=system")
    result.stdout.fnmatch_lines(["flux: flux-core [0-9]*.[0-9]*.[0-9]*, */flux-broker"])


def test_skips_are_loud_and_can_be_failures(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    source = "import pytest\n@pytest.mark.flux(broker='system')\ndef test(flux_instance): pass\n"
    result = run(source, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * no real Flux: Could not locate broker in *"])
    result = run(source, "--flux-require=system")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no real Flux: Could not locate broker in *(--flux-require=system)"])


def test_errors_of_a_background_stop_are_the_tests_own(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.flux(attrs={"broker.rc3_path": "echo cannot clean up; exit 7"})
        def test_culprit(flux_instance): pass

        def test_innocent(flux_instance): pass
        """
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_culprit*", "*ended: rank 0 with exit code*"])
    result.stdout.fnmatch_lines(["*cannot clean up*"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED

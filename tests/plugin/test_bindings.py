"""`import flux` in tests: --flux-bindings, the handle and the executor of an instance."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_flux import bindings
from tests.plugin.conftest import Run

WRONG = "Metadata-Version: 2.1\nName: flux-python\nVersion: 0.75.0\n"


@pytest.fixture
def flux_python() -> None:
    """Skip where there is no `flux-python`."""
    try:
        bindings.check()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("flux_python")
def test_import_at_the_top_of_a_module(run: Run) -> None:
    source = """
        import pytest
        flux = pytest.importorskip("flux")

        def test_handle(flux_instance):
            with flux_instance.environ():
                assert flux.Flux().attr_get("size") == "1"
    """
    run(source, "--flux-bindings").assert_outcomes(passed=1)


@pytest.mark.usefixtures("flux_python")
def test_ini_and_conftest(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nflux_bindings = true\n")
    pytester.makeconftest("try:\n    import flux\nexcept ImportError:\n    flux = None\n")
    run("import conftest\ndef test(): assert conftest.flux is not None").assert_outcomes(passed=1)


@pytest.mark.usefixtures("flux_python")
def test_workers_have_it_too(run: Run) -> None:
    source = "import flux\nimport pytest\n@pytest.mark.parametrize('n', range(2))\ndef test(n): assert flux.Flux"
    run(source, "--flux-bindings", "-n2").assert_outcomes(passed=2)


@pytest.mark.usefixtures("flux_python")
def test_handle_needs_no_setting(run: Run) -> None:
    source = """
        def test_handle(flux_instance):
            try:
                import flux  # leaves half of the bindings behind
            except ImportError:
                pass
            handle = flux_instance.handle()
            assert handle.attr_get("rank") == "0"
            import flux.job
            assert flux.job.submit(handle, flux.job.JobspecV1.from_command(["true"]))
    """
    run(source).assert_outcomes(passed=1)


@pytest.mark.usefixtures("flux_python")
def test_import_in_the_environment_of_an_instance(run: Run) -> None:
    source = """
        import sys

        def test_environ(flux_instance):
            before = list(sys.path)
            with flux_instance.environ():
                import flux
                assert flux.Flux().attr_get("size") == "1"
            assert sys.path == before
    """
    run(source).assert_outcomes(passed=1)


@pytest.mark.usefixtures("flux_python")
def test_executor_ends_with_the_test(run: Run) -> None:
    source = """
        import threading

        def test_executor(flux_executor):
            from flux.job import JobspecV1
            assert flux_executor.submit(JobspecV1.from_command(["false"])).result() == 1
            flux_executor.submit(JobspecV1.from_command(["sleep", "inf"])).jobid()
            for _ in range(9):
                flux_executor.submit(JobspecV1.from_command(["sleep", "inf"]))

        def test_no_thread_is_left():
            assert threading.active_count() == 1
    """
    run(source).assert_outcomes(passed=2)


@pytest.mark.parametrize("path", ["PYTHONPATH", "site"])
def test_another_version_is_one_usage_error(
    run: Run, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester
) -> None:
    info = tmp_path / "flux_python-0.75.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(WRONG)
    (tmp_path / "flux").mkdir()
    (tmp_path / "flux" / "__init__.py").touch()
    if path == "PYTHONPATH":
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    else:
        pytester.makeini(f"[pytest]\npythonpath = {tmp_path}\n")
    result = run("def test(): pass", "--flux-bindings")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.outlines == []
    (line,) = filter(None, result.errlines)
    assert "flux-python 0.75.0 is installed" in line
    assert "pip install 'flux-python==0.88.*'" in line


def test_without_the_wheel_there_is_a_way_to_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        hide="""
        from importlib import metadata
        find = metadata.version
        def version(name):
            if name == "flux-python":
                raise metadata.PackageNotFoundError(name)
            return find(name)
        metadata.version = version
        """
    )
    result = pytester.runpytest_subprocess("-p", "hide", "--flux-bindings")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "pip install 'pytest-flux[bindings]'" in result.stderr.str()

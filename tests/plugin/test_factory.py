"""flux_instance_factory in fixtures of every scope, and fixtures with functions for their keywords."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Run


def test_every_scope(run: Run) -> None:
    result = run(
        """
        import os, pytest

        def alive(flux): return os.path.exists(flux.rundir)

        @pytest.fixture(scope="session")
        def pair(flux_instance_factory): return flux_instance_factory(), flux_instance_factory(size=2)

        @pytest.fixture(scope="module")
        def one(flux_instance_factory, pair): return flux_instance_factory()

        @pytest.fixture
        def own(flux_instance_factory):
            flux = flux_instance_factory()
            yield flux
            assert flux.getattr("size") == "1"

        def test_first(pair, one, own, flux_instance_factory):
            called = flux_instance_factory()
            assert len({flux.uri for flux in (*pair, one, own, called)}) == 5
            assert "(size=2" in repr(flux_instance_factory)
            pair[0].kvs.put("left", "1")
            open("rundirs", "w").write("\\n".join([pair[0].rundir, one.rundir, own.rundir, called.rundir]))

        def test_second(pair, one):
            rundirs = open("rundirs").read().split()
            assert [pair[0].rundir, one.rundir] == rundirs[:2]
            assert not pair[0].kvs.exists("left")

        def test_third(flux_instance):
            assert flux_instance.size == 1
        """
    )
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["test_it.py::test_first: flux_instance_factory: KVS key left"])


def test_functions_and_autouse(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest, pytest_flux

        @pytest.fixture(scope="module")
        def queues(): return {"queues": {"debug": {}}}

        flux = pytest_flux.flux_instance(
            size=lambda request: 2, conf=lambda request: request.getfixturevalue("queues"), scope="module"
        )
        every = pytest_flux.flux_instance(autouse=True)
        """
    )
    result = run(
        """
        import pytest

        def test_conf(flux):
            assert flux.rpc("config.get") == {"queues": {"debug": {}}} and flux.size == 2
            open("uri", "w").write(flux.uri)

        @pytest.mark.flux(timeout=8)
        def test_same(flux, request):
            assert flux.uri == open("uri").read()
            assert "every" in request.fixturenames
        """
    )
    result.assert_outcomes(passed=2)


def test_wrong_names_are_found_although_values_are_not_known(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import pytest_flux\nflux = pytest_flux.flux_instance(cnof=lambda request: {})\n")
    result = run("def test(flux): pass\n")
    assert "unknown keyword 'cnof': did you mean 'conf'?" in result.stderr.str() + result.stdout.str()

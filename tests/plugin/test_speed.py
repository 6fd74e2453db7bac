"""Instances that are ready before they are needed."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Run


def test_the_next_one_boots_meanwhile(run: Run) -> None:
    result = run(
        """
        import pytest
        from pytest_flux.plugin.run import pool_of

        def ready(request):
            return [instance.size for instance in pool_of(request.config)._ready]

        def test_one(flux_instance, request):
            assert ready(request) == [2, 1]

        @pytest.mark.flux(size=2)
        def test_two(flux_instance, request):
            assert flux_instance.client.size == 2 and ready(request) == [1]

        def test_three(flux_instance, request):
            assert flux_instance.client.size == 1 and ready(request) == []
        """,
        "--flux-prestart=2",
    )
    result.assert_outcomes(passed=3)


def test_its_failure_is_its_own_tests(run: Run) -> None:
    result = run(
        """
        import pytest

        def test_innocent(flux_instance): pass

        @pytest.mark.flux(attrs={"broker.rc1_path": "echo cannot start; exit 7"})
        def test_culprit(flux_instance): pass

        def test_innocent_too(flux_instance): pass
        """,
        "--flux-prestart=2",
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at setup of test_culprit*", "*cannot start*"])


def test_what_nobody_came_for_is_gone(run: Run) -> None:
    # The suite's own leak check would find it.
    source = "def test_a(flux_instance): assert False\ndef test_b(flux_instance): pass\n"
    result = run(source, "--flux-prestart=3", "-x")
    assert result.ret == pytest.ExitCode.TESTS_FAILED

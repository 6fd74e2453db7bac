"""Instances that several tests use: as new for each of them, and the culprit named."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Run

LEAKS = """
import pytest

def test_first(flux_instance):
    open("uri", "w").write(flux_instance.uri)

def test_culprit(flux_instance):
    flux = flux_instance
    LEAK

def test_next(flux_instance):
    flux = flux_instance
    assert (flux.uri == open("uri").read()) is SAME
    assert flux.client.jobs.list() == []
    assert "left" not in flux.kvs.ls()
    assert flux.rpc("job-manager.queue-status")["start"] is True
    assert flux.resources["drain"] == {}
    assert [b.is_running for b in flux.brokers] == [True, True]
    assert flux.rpc("rexec.list", {}, rank=1)["procs"] == []
    assert flux.getattr("log-stderr-level") == "6"
    assert flux.rpc("config.get") == {}
"""

BACKGROUND = (
    "flux.rpc('rexec.exec', {'cmd': {'cmdline': ['/bin/sleep', '100'], 'cwd': '/', 'env': {}, 'opts': {},"
    " 'channels': []}, 'flags': 0, 'background': True}, rank=1)"
)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("leak", "told", "same"),
    [
        ("flux.submit(['sleep', '100'])", "job ƒ*still active", True),
        ("flux.submit(['sleep', '100']).wait_event('start')", "job ƒ*still active", True),
        ("flux.kvs.put('left.here', '1')", "KVS key left", True),
        ("flux.kvs.create_namespace('mine')", "KVS namespace mine", True),
        ("flux.rpc('job-manager.queue-start', {'start': False, 'all': True})", "queue default stopped", True),
        ("flux.rpc('resource.drain', {'targets': '1', 'reason': 'why'})", "drain of rank 1 (why)", True),
        ("flux.client.setattr('log-stderr-level', '3')", "attribute log-stderr-level=3 (was 6)", True),
        ("flux.rpc('config.load', {'a': 1})", "configuration", True),
        (BACKGROUND, "process *sleep (pid *) on rank 1", True),
        ("flux.brokers[1].kill(); flux.brokers[1].wait()", "broker 1 has ended with exit code 137", False),
        ("flux.brokers[1].kill()", "broker 1 has ended with exit code 137", False),
        ("flux.brokers[1].stop()", "broker 1, which was stopped (SIGSTOP)", True),
    ],
)
def test_leaks_are_put_right_and_named(run: Run, leak: str, told: str, same: bool, strict: bool) -> None:
    source = LEAKS.replace("LEAK", leak).replace("SAME", str(same))
    arguments = ["--flux-size=2", "--flux-scope=module", *(["--flux-strict"] if strict else [])]
    result = run(source, *arguments)
    result.assert_outcomes(passed=3, errors=int(strict))
    told = told.replace("[", "[[]")
    result.stdout.fnmatch_lines([f"test_it.py::test_culprit: flux_instance: {told}"])
    assert "test_next:" not in result.stdout.str()
    if strict:
        result.stdout.fnmatch_lines(["*ERROR at teardown of test_culprit*", "flux: left behind:", f"*{told}"])


def test_last_test_of_a_module_is_a_culprit_too(run: Run) -> None:
    result = run(
        "def test(flux_instance): flux_instance.kvs.put('left', '1')\n", "--flux-scope=module", "--flux-strict"
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*flux_instance: KVS key left"])


def test_what_fixtures_clean_up_is_not_a_leak(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.fixture
        def key(flux_instance):
            flux_instance.kvs.put("key", "1")
            yield
            flux_instance.kvs.unlink("key")

        def test_one(key): pass
        def test_two(key): pass
        """,
        "--flux-scope=session",
        "--flux-strict",
    )
    result.assert_outcomes(passed=2)


def test_jobs_that_have_ended_are_no_leak_but_gone(run: Run) -> None:
    result = run(
        """
        def test_one(flux_instance):
            assert flux_instance.submit(["true"]).result().succeeded

        def test_two(flux_instance):
            assert flux_instance.client.jobs.list() == []
        """,
        "--flux-scope=session",
        "--flux-strict",
    )
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize(("scope", "count"), [("function", 4), ("class", 3), ("module", 2), ("session", 1)])
def test_scopes(run: Run, pytester: pytest.Pytester, scope: str, count: int) -> None:
    pytester.makepyfile(test_other="def test_four(flux_instance): open('uris', 'a').write(flux_instance.uri + '\\n')")
    source = """
        class TestOne:
            def test_one(self, flux_instance): open('uris', 'a').write(flux_instance.uri + '\\n')
            def test_two(self, flux_instance): open('uris', 'a').write(flux_instance.uri + '\\n')
        def test_three(flux_instance): open('uris', 'a').write(flux_instance.uri + '\\n')
    """
    run(source, f"--flux-scope={scope}").assert_outcomes(passed=4)
    assert len(set((pytester.path / "uris").read_text().split())) == count


@pytest.mark.parametrize("first", ["", "def test_first(flux_instance): pass"])
def test_marker_below_the_scope_is_a_usage_error(run: Run, first: str) -> None:
    result = run(
        f"""
        import pytest

        {first}

        @pytest.mark.flux(size=2)
        def test(flux_instance): pass
        """,
        "--flux-scope=module",
    )
    result.assert_outcomes(passed=1 if first else 0, errors=1)
    result.stdout.fnmatch_lines(
        ["*pytest.mark.flux on a test of its own, but its instance is shared with other tests*"]
    )

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
        result.stdout.fnmatch_lines(
            ["*ERROR at teardown of test_culprit*", f"flux: left behind: flux_instance: {told}*"]
        )


def test_last_test_of_a_module_is_a_culprit_too(run: Run) -> None:
    result = run(
        "def test(flux_instance): flux_instance.kvs.put('left', '1')\n", "--flux-scope=module", "--flux-strict"
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["ERROR test_it.py::test - *left behind: flux_instance: KVS key left"])


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


SHAPES = """
import pytest

def note(flux):
    open("uris", "a").write(flux.uri + "\\n")
    assert flux.client.jobs.list() == []
    assert int(flux.getattr("size")) == flux.size
    flux.submit(["true"]).result()

@pytest.mark.parametrize("number", range(4))
def test_plain(flux_instance, number):
    assert flux_instance.size == 1
    note(flux_instance)

@pytest.mark.flux(size=2)
def test_marked(flux_instance):
    assert flux_instance.size == 2
    note(flux_instance)

def test_between(flux_instance): note(flux_instance)

@pytest.mark.flux(size=[1, 2])
def test_list(flux_instance): note(flux_instance)

@pytest.mark.parametrize("flux_instance", [2, {"attrs": {"tbon.topo": "kary:1"}}], indirect=True)
def test_parameters(flux_instance): note(flux_instance)

@pytest.mark.flux(size=2, timeout=9)
def test_time_limit(flux_instance):
    assert flux_instance.settings.timeout == 9
    note(flux_instance)
"""


def uris(pytester: pytest.Pytester) -> list[str]:
    return (pytester.path / "uris").read_text().split()


@pytest.mark.parametrize("scope", ["class", "module", "package", "session"])
def test_one_warm_instance_for_each_shape(run: Run, pytester: pytest.Pytester, scope: str) -> None:
    run(SHAPES, f"--flux-scope={scope}").assert_outcomes(passed=11)
    seen = uris(pytester)
    # Functions outside of classes belong to the module also with scope `class`.
    assert (len(seen), len(set(seen))) == (11, 3)


def test_in_any_order(run: Run, pytester: pytest.Pytester) -> None:
    run(SHAPES, "--flux-scope=session", "-p", "pytest_randomly").assert_outcomes(passed=11)
    assert len(set(uris(pytester))) == 3


def test_least_recently_used_ones_end(run: Run, pytester: pytest.Pytester) -> None:
    result = run(
        """
        import os, pytest

        def alive(uri): return os.path.exists(uri.removeprefix("local://"))

        @pytest.fixture(autouse=True)
        def note(flux_instance):
            yield
            open("uris", "a").write(flux_instance.uri + "\\n")

        def seen(): return open("uris").read().split()

        def test_one(flux_instance): pass

        @pytest.mark.flux(size=2)
        def test_two(flux_instance): assert alive(seen()[0])

        def test_one_again(flux_instance): assert flux_instance.uri == seen()[0]

        @pytest.mark.flux(size=3)
        def test_three(flux_instance): pass

        def test_last(flux_instance):
            assert flux_instance.uri == seen()[0]
        """,
        "--flux-scope=session",
        "--flux-max-instances=2",
    )
    result.assert_outcomes(passed=5)
    assert len(set(uris(pytester))) == 3


def test_harmful_tests_get_their_own(run: Run, pytester: pytest.Pytester) -> None:
    result = run(
        """
        import pytest

        @pytest.fixture(autouse=True)
        def note(flux_instance):
            open("uris", "a").write(flux_instance.uri + "\\n")

        def test_before(flux_instance): flux_instance.kvs.put("a", "1")

        @pytest.mark.flux(size=2, fresh=True)
        def test_kill(flux_instance):
            flux_instance.brokers[1].kill()
            flux_instance.brokers[1].wait()

        @pytest.mark.flux(size=2)
        def test_other(flux_instance): assert flux_instance.brokers[1].is_running

        @pytest.mark.flux(size=2, fresh=True)
        def test_fresh(flux_instance): pass

        def test_after(flux_instance): pass
        """,
        "--flux-scope=session",
        "--flux-strict",
    )
    # The test passes; its teardown finds the key.
    result.assert_outcomes(passed=5, errors=1)
    before, kill, other, fresh, after = uris(pytester)
    assert before == after
    assert len({kill, other, fresh, before}) == 4
    result.stdout.fnmatch_lines(["*KVS key a"])


def test_errors_and_skips_are_not_those_of_another_shape(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.flux(attrs={"broker.rc1_path": "exit 7"})
        def test_fails(flux_instance): pass

        @pytest.mark.flux(broker="system")
        def test_skipped(flux_instance): pass

        def test_passes(flux_instance): pass
        """,
        "--flux-scope=session",
    )
    outcomes = result.parseoutcomes()
    assert outcomes["errors"] == 1
    assert outcomes["passed"] + outcomes.get("skipped", 0) == 2


def test_fixtures_that_depend_on_it_follow(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.fixture(scope="session")
        def uri(flux_instance):
            return flux_instance.uri

        def test_one(uri, flux_instance): assert uri == flux_instance.uri

        @pytest.mark.flux(size=2)
        def test_two(uri, flux_instance): assert uri == flux_instance.uri and flux_instance.size == 2

        def test_three(uri, flux_instance): assert uri == flux_instance.uri and flux_instance.size == 1
        """,
        "--flux-scope=session",
    )
    result.assert_outcomes(passed=3)


def test_keys_of_a_restored_instance_stay(run: Run) -> None:
    """A key that was there before is not reported, however often the root directory changes."""
    result = run(
        """
        import pytest, pytest_flux
        from pytest_flux.plugin.pristine import Baseline

        def test(flux_instance_factory):
            flux = flux_instance_factory()
            flux.kvs.put("mine", "1")
            baseline = Baseline(flux)
            flux.kvs.put("left", "1")
            assert baseline.check().leaks == ["KVS key left"]
            assert flux.kvs.get("mine") == b"1"
        """
    )
    result.assert_outcomes(passed=1)

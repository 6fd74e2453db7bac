"""Failure reports of jobs that wait, hang, fail and are cancelled, as golden texts."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from tests.plugin.conftest import Run

PENDING = """
    def test(flux_instance):
        flux_instance.run("flux queue stop -a --message=closed", check=True)
        flux_instance.submit(["hostname", "-s"]).result(0.2)
"""
HUNG = """
    def test(flux_instance):
        job = flux_instance.submit("echo on the way; echo oops >&2; exec sleep 1000")
        job.wait_event("start")
        events = flux_instance.client.jobs.watch(job.id, "guest.output", wait=True, timeout=10)
        assert [next(events)["name"] for _ in range(3)] == ["header", "data", "data"]
        job.result(0.2)
"""
FAILED = """
    def test(flux_instance):
        flux_instance.submit("echo almost; echo no >&2; exit 3").result().check()
"""
CANCELLED = """
    def test(flux_instance):
        job = flux_instance.submit(["sleep", "1000"])
        job.wait_event("start")
        job.cancel("not needed")
        job.result().check()
"""
DEPENDENT = """
    def test(flux_instance):
        first = flux_instance.submit(["sleep", "1000"])
        job = flux_instance.submit(["true"], dependency=f"afterok:{first.id}")
        first.wait_event("start")
        job.result(0.2)
"""
TOO_LARGE = """
    import pytest

    @pytest.mark.flux(personality="job")
    def test(flux_instance):
        first = flux_instance.submit(["sleep", "1000"], num_tasks=2)
        first.wait_event("start")
        flux_instance.submit(["true"], num_tasks=2, nodes=1).result(0.2)
"""

GOLDEN = {
    "pending": (
        PENDING,
        """\
E JobTimeout: job ID has not ended within 0.2 s
E hostname: SCHED, waits: queue default is stopped (closed)
E command: hostname -s
flux: active job ID (flux_instance)
hostname: SCHED, waits: queue default is stopped (closed)
command: hostname -s
""",
    ),
    "hung": (
        HUNG,
        """\
E JobTimeout: job ID has not ended within 0.2 s
E sh: RUN, runs on rank 0
E command: /bin/sh -c 'echo on the way; echo oops >&2; exec sleep 1000'
E stdout:
E on the way
E stderr:
E oops
flux: active job ID (flux_instance)
sh: RUN, runs on rank 0
command: /bin/sh -c 'echo on the way; echo oops >&2; exec sleep 1000'
stdout:
on the way
stderr:
oops
""",
    ),
    "failed": (
        FAILED,
        """\
E JobFailed: job ID failed (task(s) exited with exit code 3)
flux: job ID (flux_instance)
sh: failed, exit code 3
command: /bin/sh -c 'echo almost; echo no >&2; exit 3'
stdout:
almost
stderr:
no
""",
    ),
    "cancelled": (
        CANCELLED,
        """\
E JobFailed: job ID canceled (cancel: not needed)
flux: job ID (flux_instance)
sleep: canceled, exit code 143
command: sleep 1000
exception cancel, severity 0: not needed
""",
    ),
    "dependent": (
        DEPENDENT,
        """\
E JobTimeout: job ID has not ended within 0.2 s
E true: DEPEND, waits for its dependency after-success of job ID
E command: true
flux: active job ID (flux_instance)
sleep: RUN, runs on rank 0
command: sleep 1000
flux: active job ID (flux_instance)
true: DEPEND, waits for its dependency after-success of job ID
command: true
""",
    ),
    "too large": (
        TOO_LARGE,
        """\
E JobTimeout: job ID has not ended within 0.2 s
E true: SCHED, waits for resources: it wants 2 cores on 1 nodes, free are 0 of 2 cores
E command: true
flux: active job ID (flux_instance)
sleep: RUN, runs on rank 0
command: sleep 1000
flux: active job ID (flux_instance)
true: SCHED, waits for resources: it wants 2 cores on 1 nodes, free are 0 of 2 cores
command: true
""",
    ),
}


def story(text: str) -> str:
    """What a report says about jobs: the error, and the sections of jobs sorted by their first lines."""
    lines = re.sub("ƒ[1-9A-Za-z]+", "ID", text).splitlines()
    errors = [re.sub(r"^E +(pytest_flux\.[\w.]+\.)?", "E ", line) for line in lines if line.startswith("E ")]
    sections: list[list[str]] = []
    is_inside = False
    for line in lines:
        title = re.fullmatch(r"-+ (flux: .*) -+", line)
        if title or line.startswith("==="):
            is_inside = bool(title) and "job ID" in line
            if title and is_inside:
                sections.append([title[1]])
        elif is_inside:
            sections[-1].append(line)
    return "\n".join([*errors, *("\n".join(section) for section in sorted(sections))]) + "\n"


@pytest.mark.parametrize("name", GOLDEN)
def test_the_whole_story(run: Run, name: str) -> None:
    source, golden = GOLDEN[name]
    result = run(source)
    result.assert_outcomes(failed=1)
    assert story(result.stdout.str()) == golden


def test_engine_version_and_path_for_junit(run: Run, pytester: pytest.Pytester) -> None:
    run("def test(flux_instance): pass\n", "--junit-xml=out.xml", "--flux-broker=embedded")
    text = (pytester.path / "out.xml").read_text()
    assert re.search(r'value="embedded \(/.*libexec/flux-broker\) [\d.]+\S*, size 1, local://', text)


@pytest.mark.parametrize("workers", [[], pytest.param(["-n1"], marks=pytest.mark.slow)])
def test_logs_and_jobs_for_junit(run: Run, pytester: pytest.Pytester, workers: list[str]) -> None:
    source = """
        import pytest

        def test_call(flux_instance):
            flux_instance.submit("echo almost; exit 3").result().check()

        @pytest.fixture
        def ends(flux_instance):
            yield
            assert flux_instance.uri == ""

        def test_teardown(ends): pass
        def test_passes(flux_instance): pass
    """
    run(source, "--junit-xml=out.xml", *workers)
    cases = {case.attrib["name"]: case for case in ElementTree.parse(pytester.path / "out.xml").iter("testcase")}
    texts = {name: case.findtext("system-out") or "" for name, case in cases.items()}
    assert re.search(r"flux: log of rank 0 .*flux: job ƒ.*command: .*stdout:\nalmost", texts["test_call"], re.DOTALL)
    assert "flux: log of rank 0" in texts["test_teardown"]
    assert texts["test_passes"] == ""

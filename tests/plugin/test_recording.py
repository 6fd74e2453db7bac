"""``--flux-report``: one page of the run, with and without workers, at every scope."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.conftest import Run
from tests.report.chromium import open_page, with_script
from tests.report.test_page import data_of

SUITE = """
    import pytest

    def test_passes(flux_instance):
        flux_instance.submit(["true"]).result()

    def test_fails(flux_instance):
        flux_instance.submit("echo no >&2; exit 3").result().check()

    @pytest.mark.flux(size=4)
    def test_kills(flux_instance, flux_instance_factory):
        flux_instance_factory(size=2)
        flux_instance.brokers[2].kill()
        flux_instance.wait_status("degraded")
        assert False, "<script>"

    def test_without():
        pass

    @pytest.fixture
    def broken():
        raise RuntimeError("broken")

    def test_error(broken):
        pass

    @pytest.mark.skip
    def test_skipped(flux_instance):
        pass
"""


def page_of(pytester: pytest.Pytester, name: str = "page.html") -> dict[str, Any]:
    return data_of((pytester.path / name).read_text(encoding="utf-8"))


def names(data: dict[str, Any], outcome: str) -> set[str]:
    return {test["id"].rpartition("::")[2] for test in data["tests"] if test["outcome"] == outcome}


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        pytest.param(("-n2",), marks=pytest.mark.slow),
        pytest.param(("-n2", "--flux-shared"), marks=pytest.mark.slow),
        pytest.param(("-n2", "--flux-scope=session"), marks=pytest.mark.slow),
    ],
    ids=["alone", "workers", "shared", "session"],
)
def test_whole_run(run: Run, pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    if "-n2" in arguments:
        pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    result = run(SUITE, "--flux-report=page.html", *arguments)
    result.assert_outcomes(passed=2, failed=2, errors=1, skipped=1)
    result.stdout.fnmatch_lines(["*flux report: file://*/page.html*"])
    assert str(pytester.path / "page.html#test=test_it.py%3A%3Atest_fails") in result.stdout.str()
    data = page_of(pytester)
    assert names(data, "failed") == {"test_fails", "test_kills"}
    assert names(data, "error") == {"test_error"}
    assert names(data, "passed") == {"test_passes"}
    instances = data["instances"]
    tests = {test["id"].rpartition("::")[2]: test for test in data["tests"]}
    assert len(tests["test_kills"]["instances"]) == 2
    killed = next(instances[number] for number in tests["test_kills"]["instances"] if instances[number]["size"] == 4)
    assert {broker["rank"]: broker["status"] for broker in killed["overlay"]}[2] == "lost"
    (used,) = tests["test_fails"]["instances"]
    (job,) = [job for job in instances[used]["jobs"] if job.get("code") == 3]
    assert tests["test_fails"]["started"] <= job["times"][0] <= tests["test_fails"]["ended"]
    assert "stderr:\nno" in instances[used]["stories"][job["id"]]
    assert "exit code 3" in tests["test_fails"]["text"]
    (used,) = tests["test_passes"]["instances"]
    assert "COMPLETED" in [job.get("result") for job in instances[used]["jobs"]]


def test_what_still_runs_at_the_end_is_there(run: Run, pytester: pytest.Pytester) -> None:
    run(SUITE, "--flux-report=deep/page.html", "--flux-scope=session", "-x")
    data = page_of(pytester, "deep/page.html")
    assert names(data, "failed") == {"test_fails"}
    (instance,) = data["instances"]
    assert {job["result"] for job in instance["jobs"]} == {"COMPLETED", "FAILED"}


def test_rank_0_is_dead(run: Run, pytester: pytest.Pytester) -> None:
    result = run(
        """
        def test(flux_instance):
            flux_instance.brokers[0].kill()
            flux_instance.brokers[0].wait()
            assert False
        """,
        "--flux-report=page.html",
    )
    result.assert_outcomes(failed=1)
    (instance,) = page_of(pytester)["instances"]
    assert instance["notes"][0].startswith("rank 0 does not run")
    assert "quorum-full" in " ".join(line[4] for line in instance["log"] if line[1] == 0)
    assert {line[5] for line in instance["log"]} == {"test_it.py::test"}


def test_path_is_checked(run: Run, pytester: pytest.Pytester) -> None:
    result = run("def test(): pass", f"--flux-report={pytester.path}")
    result.stderr.fnmatch_lines(["*--flux-report=*is a directory*"])


@pytest.mark.slow
def test_link_in_pytest_html(run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pytest_html", reason="pytest-html is not installed")
    monkeypatch.delenv("PYTEST_ADDOPTS")
    options = ("--flux-report=a/page.html", "--html=b/other.html")
    run("def test(flux_instance): assert False", *options)
    text = (pytester.path / "b/other.html").read_text(encoding="utf-8")
    assert "../a/page.html#test=test_it.py%3A%3Atest" in text


BIG = """
    import pytest

    @pytest.mark.flux(size=4)
    def test_jobs(flux_instance):
        quick = "--setattr=exec.test.run_duration=0.001s"
        flux_instance.run(f"flux submit --quiet --cc=1-4997 {quick} true && flux queue drain", check=True)
        flux_instance.run(["flux", "logger", "--severity=err", "needle <i>"], check=True)
        for code in (1, 2, 3):
            flux_instance.submit(f"exit {code}").result()
        assert False, "first"

    @pytest.mark.flux(size=3, attrs={"tbon.topo": "kary:1"})
    def test_broker(flux_instance):
        flux_instance.brokers[2].kill()
        flux_instance.wait_status("degraded")
        assert False, "second"

    def test_output(flux_instance):
        flux_instance.submit("echo '</script><b>' >&2; exit 1").result().check()

    def test_passes(flux_instance):
        pass
"""
DRIVER = """
const check = (what, is) => { if (!is) console.log("WRONG " + what); };
const byId = id => document.getElementById(id);
const seen = () => document.querySelectorAll("#log .line").length;
const change = (id, value, kind = "change") => { byId(id).value = value; byId(id).dispatchEvent(new Event(kind)); };

const plot = document.querySelector("#timeline .plot");
const times = element => element.getAttribute("viewBox").split(" ").filter((_, index) => index % 2 === 0);
const width = () => Number(times(plot)[1]);
const whole = width();
plot.dispatchEvent(new WheelEvent("wheel", {deltaY: -400, clientX: 600, cancelable: true}));
check("zoom", width() < whole / 2);
check("depth", String(times(document.querySelector("#depth .plot"))) === String(times(plot)));
byId("zoom-all").click();
check("all", width() === whole);
const bar = document.querySelector("#timeline .job");
bar.dispatchEvent(new PointerEvent("pointermove", {bubbles: true, clientX: 300, clientY: 300}));
check("hover", !byId("tip").hidden && byId("tip").textContent.includes("RUN"));
bar.dispatchEvent(new MouseEvent("click", {bubbles: true}));
check("details", byId("details").textContent.includes("submitted"));
change("rows", "job");
check("by job", document.querySelectorAll("#timeline .job").length >= 5000);
check("states", document.querySelector("#timeline .k-wait"));

const all = seen();
change("log-level", "3");
check("level", seen() === 1 && byId("log").textContent.includes("needle <i>"));
change("log-level", "7");
change("log-rank", "2");
check("rank", seen() > 0 && seen() < all && !document.querySelector('#log [data-rank="0"]'));
change("log-rank", "");
change("log-search", "needle", "input");
check("search", seen() === 1);
change("log-search", "", "input");
change("job-search", "failed", "input");
check("jobs found", document.querySelectorAll("#job-table tbody tr").length === 3);

location.hash = "#test=" + encodeURIComponent("test_it.py::test_broker");
addEventListener("hashchange", () => {
  check("opened", document.querySelector("details[open]").textContent.includes("second"));
  check("other tree", document.querySelectorAll("#overlay .broker").length === 3);
  check("lost", document.querySelector('#overlay .broker[data-rank="2"]').dataset.status === "lost");
  check("filtered", byId("log-test").value === "test_it.py::test_broker" && seen() > 0);
  console.log("DRIVEN");
});
"""


@pytest.mark.slow
def test_page_in_chromium(run: Run, pytester: pytest.Pytester, tmp_path: Path) -> None:
    """A run with 3 failures and 5,000 jobs: tree, timeline and log are drawn, and can be used."""
    run(BIG, "--flux-report=page.html").assert_outcomes(passed=1, failed=3)
    path = pytester.path / "page.html"
    assert len(page_of(pytester)["instances"][0]["jobs"]) == 5000
    shown = open_page(path, tmp_path / "one", screenshot=Path("jobs.png"))
    assert shown.console == []
    assert shown.count(r'<g class="broker full"') == 4
    assert shown.count(r'<rect class="job k-completed"') == 4997
    assert shown.count(r'<rect class="job k-failed"') == 3
    assert shown.count(r'<path class="waiting"') == 1
    assert "5000 (4997 completed, 3 failed)" in shown.dom or "5000 (3 failed, 4997 completed)" in shown.dom
    assert shown.count(r'<div class="line') > 20
    assert shown.count(r'<details class="test"') == 3
    assert "needle &lt;i&gt;" in shown.dom

    link = re.search(r'href="(#instance=2&amp;test=[^"]+)"', shown.dom)
    assert link is not None
    other = open_page(path, tmp_path / "two", link[1].replace("&amp;", "&"), Path("failure.png"))
    assert other.console == []
    assert "&lt;/script&gt;&lt;b&gt;" in other.dom

    driven = open_page(with_script(path, DRIVER), tmp_path / "three")
    assert [json.loads(line.partition(", source")[0]) for line in driven.console] == ["DRIVEN"]

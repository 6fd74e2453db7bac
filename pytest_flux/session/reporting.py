"""What reports say about instances: logs of the test's time, failed jobs, what was left behind, and late errors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flux.session import options
from pytest_flux.session.tracebacks import is_plain

if TYPE_CHECKING:
    from pytest_flux.instance import FluxInstance
    from pytest_flux.session.pool import Held, Late, Pool

__tracebackhide__ = is_plain
_ITEM = pytest.StashKey["pytest.Item | None"]()
NEXT = pytest.StashKey["pytest.Item | None"]()
"""The test after a test, as far as that is known."""

_STARTED = pytest.StashKey[float]()
_LEAKS = pytest.StashKey[list[str]]()
_REPORTED = pytest.StashKey[list[tuple[str, str]]]()
_MAX_JOBS = 10
_JOB_PATIENCE = 2.0
# The launcher's trace of what brokers say to its PMI server.
_PMI = "cmd="


def begin(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """A test begins."""
    item.config.stash[_ITEM] = item
    item.stash[NEXT] = nextitem
    item.stash[_STARTED] = time.time()
    item.stash[_LEAKS] = []


def end(item: pytest.Item) -> None:
    """A test is over."""
    item.config.stash[_ITEM] = None


def current_item(config: pytest.Config) -> pytest.Item | None:
    """The test that runs."""
    return config.stash.get(_ITEM, None)


def add_leaks(item: pytest.Item | None, leaks: list[str], *, strict: bool) -> None:
    """Note what a test has left behind. Fails it if that is an error."""
    if item is None or not leaks:
        return
    item.stash[_LEAKS] += leaks
    if strict:
        pytest.fail("flux: left behind:\n  " + "\n  ".join(leaks), pytrace=False)


def complete(pool: Pool, item: pytest.Item, report: pytest.TestReport) -> None:
    """Add to a report what there is to say about the instances of its test."""
    if report.when == "teardown" and item.stash.get(_LEAKS, None):
        leaks = item.stash[_LEAKS]
        report.sections.append(("flux: left behind", "\n".join(leaks)))
        # Travels to the controller of pytest-xdist as well.
        report.flux_leaks = leaks  # type: ignore[attr-defined]
    for held in pool.used_by(item):
        if report.when == "call":
            # The test's, not this report's: JUnit files take them from the last of its reports.
            item.user_properties.append((f"flux: {held.name}", facts(held.instance)))
        if report.failed:
            held.failed = True
            report.sections += _sections(held, item.stash.get(_STARTED, 0.0))
    if options.value_of(item.config, "dump") != "no":
        from pytest_flux.session import dumping

        dumping.complete(item, report, pool.used_by(item))


def facts(instance: FluxInstance) -> str:
    """One line about an instance."""
    if not instance.is_running:
        return repr(instance)
    # Rank 0 may be suspended, and not answer at all.
    asked = {"name": "version"}
    version = _quietly(lambda: instance.client.rpc("attr.get", asked).get(_JOB_PATIENCE)["value"], "?")
    return f"{instance.settings.broker} {version}, size {instance.size}, {instance.uri}"


def _sections(held: Held, since: float) -> Iterator[tuple[str, str]]:
    from pytest_flux.session.log import LAUNCHER, by_writer

    instance, name = held.instance, held.name
    writers = by_writer(instance.output.text(held.mark) if instance.output.path is None else instance.log())
    trace = [line for line in writers.get(LAUNCHER, []) if _PMI in line]
    for writer, lines in writers.items():
        lines = [line for line in lines if _PMI not in line] if writer == LAUNCHER else lines
        if lines:
            title = f"log of {writer}" if writer != LAUNCHER else f"output of {writer}"
            yield f"flux: {title} ({name})", "\n".join(lines)
    if trace:
        yield f"flux: PMI ({name})", "\n".join(trace)
    if instance.keep and instance.directory:
        yield f"flux: kept ({name})", instance.directory
    if instance.is_running and not instance.dead_brokers():
        yield from _quietly(lambda: list(_failed_jobs(instance, name, since)), [])


def _failed_jobs(instance: FluxInstance, name: str, since: float) -> Iterator[tuple[str, str]]:
    from pytest_flux.protocol.fluid import f58

    jobs = instance.client.rpc(
        "job-list.list",
        {"max_entries": 0, "attrs": ["all"], "since": 0.0, "constraint": {"and": []}},
        streaming=True,
        timeout=_JOB_PATIENCE,
    )
    listed = [job for answer in jobs for job in answer["jobs"]]
    failed = [job for job in listed if job.get("success") is False and job.get("t_submit", 0.0) >= since]
    for job in failed[:_MAX_JOBS]:
        result = instance.client.jobs.result(job["id"], _JOB_PATIENCE)
        output = _quietly(lambda job=job: instance.client.jobs.output(job["id"], _JOB_PATIENCE), None)
        text = [f"{job.get('name', '?')}: {result.name.lower()}, exit code {result.exit_code}"]
        note = result.values.get("exception_note")
        if note:
            text.append(f"exception {result.values['exception_type']}: {note}")
        if output is not None:
            text += [data.decode(errors="replace").rstrip("\n") for data in (output.stdout, output.stderr) if data]
        yield f"flux: job {f58(job['id'])} ({name})", "\n".join(text)


def _quietly(ask: Any, otherwise: Any) -> Any:  # noqa: ANN401
    """A report must not fail because the instance that it is about does not answer."""
    try:
        return ask()
    except Exception:  # noqa: BLE001 - anything may be the matter with it
        return otherwise


class Memory:
    """Keeps what tests have left behind, for the summary. A plugin of its own: its hook tells no config."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._reported = config.stash.setdefault(_REPORTED, [])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A report, maybe a worker's."""
        self._reported += [(report.nodeid, leak) for leak in getattr(report, "flux_leaks", ())]
        if hasattr(report, "flux_dumps"):
            from pytest_flux.session import dumping

            dumping.note(self._config, report)


def summarize(terminalreporter: Any, config: pytest.Config) -> None:  # noqa: ANN401 - private to pytest before 8
    """List what was left behind, with the culprits."""
    reported = config.stash.get(_REPORTED, [])
    if reported:
        terminalreporter.section("flux: left behind by tests, and put right")
        for nodeid, leak in reported:
            terminalreporter.line(f"{nodeid}: {leak}")
    if options.value_of(config, "dump") != "no":
        from pytest_flux.session import dumping

        dumping.summarize(terminalreporter, config)


def send_late(config: pytest.Config, late: Late) -> None:
    """Report an error of a test that is over, as one of its teardown."""
    location = late.item.location if late.item is not None else (late.nodeid, None, late.nodeid)
    nodeid = late.item.nodeid if late.item is not None else late.nodeid
    report = pytest.TestReport(nodeid, location, {}, "failed", late.text, "teardown", [], 0.0)
    with_index = _worker_of(config)
    if with_index is None or late.item is None:
        config.hook.pytest_runtest_logreport(report=report)
        return
    # A worker of pytest-xdist names tests by their index, and checks that against the one it runs.
    before = with_index.item_index
    try:
        with_index.item_index = late.item.session.items.index(late.item)
        config.hook.pytest_runtest_logreport(report=report)
    finally:
        with_index.item_index = before


def _worker_of(config: pytest.Config) -> Any:  # noqa: ANN401 - of pytest-xdist
    if not hasattr(config, "workerinput"):
        return None
    plugins = config.pluginmanager.get_plugins()
    return next((plugin for plugin in plugins if hasattr(plugin, "item_index")), None)

"""What reports say about instances: logs of the test's time, failed jobs, leaks, dumps and late errors."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flux.plugin import options
from pytest_flux.plugin.current import set_item
from pytest_flux.plugin.tracebacks import is_plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_flux.instance.flux_instance import FluxInstance
    from pytest_flux.plugin.pool import Held, Late, Pool

__tracebackhide__ = is_plain
NEXT = pytest.StashKey["pytest.Item | None"]()
"""The test after a test, if known."""

STARTED = pytest.StashKey[float]()
"""When a test began, in seconds since the epoch."""

_LEAKS = pytest.StashKey[list[str]]()
_ENDED = pytest.StashKey["list[Held]"]()
# Attributes of reports, which pytest-xdist sends to the controller; the section that lists them; and how.
_SUMMARIES = (
    ("flux_leaks", "flux: left behind by tests, and put right", "{}: {}"),
    ("flux_dumps", "flux: dumps", "{}:\n  {}"),
)
_REPORTED = pytest.StashKey[dict[str, list[tuple[str, str]]]]()
_MAX_JOBS = 10
_JOB_PATIENCE = 2.0
# The launcher's trace of what brokers say to its PMI server.
_PMI = "cmd="


def begin(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Note that a test begins."""
    set_item(item.config, item)
    item.stash[NEXT] = nextitem
    item.stash[STARTED] = time.time()
    item.stash[_LEAKS] = []
    item.stash[_ENDED] = []


def end(item: pytest.Item) -> None:
    """Note that a test is over."""
    set_item(item.config, None)


def add_leaks(item: pytest.Item | None, leaks: list[str], *, strict: bool) -> None:
    """Note what a test has left behind; with ``strict``, fail it."""
    if item is None or not leaks:
        return
    item.stash[_LEAKS] += leaks
    if strict:
        # One line: the summary of the run shows the first.
        pytest.fail(f"flux: left behind: {'; '.join(leaks)}", pytrace=False)


def note_end(item: pytest.Item | None, held: Held) -> None:
    """Note an instance that ends with its test: the teardown of another fixture may have failed already."""
    if item is not None and held.scope == "function":
        item.stash[_ENDED].append(held)


def complete(pool: Pool, item: pytest.Item, report: pytest.TestReport) -> None:
    """Add logs, leaks, facts and dumps to the report of a test."""
    if report.when == "teardown" and item.stash.get(_LEAKS, None):
        leaks = item.stash[_LEAKS]
        report.sections.append(("flux: left behind", "\n".join(leaks)))
        report.flux_leaks = leaks  # type: ignore[attr-defined]
    for held in pool.used_by(item):
        if report.when == "call":
            # Properties of the test, not of this report: JUnit files take them from the test's last report.
            item.user_properties.append((f"flux: {held.name}", facts(held.instance)))
        if report.failed:
            held.failed = True
            report.sections += _sections(held, item.stash.get(STARTED, 0.0))
    if report.when == "teardown" and report.failed:
        for held in item.stash.get(_ENDED, []):
            report.sections += _logs(held)
    if options.value_of(item.config, "dump") != "no":
        from pytest_flux.plugin import dumping

        dumping.complete(item, report, [(held.name, held.instance) for held in pool.used_by(item)])


def facts(instance: FluxInstance) -> str:
    """Describe an instance in one line."""
    if not instance.is_running:
        return repr(instance)
    if instance.is_suspended:
        return f"{instance!r}, rank 0 is suspended"
    asked = {"name": "version"}
    version = _quietly(lambda: instance.client.rpc("attr.get", asked).get(_JOB_PATIENCE)["value"], "?")
    return f"{_engine(instance.settings.broker)} {version}, size {instance.size}, {instance.uri}"


def _engine(broker: str) -> str:
    """The engine that ``auto`` stands for, and the path of its broker."""
    from pytest_flux.launcher.engine import find_engine
    from pytest_flux.launcher.spec import LaunchError

    try:
        engine = find_engine(broker, os.environ, rehearsal=True)
    except LaunchError:
        return broker
    return f"{engine.kind} ({engine.broker})"


def _sections(held: Held, since: float) -> Iterator[tuple[str, str]]:
    instance, name = held.instance, held.name
    yield from _logs(held)
    if instance.keep and instance.directory:
        yield f"flux: kept ({name})", instance.directory
    if instance.is_running and not instance.dead_brokers() and not instance.is_suspended:
        yield from _quietly(lambda: list(_jobs(instance, name, since)), [])


def _logs(held: Held) -> Iterator[tuple[str, str]]:
    """What brokers and launcher have written since the test began."""
    from pytest_flux.instance.log import LAUNCHER, by_writer

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


def _jobs(instance: FluxInstance, name: str, since: float) -> Iterator[tuple[str, str]]:
    """The stories of the jobs that have failed since the test began, and of those that have not ended."""
    from pytest_flux.client.story import tell
    from pytest_flux.protocol.fluid import f58
    from pytest_flux.protocol.job_state import ACTIVE

    listed = instance.client.jobs.list(timeout=_JOB_PATIENCE)
    failed = [job for job in listed if job.get("success") is False and job.get("t_submit", 0.0) >= since]
    active = [job for job in listed if job["state"] & ACTIVE]
    for word, jobs in (("job", failed), ("active job", active)):
        for job in jobs[:_MAX_JOBS]:
            yield f"flux: {word} {f58(job['id'])} ({name})", tell(instance.client, job["id"], job)
        if len(jobs) > _MAX_JOBS:
            yield f"flux: more ({name})", f"{len(jobs) - _MAX_JOBS} more {word}s"


def _quietly(ask: Any, otherwise: Any) -> Any:  # noqa: ANN401
    """Call ``ask``; a report must not fail if the instance does not answer."""
    try:
        return ask()
    except Exception:  # noqa: BLE001 - the instance may fail in any way
        return otherwise


class Memory:
    """Collects, for the summary, what reports say, those of workers included.

    It is a plugin by itself, because the hook for reports has no access to the configuration.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._reported = config.stash.setdefault(_REPORTED, {})

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the attributes of one report, before a JUnit file gets it."""
        if self._config.getoption("xmlpath", None):
            _add_to_junit(self._config, report)
        for attribute, _, _ in _SUMMARIES:
            texts = [(report.nodeid, text) for text in getattr(report, attribute, ())]
            self._reported.setdefault(attribute, []).extend(texts)


def _add_to_junit(config: pytest.Config, report: pytest.TestReport) -> None:
    """Write our sections of a failure to the test's ``system-out``, where viewers of JUnit files look.

    pytest itself writes only captured output there, and that only if ``junit_logging`` is set.
    """
    from xml.etree import ElementTree as ET

    # There is no public way; pytest's own fixture record_xml_attribute goes this one.
    from _pytest.junitxml import bin_xml_escape, xml_key

    xml = config.stash.get(xml_key, None)
    sections = [f"{title}\n{text}" for title, text in report.sections if title.startswith("flux: ")]
    if xml is not None and sections:
        element = ET.Element("system-out")
        element.text = bin_xml_escape("\n\n".join(sections) + "\n")
        xml.node_reporter(report).append(element)


def summarize(terminalreporter: Any, config: pytest.Config) -> None:  # noqa: ANN401 - private to pytest before 8
    """List what tests have left behind, and the dumps of tests that have passed."""
    reported = config.stash.get(_REPORTED, {})
    for attribute, title, form in _SUMMARIES:
        if reported.get(attribute):
            terminalreporter.section(title)
            for nodeid, text in reported[attribute]:
                terminalreporter.line(form.format(nodeid, text))


def skip_without_bindings(call: pytest.CallInfo[None]) -> None:
    """Skip a test that has asked for Flux's own Python bindings where they cannot be imported."""
    # If the module was never imported, nothing of it was raised.
    instances = sys.modules.get("pytest_flux.instance.flux_instance")
    if call.excinfo is not None and instances is not None and isinstance(call.excinfo.value, instances.BindingsError):
        reason = str(call.excinfo.value)
        call.excinfo = pytest.CallInfo.from_call(lambda: pytest.skip(reason), call.when).excinfo


def send_late(config: pytest.Config, late: Late) -> None:
    """Report an error of a test that is over as an error of its teardown."""
    location = late.item.location if late.item is not None else (late.nodeid, None, late.nodeid)
    nodeid = late.item.nodeid if late.item is not None else late.nodeid
    report = pytest.TestReport(nodeid, location, {}, "failed", late.text, "teardown", [], 0.0)
    with_index = _worker_of(config)
    if with_index is None or late.item is None:
        config.hook.pytest_runtest_logreport(report=report)
        return
    # A worker of pytest-xdist names a test by its index, and checks it against the test that runs.
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

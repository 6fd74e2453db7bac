"""``--flux-report=FILE``: one HTML page of the run, its tests, their instances and what happened in these.

The problem: what the page shows of an instance must be asked before the instance ends, in the process that has it,
which may be a worker of pytest-xdist on another machine; and the page is one file, which the controller writes.

A directory of parts needs a file system that all share. What workers return at their end (``workeroutput``) is lost
if a worker crashes, with all that its earlier tests did. So what is collected travels with reports, as everything
else that workers find out: an instance is collected when its fixture is torn down, and the report of that teardown,
which is made afterwards, carries it. What ends after the last report (with ``-x``, or after ^C) is in
``workeroutput``. Without workers the same code runs in one process.

What must stay true:

* An instance is collected once, before it ends, is replaced or is handed back; `before_end` is called there.
* A key names an instance in the whole run. An instance that several workers share is known by its URI, and the last
  one to collect it has seen most.
* Nothing here lets a test fail: what an instance does not answer becomes a note in the page.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from pytest_flux import __version__
from pytest_flux.instance.attached import AttachedInstance
from pytest_flux.instance.log import LAUNCHER, by_writer
from pytest_flux.instance.settings import describe
from pytest_flux.plugin import options
from pytest_flux.plugin.reporting import STARTED, facts
from pytest_flux.protocol.severity import LOG_INFO, SEVERITY_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from pytest_flux.instance.flux_instance import FluxInstance
    from pytest_flux.plugin.pool import Held, Pool

_POOL_PATIENCE = 5.0
_LONGEST_TEXT = 20000
# A broker's line on standard error, without its time: APPNAME.SEVERITY[RANK]: TEXT.
_LINE = re.compile(r"([\w-]+)\.(\w+)\[(\d+)\]: (.*)")


class _Use:
    """An instance, from the first test that uses it to its end. ``marks`` are where tests began in its output."""

    def __init__(self, key: str, name: str, instance: FluxInstance, first: str) -> None:
        self.key = key
        self.name = name
        self.instance = instance
        self.first = first
        self.started = time.time()
        self.marks: list[tuple[int, str]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.stories: dict[str, str] = {}

    def is_answering(self) -> bool:
        """Whether rank 0 can be asked."""
        instance = self.instance
        return instance.is_running and 0 not in instance.dead_brokers() and not instance.is_suspended

    def note_jobs(self, asked: dict[str, Any]) -> None:
        """Add jobs, and what is newer about those that are known."""
        self.jobs.update({job["number"]: job for job in asked["jobs"]})
        self.stories.update(asked["stories"])


class Recorder:
    """The plugin that records a run, registered if a page is wanted. ``path`` is that of the page.

    ``pool`` returns the instances of this process, None before the first.
    """

    def __init__(self, config: pytest.Config, path: str, pool: Callable[[], Pool | None]) -> None:
        self._config = config
        self._pool = pool
        self._path = path
        self._began = time.time()
        self._is_worker = hasattr(config, "workerinput")
        self._worker = getattr(config, "workerinput", {}).get("workerid", "main")
        self._count = 0
        self._uses: list[_Use] = []
        self._collected: list[dict[str, Any]] = []
        # In the process that writes the page: what reports say.
        self._instances: dict[str, dict[str, Any]] = {}
        self._tests: dict[str, dict[str, Any]] = {}

    # -- instances, in the process that has them

    def use(self, held: Held, item: pytest.Item) -> str:
        """Note that a test uses an instance, and return the key of the instance."""
        use = self._find(held)
        if use is None:
            self._count += 1
            is_shared = isinstance(held.instance, AttachedInstance)
            key = held.instance.uri if is_shared else f"{self._worker}-{self._count}"
            use = _Use(key, held.name, held.instance, item.nodeid)
            use.started = item.stash.get(STARTED, use.started)
            self._uses.append(use)
        if not use.marks or use.marks[-1][1] != item.nodeid:
            use.marks.append((held.mark, item.nodeid))
        return use.key

    def before_check(self, held: Held) -> None:
        """Collect the jobs of a test before its instance is put right, which removes them."""
        use = self._find(held)
        if use is not None and use.is_answering():
            from pytest_flux.report.collect import collect_jobs

            use.note_jobs(collect_jobs(use.instance.client, _POOL_PATIENCE))

    def _find(self, held: Held) -> _Use | None:
        return next((use for use in self._uses if use.instance is held.instance), None)

    def before_end(self, held: Held) -> None:
        """Collect an instance that is about to end."""
        use = self._find(held)
        if use is None:
            # No test has used it: the tests of its fixture were skipped, or their set-up failed.
            return
        self._uses.remove(use)
        self._collected.append(_collect(use))

    def _take_collected(self) -> str:
        collected, self._collected = self._collected, []
        return json.dumps(collected)

    # -- hooks

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, None]:
        """Add what is known of a test, and of instances that have ended, to its reports."""
        outcome = yield
        if outcome.exception is not None:
            return
        report: Any = outcome.get_result()
        pool = self._pool()
        used: list[str] = []
        if pool is not None and not (report.skipped and report.when == "setup"):
            used = [self.use(held, item) for held in pool.used_by(item) if held.instance.is_running]
        now = time.time()
        report.flux_test = {"started": item.stash.get(STARTED, now), "ended": now, "instances": used}
        if self._collected:
            report.flux_instances = self._take_collected()
        if report.failed:
            link = f"{self._path}#test={quote(item.nodeid, safe='')}"
            report.sections.append(("flux: report", link))
            self._link_html(report, link)

    def _link_html(self, report: Any, link: str) -> None:  # noqa: ANN401 - with attributes of pytest-html
        path = getattr(self._config.option, "htmlpath", None)
        if path and self._config.pluginmanager.hasplugin("html"):
            from pytest_html import extras

            place = os.path.dirname(os.path.abspath(os.path.expandvars(os.path.expanduser(path))))
            relative = os.path.relpath(self._path, place)
            link = quote(relative) + link[len(self._path) :]
            report.extras = [*getattr(report, "extras", ()), extras.url(link, name="Flux report")]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: Any) -> None:  # noqa: ANN401 - with attributes of ours
        """Collect what a report says; in a controller, what those of workers say."""
        if self._is_worker:
            return
        self._add(getattr(report, "flux_instances", "[]"))
        known = getattr(report, "flux_test", {"started": time.time(), "ended": time.time(), "instances": []})
        test = self._tests.setdefault(report.nodeid, {"id": report.nodeid, "outcome": "passed", "text": "", **known})
        test["ended"] = known["ended"]
        test["instances"] = list(dict.fromkeys([*test["instances"], *known["instances"]]))
        if report.failed and report.when == "call":
            test["outcome"] = "failed"
        elif report.failed and test["outcome"] != "failed":
            test["outcome"] = "error"
        elif report.skipped:
            test["outcome"] = "skipped"
        if report.failed:
            test["text"] += _text(report)

    def _add(self, collected: str) -> None:
        for instance in json.loads(collected):
            self._instances[instance.pop("key")] = instance

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Collect what still runs; then write the page, or leave that to the controller."""
        pool = self._pool()
        if pool is not None:
            for held in pool.everything():
                self.before_end(held)
        if self._is_worker:
            self._config.workeroutput["flux_instances"] = self._take_collected()  # type: ignore[attr-defined]
            return
        self._add(self._take_collected())
        self._write()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:  # noqa: ANN401 - of pytest-xdist
        """Take what a worker has collected after its last report."""
        self._add(getattr(node, "workeroutput", {}).get("flux_instances", "[]"))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:  # noqa: ANN401 - private to pytest before 8
        """Say where the page is."""
        if os.path.exists(self._path):
            terminalreporter.write_sep("-", f"flux report: file://{quote(self._path)}")

    # -- the page

    def _write(self) -> None:
        from pytest_flux.report import page

        keys = list(self._instances)
        numbers = {key: number for number, key in enumerate(keys)}
        tests = [test for test in self._tests.values() if test["instances"] or test["outcome"] in ("failed", "error")]
        for test in tests:
            test["seconds"] = test["ended"] - test["started"]
            # The instances of a worker that has crashed are not known.
            test["instances"] = [numbers[key] for key in test["instances"] if key in numbers]
        from pytest_flux.report.collect import moment

        arguments = shlex.join(["pytest", *map(str, self._config.invocation_params.args)])
        data = {
            "title": f"Flux report: {self._config.rootpath.name}",
            "about": f"{moment(self._began)}, pytest-flux {__version__}, {arguments}",
            "others": len(self._tests) - len(tests),
            "tests": tests,
            "instances": list(self._instances.values()),
        }
        try:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            page.write(self._path, data)
        except OSError as error:
            raise pytest.UsageError(f"--flux-report={self._path}: {error.strerror}") from None


def register(config: pytest.Config, pool: Callable[[], Pool | None]) -> None:
    """Register a recorder (see there). Raises UsageError for a path that cannot be one."""
    given: str = options.value_of(config, "report")
    path = os.path.abspath(os.path.join(config.invocation_params.dir, os.path.expanduser(given)))
    if os.path.isdir(path):
        raise pytest.UsageError(f"--flux-report={given}: is a directory: give the name of a file")
    from pytest_flux.plugin.pool import OBSERVER

    config.pluginmanager.register(Recorder(config, path, pool), OBSERVER)


def _text(report: Any) -> str:  # noqa: ANN401 - of pytest
    """What the page shows of a failure: the traceback, and the stories of jobs. The log is in the page."""
    parts = [f"{report.when}: {str(report.longreprtext)[:_LONGEST_TEXT]}"]
    told = [(title, text) for title, text in report.sections if re.match(r"flux: (active )?job ", title)]
    parts += [f"--- {title} ---\n{text}" for title, text in told]
    return "\n".join(parts)[: 2 * _LONGEST_TEXT] + "\n"


def _collect(use: _Use) -> dict[str, Any]:
    """What the page shows of an instance, with its output."""
    from pytest_flux.report import collect

    instance = use.instance
    asked: dict[str, Any] = {"size": instance.size, "hosts": [], "overlay": [], "jobs": [], "stories": {}, "log": []}
    dead = instance.dead_brokers()
    if not use.is_answering():
        asked["notes"] = ["rank 0 does not run: jobs, overlay and times are not known"]
        about = {"size": str(instance.size)}
    else:
        asked = collect.collect(instance.client, _POOL_PATIENCE)
        use.note_jobs(asked)
        asked["jobs"] = list(use.jobs.values())
        about = {"engine": facts(instance), **collect.facts(asked)}
    if dead:
        asked["notes"].append("ended: " + ", ".join(f"rank {rank} (exit code {code})" for rank, code in dead.items()))
    have = {line[1] for line in asked["log"]}
    asked["log"] += [line for line in _output(use) if line[1] not in have]
    return {
        **asked,
        "jobs": list(use.jobs.values()),
        "stories": use.stories,
        "key": use.key,
        "name": use.name,
        "what": describe(instance.settings),
        "first": use.first,
        "started": use.started,
        "ended": time.time(),
        "facts": {"settings": describe(instance.settings), **about},
    }


def _output(use: _Use) -> Iterator[list[Any]]:
    """The output of the instance as lines of the log, without times, each with the test that began before it."""
    output = use.instance.output
    bounds = [*use.marks, (output.position(), "")]
    bounds[0] = (0 if output.path is None else bounds[0][0], bounds[0][1])
    for (start, nodeid), (end, _) in itertools.pairwise(bounds):
        for writer, lines in by_writer(output.text(start, end)).items():
            for line in lines:
                found = _LINE.search(line) if writer != LAUNCHER else None
                if found is None:
                    yield [None, None, LOG_INFO, "", line, nodeid]
                else:
                    name, level, rank, text = found.groups()
                    severity = SEVERITY_NAMES.index(level) if level in SEVERITY_NAMES else LOG_INFO
                    yield [None, int(rank), severity, name, text, nodeid]

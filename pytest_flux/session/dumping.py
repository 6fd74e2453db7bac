"""``--flux-dump``: what an instance had in its key-value store when its test failed, as an archive to open again."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flux.protocol.blobref import decode_blobref
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.session import options

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_flux.instance import FluxInstance
    from pytest_flux.session.pool import Held

_FIRST_PATIENCE, _PATIENCE = 5.0, 20.0
# A broker that was killed may take so long to be gone.
_DYING = 2.0
_NAME_MAX = 120


class _Made:
    """A dump, or why there is none. ``is_wanted`` once it is known that it is to stay."""

    def __init__(self, held: Held, path: str) -> None:
        self.held = held
        self.path = path
        self.is_wanted = False
        self.problem = ""
        self.notes: list[str] = []

    @property
    def text(self) -> str:
        """What to do with it."""
        if self.problem:
            return f"none: {self.problem}"
        notes = "".join(f"\n{note}" for note in self.notes)
        return f"{_program()} --test-size=1 --recovery={shlex.quote(self.path)} flux jobs -a{notes}"


_MADE = pytest.StashKey[list[_Made]]()
_TOLD = pytest.StashKey[list[tuple[str, str]]]()


def is_on(config: pytest.Config) -> bool:
    """Whether there will be dumps."""
    return bool(options.value_of(config, "dump") != "no")


def before_end(item: pytest.Item | None, held: Held) -> None:
    """An instance ends with its test, of which other fixtures may have failed, or yet fail: dump it to be ready."""
    if item is not None and is_on(item.config):
        _dump_once(item, [held])


def complete(item: pytest.Item, report: pytest.TestReport, used: Iterable[Held]) -> None:
    """Add to a report how to open the instances of its test again."""
    is_all = options.value_of(item.config, "dump") == "all" and report.when == "call"
    if report.failed or is_all:
        _dump_once(item, used)
    for made in item.stash.get(_MADE, []):
        if report.failed or is_all:
            made.is_wanted = True
            report.sections.append((f"flux: dump ({made.held.name})", made.text))
        elif report.when == "teardown" and not made.is_wanted and not made.problem:
            os.unlink(made.path)
    if is_all and not report.failed:
        # Nobody sees the sections of a test that passes. Travels to the controller of pytest-xdist as well.
        report.flux_dumps = [made.text for made in item.stash.get(_MADE, [])]  # type: ignore[attr-defined]


def note(config: pytest.Config, report: pytest.TestReport) -> None:
    """Keep, for the summary, what a report says."""
    told = config.stash.setdefault(_TOLD, [])
    told += [(report.nodeid, text) for text in getattr(report, "flux_dumps", ())]


def summarize(terminalreporter: Any, config: pytest.Config) -> None:  # noqa: ANN401 - private to pytest before 8
    """List the dumps of tests that have passed."""
    told = config.stash.get(_TOLD, [])
    if told:
        terminalreporter.section("flux: dumps")
        for nodeid, text in told:
            terminalreporter.line(f"{nodeid}:\n  {text}")


def _dump_once(item: pytest.Item, used: Iterable[Held]) -> None:
    all_made = item.stash.setdefault(_MADE, [])
    for held in used:
        if all(made.held is not held for made in all_made):
            made = _Made(held, "")
            all_made.append(made)
            try:
                made.path = os.path.join(_directory(item.config), _file_name(item, held, len(all_made)))
                made.notes = _write(held.instance, made.path)
            except (OSError, ProtocolError, FluxError) as error:
                made.problem = getattr(error, "text", None) or str(error)


def _write(instance: FluxInstance, path: str) -> list[str]:
    """Dump an instance, or what is left of it. What is the matter with that, a line each.

    Raises FluxError, ProtocolError, OSError.
    """
    if instance.is_running and 0 not in instance.dead_brokers():
        try:
            return dump(instance, path)
        except (OSError, FluxError, ProtocolError) as error:
            # Perhaps it is just dying.
            if instance.statedir is None:
                raise
            problem = str(error)
        try:
            return _dump_remains(instance.statedir, path)
        except FluxError:
            raise FluxError(errno.ETIMEDOUT, f"rank 0 does not answer: {problem}") from None
    return _dump_remains(instance.statedir, path)


def dump(instance: FluxInstance, path: str) -> list[str]:
    """Write the primary namespace to an archive. What is lost is left out; a line for each such thing.

    Raises FluxError, ProtocolError where the root cannot be read, OSError.
    """
    from pytest_flux.postmortem.archive import write_archive

    flux, deadline = instance.client, time.monotonic() + _PATIENCE

    def load(ref: str) -> bytes:
        left = max(deadline - time.monotonic(), 0.0)
        return flux.rpc("content.load", decode_blobref(ref)).get_bytes(left)

    root = flux.rpc("kvs.getroot", {"namespace": "primary", "flags": 0}).get(_FIRST_PATIENCE)["rootref"]
    return write_archive(path, load, root, time.time())


def _dump_remains(statedir: str | None, path: str) -> list[str]:
    """Dump what an instance without a rank 0 has left behind."""
    from pytest_flux.postmortem.archive import write_archive
    from pytest_flux.postmortem.dump import open_dump

    if statedir is None or not os.path.exists(f"{statedir}/content.sqlite"):
        raise FluxError(errno.ENOENT, "rank 0 does not run, and has left nothing behind")
    deadline = time.monotonic() + _DYING
    while True:
        try:
            with open_dump(statedir) as found:
                lost = write_archive(path, found.kvs.load, found.kvs.root, found.timestamp)
                return ["rank 0 does not run: this is what it has left behind", *found.problems, *lost]
        except FluxError as error:
            if error.errnum != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _directory(config: pytest.Config) -> str:
    """Where dumps go: as was said, else where pytest keeps things from run to run, else a directory of ours."""
    chosen: str = options.value_of(config, "dump_dir")
    for directory in _places(config, chosen):
        try:
            os.makedirs(directory, exist_ok=True)
        except OSError:
            if chosen:
                raise
            continue
        if chosen or os.access(directory, os.W_OK):
            return directory
    return tempfile.mkdtemp(prefix="flux-dump-")


def _places(config: pytest.Config, chosen: str) -> Iterator[str]:
    if chosen:
        yield os.path.join(config.invocation_params.dir, chosen)
        return
    if config.pluginmanager.hasplugin("cacheprovider") and config.cache is not None:
        try:
            yield str(config.cache.mkdir("flux-dump"))
        except OSError:
            pass
    yield str(config.rootpath / ".flux-dump")


def _file_name(item: pytest.Item, held: Held, number: int) -> str:
    """The same in each run. What is no letter is not kept, and what is too long is cut: hence the hash."""
    import hashlib

    words = re.sub(r"[^\w.-]+", "-", item.nodeid, flags=re.ASCII).strip("-.")[-_NAME_MAX:]
    fixture = "" if held.name == "flux_instance" else f"-{held.name}-{number}"
    mark = hashlib.sha256(item.nodeid.encode("utf-8", "surrogateescape")).hexdigest()[:6]
    return f"{words}{fixture}-{mark}.tar.gz"


def _program() -> str:
    """How to call `flux-start`: by its name where that leads to the one of this Python."""
    beside = os.path.join(os.path.dirname(sys.executable), "flux-start")
    found = shutil.which("flux-start")
    if not os.path.exists(beside):
        return "flux-start" if found else f"{shlex.quote(sys.executable)} -m pytest_flux.cli.flux_start"
    return "flux-start" if found and os.path.samefile(found, beside) else shlex.quote(beside)

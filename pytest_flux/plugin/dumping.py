"""``--flux-dump``: write the key-value store of a failed test's instance to an archive that can be opened again."""

from __future__ import annotations

import errno
import os
import re
import shlex
import tempfile
import time
from typing import TYPE_CHECKING

import pytest

from pytest_flux.plugin import options
from pytest_flux.plugin.terminal import program
from pytest_flux.protocol.blobref import decode_blobref
from pytest_flux.protocol.errors import FluxError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_flux.instance.flux_instance import FluxInstance

_FIRST_PATIENCE, _PATIENCE = 5.0, 20.0
# The time, in seconds, that a killed broker may take to exit.
_DYING = 2.0
_NAME_MAX = 120


class _Made:
    """A dump of the instance that a fixture has, or why there is none. It is kept if it ``is_wanted``."""

    def __init__(self, name: str, instance: FluxInstance) -> None:
        self.name = name
        self.instance = instance
        self.path = ""
        self.is_wanted = False
        self.problem = ""
        self.notes: list[str] = []

    @property
    def text(self) -> str:
        """How to open the dump."""
        if self.problem:
            return f"none: {self.problem}"
        notes = "".join(f"\n{note}" for note in self.notes)
        return f"{program()} --test-size=1 --recovery={shlex.quote(self.path)} flux jobs -a{notes}"


_MADE = pytest.StashKey[list[_Made]]()


def is_on(config: pytest.Config) -> bool:
    """Whether dumps are written."""
    return bool(options.value_of(config, "dump") != "no")


def before_end(item: pytest.Item | None, name: str, instance: FluxInstance) -> None:
    """Dump an instance before it ends with its test: the teardown of another fixture may still fail."""
    if item is not None and is_on(item.config):
        _dump_once(item, [(name, instance)])


def complete(item: pytest.Item, report: pytest.TestReport, used: Iterable[tuple[str, FluxInstance]]) -> None:
    """Add to a report how to open the dumps of the test's instances, which are given by fixture name."""
    is_all = options.value_of(item.config, "dump") == "all" and report.when == "call"
    if report.failed or is_all:
        _dump_once(item, used)
    for made in item.stash.get(_MADE, []):
        if report.failed or is_all:
            made.is_wanted = True
            report.sections.append((f"flux: dump ({made.name})", made.text))
        elif report.when == "teardown" and not made.is_wanted and not made.problem:
            os.unlink(made.path)
    if is_all and not report.failed:
        # The sections of a test that passes are not shown.
        report.flux_dumps = [made.text for made in item.stash.get(_MADE, [])]  # type: ignore[attr-defined]


def _dump_once(item: pytest.Item, used: Iterable[tuple[str, FluxInstance]]) -> None:
    all_made = item.stash.setdefault(_MADE, [])
    for name, instance in used:
        if all(made.instance is not instance for made in all_made):
            made = _Made(name, instance)
            all_made.append(made)
            try:
                made.path = os.path.join(_directory(item.config), _file_name(item, name, len(all_made)))
                made.notes = _write(instance, made.path)
            except (OSError, ProtocolError, FluxError) as error:
                made.problem = getattr(error, "text", None) or str(error)


def _write(instance: FluxInstance, path: str) -> list[str]:
    """Dump an instance, or its statedir if rank 0 is dead. Return the problems, a line each.

    Raises FluxError, ProtocolError, OSError.
    """
    if instance.is_running and 0 not in instance.dead_brokers():
        try:
            if instance.is_suspended:
                raise FluxError(errno.ETIMEDOUT, "it is suspended")
            return dump(instance, path)
        except (OSError, FluxError, ProtocolError) as error:
            # Perhaps rank 0 is dying.
            if instance.statedir is None:
                raise
            problem = str(error)
        try:
            return _dump_remains(instance.statedir, path)
        except FluxError:
            raise FluxError(errno.ETIMEDOUT, f"rank 0 does not answer: {problem}") from None
    return _dump_remains(instance.statedir, path)


def dump(instance: FluxInstance, path: str) -> list[str]:
    """Write the primary namespace to an archive. Return a line for each thing that is lost.

    Raises FluxError or ProtocolError if the root cannot be read, and OSError.
    """
    from pytest_flux.postmortem.archive import write_archive

    flux, deadline = instance.client, time.monotonic() + _PATIENCE

    def load(ref: str) -> bytes:
        left = max(deadline - time.monotonic(), 0.0)
        return flux.rpc("content.load", decode_blobref(ref)).get_bytes(left)

    root = flux.rpc("kvs.getroot", {"namespace": "primary", "flags": 0}).get(_FIRST_PATIENCE)["rootref"]
    return write_archive(path, load, root, time.time())


def _dump_remains(statedir: str | None, path: str) -> list[str]:
    """Dump the statedir of an instance whose rank 0 is dead."""
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
    """The directory for dumps: as given, else in pytest's cache or root directory, else a temporary one."""
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


def _file_name(item: pytest.Item, name: str, number: int) -> str:
    """A name that is the same in each run. Special characters are replaced and long names cut, hence the hash."""
    import hashlib

    words = re.sub(r"[^\w.-]+", "-", item.nodeid, flags=re.ASCII).strip("-.")[-_NAME_MAX:]
    fixture = "" if name == "flux_instance" else f"-{name}-{number}"
    mark = hashlib.sha256(item.nodeid.encode("utf-8", "surrogateescape")).hexdigest()[:6]
    return f"{words}{fixture}-{mark}.tar.gz"

"""``--flux-dump``: what an instance had in its key-value store when its test failed, as an archive to open again."""

from __future__ import annotations

import os
import re
import shlex
import time
from typing import TYPE_CHECKING

import pytest

from pytest_flux.protocol.blobref import decode_blobref
from pytest_flux.protocol.errors import FluxError, ProtocolError

if TYPE_CHECKING:
    from pytest_flux.client import Flux
    from pytest_flux.session.pool import Held

_PATIENCE = 20.0
_NAME_MAX = 120


def wanted(config: pytest.Config, report: pytest.TestReport) -> bool:
    """Whether instances are to be dumped now."""
    from pytest_flux.session.options import value_of

    which = value_of(config, "dump")
    return (report.failed and which != "no") or (which == "all" and report.when == "call")


def section(config: pytest.Config, held: Held, nodeid: str) -> tuple[str, str]:
    """Dump an instance; a section for the report, with the command that opens it again, or why there is none."""
    title = f"flux: dump ({held.name})"
    instance = held.instance
    if not instance.is_running or 0 in instance.dead_brokers():
        return title, "none: the instance does not run"
    path = os.path.join(_directory(config), f"{_file_name(nodeid, held.name)}.tar.gz")
    try:
        dump(instance.client, path)
    except (OSError, ProtocolError) as error:
        return title, f"none: {error}"
    return title, f"flux-start --test-size=1 --recovery={shlex.quote(path)} flux jobs -a"


def dump(flux: Flux, path: str) -> int:
    """Write the primary namespace to an archive; the number of its keys. What is lost is left out.

    Raises FluxError, ProtocolError where the root cannot be read, OSError.
    """
    from pytest_flux.postmortem.archive import ArchiveWriter
    from pytest_flux.postmortem.compression import create
    from pytest_flux.protocol.kvs_walk import walk

    deadline = time.monotonic() + _PATIENCE

    def load(ref: str) -> bytes:
        left = max(deadline - time.monotonic(), 0.0)
        return flux.rpc("content.load", decode_blobref(ref)).get_bytes(left)

    root = flux.rpc("kvs.getroot", {"namespace": "primary", "flags": 0}).get(_PATIENCE)["rootref"]
    with create(path) as file:
        writer = ArchiveWriter(file, time.time())
        for found in walk(load, root):
            try:
                if not found.problem:
                    writer.add(found)
            except FluxError:
                continue
        writer.close()
    return writer.keys


def _directory(config: pytest.Config) -> str:
    """Where pytest keeps things from run to run; a directory beside that where it does not."""
    if config.pluginmanager.hasplugin("cacheprovider") and config.cache is not None:
        return str(config.cache.mkdir("flux-dump"))
    directory = str(config.rootpath / ".flux-dump")
    os.makedirs(directory, exist_ok=True)
    return directory


def _file_name(nodeid: str, fixture: str) -> str:
    words = re.sub(r"[^\w.-]+", "-", nodeid).strip("-")[-_NAME_MAX:]
    return words if fixture == "flux_instance" else f"{words}-{fixture}"

"""The archive that rank 0 leaves when it ends, if `content.dump` says so (flux-core's rc3)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_flux.broker.boot.recovery import state_directory
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.severity import LOG_ERR, LOG_INFO

if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.kvs import Kvs
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.reactor.clock import Clock


def dump(kvs: Callable[[], Kvs], attributes: Attributes, log: BrokerLog, clock: Clock) -> bool:
    """Write the primary namespace as it is. Returns whether that succeeded; the log says why not."""
    path = attributes.get("content.dump") or ""
    is_auto = path == "auto"
    try:
        if is_auto:
            directory = f"{state_directory(attributes)}/dump"
            os.makedirs(directory, exist_ok=True)
            path = f"{directory}/{time.strftime('%Y%m%d_%H%M%S', time.localtime(clock.time()))}.tgz"
        log.write(LOG_INFO, f"dumping content to {path}")
        _write(kvs(), path, log, clock)
        if is_auto:
            _link(path)
    except (OSError, ProtocolError) as error:
        reason = error.text if isinstance(error, FluxError) else getattr(error, "strerror", None)
        log.write(LOG_ERR, f"content.dump: {path}: {reason or error}")
        return False
    return True


def _write(kvs: Kvs, path: str, log: BrokerLog, clock: Clock) -> None:
    from pytest_flux.postmortem.archive import write_archive

    kvs.settle()
    # As in flux-core: a blob that is lost does not prevent the dump of the rest.
    for line in write_archive(path, kvs.tree.load, kvs.namespace("primary").ref, clock.time()):
        log.write(LOG_ERR, f"content.dump: {line}")


def _link(path: str) -> None:
    """Let the next start with `content.restore` "auto" begin with this archive."""
    directory, name = os.path.split(path)
    temporary = f"{directory}/.RESTORE-{os.getpid()}"
    os.symlink(name, temporary)
    os.rename(temporary, f"{directory}/RESTORE")

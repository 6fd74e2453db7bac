"""The archive that rank 0 leaves when it ends, if `content.dump` says so (flux-core's rc3)."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from pytest_flux.broker.boot.recovery import state_directory
from pytest_flux.broker.log import LOG_ERR, LOG_INFO
from pytest_flux.protocol.errors import FluxError, ProtocolError

if TYPE_CHECKING:
    from pytest_flux.broker.broker import Broker


def dump(broker: Broker) -> bool:
    """Write the primary namespace as it is. Whether that went well; why not is in the log."""
    attributes = broker.attributes
    path = attributes.get("content.dump") or ""
    is_auto = path == "auto"
    try:
        if is_auto:
            directory = f"{state_directory(attributes)}/dump"
            os.makedirs(directory, exist_ok=True)
            path = f"{directory}/{time.strftime('%Y%m%d_%H%M%S')}.tgz"
        broker.log.write(LOG_INFO, f"dumping content to {path}")
        _write(broker, path)
        if is_auto:
            _link(path)
    except (OSError, ProtocolError) as error:
        reason = error.text if isinstance(error, FluxError) else getattr(error, "strerror", None)
        broker.log.write(LOG_ERR, f"content.dump: {path}: {reason or error}")
        return False
    return True


def _write(broker: Broker, path: str) -> None:
    from pytest_flux.postmortem.archive import write_archive

    kvs = broker.kvs
    kvs.settle()
    # As flux-core does: what is lost is lost, that is no reason to lose the rest.
    for line in write_archive(path, kvs.tree.load, kvs.namespace("primary").ref, time.time()):
        broker.log.write(LOG_ERR, f"content.dump: {line}")


def _link(path: str) -> None:
    """Have the next start, with `content.restore` as "auto" too, begin with this archive."""
    directory, name = os.path.split(path)
    temporary = f"{directory}/.RESTORE-{os.getpid()}"
    os.symlink(name, temporary)
    os.rename(temporary, f"{directory}/RESTORE")

"""The state that rank 0 begins with: a dump archive (`content.restore`), or the statedir of an earlier instance.

In recovery mode the instance works on a copy in its rundir, so that an inspection changes nothing and needs no
permission to write.
"""

from __future__ import annotations

import errno
import os

from pytest_flux.broker.boot.rundir import Cleanup, create_directory
from pytest_flux.broker.log import BrokerLog
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.severity import LOG_ERR, LOG_INFO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes

_RESTORE = "content.restore"
_DATABASE = "content.sqlite"
_SKIPPED_SHOWN = 10


def is_recovery(attributes: Attributes) -> bool:
    """Whether the instance only serves to inspect its state."""
    return "broker.recovery-mode" in attributes


def place(attributes: Attributes) -> tuple[str, bool]:
    """The directory of the content store, and whether it is removed with the broker."""
    if is_recovery(attributes):
        return f"{attributes.get('rundir')}/.recovery", True
    return attributes.get("statedir") or ".", attributes.get("statedir-cleanup") == "1"


def provide_state(attributes: Attributes, rundir: str, log: BrokerLog) -> list[Cleanup | None]:
    """Make the statedir, and in recovery mode the directory of the copy.

    Returns their clean-ups. Raises FluxError for a database that cannot be used.
    """
    if is_recovery(attributes) and os.path.exists(f"{attributes.get('statedir')}/{_DATABASE}"):
        # Unchanged: it will only be read.
        attributes.setdefault("statedir-cleanup", "0")
        return [_copy_state(attributes, log)]
    # In the rundir, unlike in flux-core, which makes another temporary directory: whoever removes the rundir of a
    # killed broker then removes this as well.
    attributes.setdefault("statedir", f"{rundir}/.state")
    made = [create_directory(attributes, "statedir", rundir)]
    return [*made, _copy_state(attributes, log)] if is_recovery(attributes) else made


def _copy_state(attributes: Attributes, log: BrokerLog) -> Cleanup:
    directory = place(attributes)[0]
    try:
        os.mkdir(directory, 0o700)
        cleanup = Cleanup.of(directory)
    except OSError as error:
        raise _because(error, directory) from None
    if _RESTORE not in attributes and os.path.exists(f"{attributes.get('statedir')}/{_DATABASE}"):
        from pytest_flux.postmortem.statedir import copy_state

        try:
            for line in copy_state(attributes.get("statedir") or "", directory):
                log.write(LOG_ERR, f"recovery: {line}")
        except OSError as error:
            cleanup.remove()
            raise _because(error) from None
    return cleanup


def restore(attributes: Attributes, log: BrokerLog) -> None:
    """Replace the content by the archive that `content.restore` names. FluxError if that is impossible."""
    path, link = _archive(attributes)
    if path is None:
        return
    from pytest_flux.postmortem.archive import unpack

    log.write(LOG_INFO, f"restoring content from {path}")
    database = f"{place(attributes)[0]}/{_DATABASE}"

    def complain(line: str) -> None:
        log.write(LOG_ERR, f"{_RESTORE}: {line}")

    try:
        with open(path, "rb") as file:
            restored = unpack(
                file,
                database,
                hash_name=attributes.get("content.hash") or "sha1",
                partial=is_recovery(attributes),
                complain=complain,
            )
    except ProtocolError as error:
        raise FluxError(errno.EINVAL, f"{_RESTORE}: {path}: {error}") from None
    except OSError as error:
        raise _because(error, f"{_RESTORE}: {path}") from None
    for line in restored.skipped[:_SKIPPED_SHOWN]:
        complain(f"{path}: left out: {line}")
    if restored.problem:
        complain(f"{path}: {restored.problem}: only {restored.keys} keys are recovered")
    log.write(LOG_INFO, f"restored {restored.keys} keys ({restored.blobs} blobs)")
    if link is not None:
        os.unlink(link)


def _archive(attributes: Attributes) -> tuple[str | None, str | None]:
    """The archive, and the link that led to it, which is used once."""
    path = attributes.get(_RESTORE)
    if path != "auto":
        return path or None, None
    link = f"{state_directory(attributes)}/dump/RESTORE"
    return (os.path.realpath(link), link) if os.path.islink(link) else (None, None)


def state_directory(attributes: Attributes) -> str:
    """The default directory of archives: the statedir, or, if that is temporary, the current directory."""
    kept = attributes.get("statedir-cleanup") in (None, "0")
    return (attributes.get("statedir") or "." if kept else None) or "."


def banner(attributes: Attributes) -> str:
    """The greeting of a shell in recovery mode."""
    kept = attributes.get("statedir") if attributes.get("statedir-cleanup") == "0" else None
    rows = [(name, attributes.get(name) or "-") for name in ("broker.rc1_path", "broker.rc3_path", "config.path")]
    rows.append(
        ("statedir", f"{kept} (a copy: changes will not be preserved)" if kept else "changes will not be preserved")
    )
    lines = (
        "+" + "-" * 53,
        "| Entering Flux recovery mode.",
        "| All resources will be offline during recovery.",
        "| Any rc1 failures noted above may result in",
        "|  reduced functionality until manually corrected.",
        "|",
        *(f"| {name:<18} {value}" for name, value in rows),
        "|",
        "| Exit this shell when finished.",
        "+" + "-" * 53,
    )
    return "".join(f"{line}\n" for line in lines)


def _because(error: OSError, what: str = "") -> FluxError:
    if isinstance(error, FluxError):
        return FluxError(error.errnum, f"{what}: {error.text}" if what else error.text)
    reason = error.strerror or str(error)
    return FluxError(error.errno or errno.EIO, f"{what or error.filename}: {reason}")

"""The environment, directory, limits and files of a job's tasks."""

from __future__ import annotations

import base64
import os
import resource
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.exec.failure import ShellFailure
from pytest_flux.broker.exec.options import nested
from pytest_flux.protocol.fluid import f58, f58plain

if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.exec.placement import Placement

_ALIASES = {"ofile": "nofile"}


def job_text(job_id: int, environ: dict[str, str]) -> str:
    """A job's id as its tasks are to see it."""
    return f58plain(job_id) if "FLUX_F58_FORCE_ASCII" in environ else f58(job_id)


def job_environ(
    attributes: Attributes, job_id: int, jobspec: dict[str, Any], placement: Placement, tmpdir: str
) -> dict[str, str]:
    """What all tasks of a shell have in common (flux-environment(7)): the jobspec's, with the job's own."""
    given = jobspec["attributes"].get("system", {}).get("environment")
    environ = {str(name): str(value) for name, value in given.items()} if isinstance(given, dict) else {}
    environ.pop("FLUX_PROXY_REMOTE", None)
    text = job_text(job_id, environ)
    path = attributes.get("jobid-path") or "/"
    environ |= {
        "FLUX_URI": attributes.get("local-uri") or "",
        "FLUX_KVS_NAMESPACE": f"job-{job_id}",
        "FLUX_JOB_ID_PATH": f"{'' if path == '/' else path}/{text}",
        "FLUX_JOB_SIZE": str(placement.ntasks),
        "FLUX_JOB_NNODES": str(len(placement.ranks)),
        "FLUX_JOB_ID": text,
        "FLUX_JOB_TMPDIR": tmpdir,
        "FLUX_TERMINUS_SESSION": "0",
    }
    if "HOSTNAME" in environ:
        environ["HOSTNAME"] = attributes.get("hostname") or ""
    if nested(jobspec, "attributes", "system", "shell", "options", "mpi") != "none":
        # Open MPI puts shared memory there, and jobs of one node must not meet in it.
        environ["OMPI_MCA_btl_vader_backing_directory"] = tmpdir
    return environ


def write_files(jobspec: dict[str, Any], directory: str) -> None:
    """Put the files of a jobspec (``attributes.system.files``, RFC 37) into the job's directory."""
    files = jobspec["attributes"].get("system", {}).get("files")
    if not isinstance(files, dict):
        return
    for name, file in files.items():
        try:
            _write_file(os.path.join(directory, str(name)), file)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ShellFailure(f"shell_init: {name}: {error}") from None


def _write_file(path: str, file: dict[str, Any]) -> None:
    mode = int(file.get("mode", 0o100600))
    data, encoding = file.get("data", ""), file.get("encoding")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if mode & 0o170000 == 0o120000:
        os.symlink(data, path)
        return
    if mode & 0o170000 == 0o040000:
        os.makedirs(path, exist_ok=True)
        return
    if encoding == "base64":
        content = base64.b64decode(data, validate=True)
    elif encoding in (None, "utf-8"):
        import json

        content = data.encode() if isinstance(data, str) else json.dumps(data).encode()
    else:
        raise ValueError(f"encoding {encoding} is not known")
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode & 0o7777 or 0o600)
    with os.fdopen(descriptor, "wb") as target:
        target.write(content)


def limits(options: dict[str, Any]) -> tuple[list[tuple[int, int]], list[str]]:
    """Soft limits that differ from ours, and complaints about those that cannot be had."""
    changes, complaints = [], []
    wanted = options.get("rlimit")
    for name, value in wanted.items() if isinstance(wanted, dict) else ():
        kind = getattr(resource, f"RLIMIT_{_ALIASES.get(str(name), str(name)).upper()}", None)
        if kind is None or not isinstance(value, int) or isinstance(value, bool):
            raise ShellFailure(f"invalid shell option rlimit.{name}={value}", component="rlimit")
        soft, hard = resource.getrlimit(kind)
        value = resource.RLIM_INFINITY if value < 0 else value
        above = value == resource.RLIM_INFINITY or value > hard
        if hard != resource.RLIM_INFINITY and above and value != hard:
            complaints.append(f"{name} exceeds current max, raising value to hard limit")
            value = hard
        if value != soft:
            changes.append((kind, value))
    return changes, complaints

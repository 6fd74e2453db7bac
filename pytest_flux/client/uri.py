"""URIs of instances: of jobs, parents and the outermost instance, and their forms for other hosts."""

from __future__ import annotations

import errno
import re

from pytest_flux.client.handle import Flux
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import parse_fluid
from pytest_flux.protocol.job_state import RUN

_LOCAL, _SSH = "local://", "ssh://"
_FLUX_CORE_SCHEMES = ("lsf", "openpmix", "slurm")


def local_uri(uri: str) -> str:
    """The URI for a process on the instance's own host. Raises ValueError."""
    if uri.startswith(_LOCAL):
        return uri
    if uri.startswith(_SSH):
        return _LOCAL + _path(uri[len(_SSH) :].partition("/")[2])
    raise ValueError(f"Cannot convert JobURI with scheme {uri.partition(':')[0]} to local")


def remote_uri(uri: str, host: str | None = None) -> str:
    """The URI for a process on another host; ``host`` is the instance's, ours unless given. Raises ValueError."""
    if uri.startswith(_SSH):
        return uri
    if not uri.startswith(_LOCAL):
        raise ValueError(f"Cannot convert JobURI with scheme {uri.partition(':')[0]} to remote")
    if host is None:
        import os

        host = os.uname().nodename
    return _SSH + host + _path(uri[len(_LOCAL) :])


def _path(path: str) -> str:
    return re.sub("/+", "/", "/" + path)


def host_of(uri: str) -> str | None:
    """The host in a URI, if there is one."""
    return uri[len(_SSH) :].partition("/")[0] if uri.startswith(_SSH) else None


def resolve(target: str, *, wait: bool = False, force_local: bool = False) -> str:
    """The URI of an instance.

    ``target`` is a URI, ``pid:`` with the id of a process in the instance, or a path of job ids, as in ``ƒabc/ƒdef``,
    which may begin with ``/`` for the outermost instance and contain ``..`` for the parent. With ``wait``, a job need
    not have published its URI yet. Raises ValueError if there is no URI, OSError if an instance on the way cannot be
    reached.
    """
    if target.startswith((_LOCAL, _SSH)):
        return target
    scheme, colon, rest = target.partition(":")
    if colon and scheme == "pid":
        return _uri_of_process(rest)
    if colon and scheme in _FLUX_CORE_SCHEMES:
        raise ValueError(f"{target}: only flux-core finds instances by way of {scheme}")
    if colon and scheme != "jobid":
        raise ValueError(f"No plugin for URI scheme {scheme}")
    path = rest if colon else target
    parts = ["/"] if path.startswith("/") else []
    parts += [part for part in path.split("/") if part not in ("", ".")]
    uri: str | None = None
    host: str | None = None
    for part in parts:
        with Flux(uri) as flux:
            if part == "/":
                uri = _root_of(flux)
            elif part == "..":
                uri = _parent_of(flux)
                uri = remote_uri(uri, host) if host else uri
            else:
                uri = _job_uri(flux, part, wait=wait)
                host = host_of(uri)
        if force_local:
            uri, host = local_uri(uri), None
    if uri is None:
        with Flux() as flux:
            uri = flux.getattr("local-uri")
    return uri


def _uri_of_process(pid: str) -> str:
    """FLUX_URI of a process. A broker's own is that of its parent, so this looks at a child of the broker."""
    import psutil

    try:
        process = psutil.Process(int(pid))
        environ = process.environ()
        children = process.children() if "broker" in process.name() else []
        uri = children[0].environ().get("FLUX_URI") if children else environ.get("FLUX_URI")
    except ValueError:
        raise ValueError(f"pid:{pid}: a process id is expected") from None
    except psutil.NoSuchProcess:
        raise ValueError(f"pid:{pid}: there is no such process") from None
    except psutil.AccessDenied:
        raise ValueError(f"pid:{pid}: its environment is not ours to read") from None
    if not uri:
        raise ValueError(f"PID {pid} doesn't seem to have a FLUX_URI")
    return uri


def _parent_of(flux: Flux) -> str:
    nested = int(flux.getattr("instance-level")) > 0
    return flux.getattr("parent-uri" if nested else "local-uri")


def _root_of(flux: Flux) -> str:
    if int(flux.getattr("instance-level")) == 0:
        return flux.getattr("local-uri")
    with Flux(flux.getattr("parent-uri")) as parent:
        return _root_of(parent)


def _job_uri(flux: Flux, name: str, *, wait: bool) -> str:
    try:
        jobid = parse_fluid(name)
    except ValueError:
        raise ValueError(f"{name} is not a valid Flux jobid") from None
    try:
        uri = _wait_for_uri(flux, jobid) if wait else _known_uri(flux, jobid, name)
    except FluxError as error:
        if error.errnum == errno.ENOENT:
            raise ValueError(f"jobid {name} not found") from None
        raise
    if not uri:
        raise ValueError(f"URI not found for job {name}")
    return uri


def _known_uri(flux: Flux, jobid: int, name: str) -> str | None:
    job = flux.jobs.get(jobid, ("state", "annotations"))
    if job["state"] != RUN:
        raise ValueError(f"jobid {name} is not running")
    uri = job.get("annotations", {}).get("user", {}).get("uri")
    return None if uri is None else str(uri)


def _wait_for_uri(flux: Flux, jobid: int) -> str | None:
    for event in flux.jobs.watch(jobid):
        if event["name"] == "memo" and "uri" in event["context"]:
            return str(event["context"]["uri"])
        if event["name"] == "finish":
            break
    return None

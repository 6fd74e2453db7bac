"""Turn settings into a launch spec: personalities, directories to keep, tracing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from typing import NamedTuple

from pytest_flux.instance.settings import Settings
from pytest_flux.launcher.engine import Engine, find_engine
from pytest_flux.launcher.spec import LaunchError, LaunchSpec

CORES_PER_RANK = 2
"""Fake cores of each rank in the personality ``job``."""

_SCRIPTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "libexec")
# The rc scripts of a real instance. An embedded one has its services built in; they cost nothing until used.
_RC = {"job": "rc1-job.py", "kvs": "rc1-kvs.py"}
# The longest TMPDIR that leaves room for the names of sockets; pytest's may be longer.
_LONGEST_PARENT = 60


class Preparation(NamedTuple):
    """What to launch, in which environment, and the directory that was made for it, if any."""

    spec: LaunchSpec
    environ: dict[str, str]
    directory: str | None

    def finish(self, log: str, *, keep: bool) -> str | None:
        """Remove the directory after the instance has ended, or keep it, with the log, and return its path."""
        if self.directory is None:
            return None
        if not keep:
            shutil.rmtree(self.directory, ignore_errors=True)
            return None
        with open(f"{self.directory}/log", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(log)
        return self.directory


def prepare(settings: Settings, environ: Mapping[str, str], *, keep: bool, trace: bool) -> Preparation:
    """Prepare the launch of an instance with these settings. Raises LaunchError."""
    spec, directory = settings.spec(), None
    environ = dict(environ)
    if trace:
        spec = spec._replace(verbose=2)
    if settings.personality == "system" or (settings.rundir is None and (keep or settings.personality == "job")):
        directory = _make_directory()
        spec = spec._replace(rundir=directory, rundir_create=False, rundir_cleanup=not keep)
    try:
        if settings.personality == "system":
            assert directory is not None
            spec = _bootstrap_from_file(settings, spec, directory, environ)
        elif settings.personality != "full":
            spec = _with_services(settings, spec, directory or os.fspath(settings.rundir or ""), environ)
        if keep and directory is not None and not settings.recovery:
            spec = _with_statedir(spec, directory)
    except BaseException:
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)
        raise
    return Preparation(spec, environ, directory)


def _make_directory() -> str:
    parent = os.fsencode(tempfile.gettempdir())
    # Configuration files, which are UTF-8, contain the path.
    is_fit = len(parent) <= _LONGEST_PARENT and parent.decode(errors="ignore").encode() == parent
    return tempfile.mkdtemp(prefix="flux-", dir=os.fsdecode(parent) if is_fit else "/tmp")


def _with_statedir(spec: LaunchSpec, directory: str) -> LaunchSpec:
    if any(setting.startswith("statedir=") for setting in spec.setattrs):
        return spec
    os.makedirs(f"{directory}/state", mode=0o700, exist_ok=True)
    return _with_attributes(spec, {"statedir": f"{directory}/state"})


def _with_attributes(spec: LaunchSpec, attributes: Mapping[str, str]) -> LaunchSpec:
    """Return the spec with attributes added that it does not have: some cannot be set twice."""
    present = {setting.partition("=")[0] for setting in spec.setattrs}
    added = (f"{name}={value}" for name, value in attributes.items() if name not in present)
    return spec._replace(setattrs=(*added, *spec.setattrs))


def _with_services(settings: Settings, spec: LaunchSpec, rundir: str, environ: dict[str, str]) -> LaunchSpec:
    kind = find_engine(settings.broker, environ, rehearsal=True).kind
    if kind == "embedded":
        return _with_fake_cores(settings, spec, rundir) if settings.personality == "job" else spec
    if settings.personality == "minimal":
        return _with_attributes(spec, {"broker.rc1_path": "", "broker.rc3_path": ""})
    environ["PYTEST_FLUX_CORES"] = str(CORES_PER_RANK)
    paths = {
        "broker.rc1_path": f"flux modprobe run {_SCRIPTS}/{_RC[settings.personality]}",
        "broker.rc3_path": f"flux modprobe run {_SCRIPTS}/rc3.py",
    }
    return _with_attributes(spec, paths)


def _with_fake_cores(settings: Settings, spec: LaunchSpec, rundir: str) -> LaunchSpec:
    """Let the instance read R from a file: the configuration itself cannot name a host twice."""
    hosts = settings.hosts or ",".join([socket.gethostname()] * settings.size)
    os.makedirs(rundir, mode=0o700, exist_ok=True)
    _write(f"{rundir}/R", json.dumps(_resources(hosts, settings.size, CORES_PER_RANK)))
    path = json.dumps(f"{rundir}/R")
    return spec._replace(conf=("resource.noverify=true", f"resource.path={path}", *spec.conf))


def _bootstrap_from_file(settings: Settings, spec: LaunchSpec, rundir: str, environ: dict[str, str]) -> LaunchSpec:
    """Write configuration and certificate of a system instance below its rundir."""
    engine = find_engine(settings.broker, environ)
    hosts = f"fake[0-{settings.size - 1}]" if settings.size > 1 else "fake0"
    directory = f"{rundir}/conf.d"
    os.mkdir(directory)
    os.mkdir(f"{rundir}/state")
    bootstrap = [
        "[bootstrap]",
        f'default_bind = "ipc://{rundir}/tbon-%h"',
        f'default_connect = "ipc://{rundir}/tbon-%h"',
        f'hosts = [{{ host = "{hosts}" }}]',
    ]
    bootstrap.insert(1, f'curve_cert = "{_make_certificate(engine, rundir, environ)}"')
    _write(f"{directory}/bootstrap.toml", *bootstrap)
    _write(f"{rundir}/R", json.dumps(_resources(hosts, settings.size)))
    _write(f"{directory}/resource.toml", "[resource]", f'path = "{rundir}/R"', "noverify = true")
    attributes = {
        "broker.quorum": "1" if settings.start_mode == "leader" else str(settings.size),
        "tbon.topo": "custom",
        "statedir": f"{rundir}/state",
    }
    spec = spec._replace(hosts=hosts, config_path=directory, exit_mode="leader")
    return _with_attributes(spec, attributes)


def _make_certificate(engine: Engine, rundir: str, environ: Mapping[str, str]) -> str:
    path = f"{rundir}/cert"
    if engine.kind == "embedded":
        # Embedded brokers of one host do not encrypt, but a valid configuration names a certificate.
        _write(path)
        return path
    command = ["flux", "keygen", "--name=pytest-flux", path]
    done = subprocess.run(command, env=engine.apply(environ), capture_output=True, text=True)  # noqa: PLW1510
    if done.returncode:
        raise LaunchError(f"flux keygen: {done.stderr.strip()}")
    return path


def _resources(hosts: str, size: int, cores: int = 1) -> dict[str, object]:
    """R (RFC 20) with this many cores on each host."""
    ranks = f"0-{size - 1}" if size > 1 else "0"
    lite = [{"rank": ranks, "children": {"core": f"0-{cores - 1}" if cores > 1 else "0"}}]
    execution = {"R_lite": lite, "starttime": 0, "expiration": 0, "nodelist": [hosts]}
    return {"version": 1, "execution": execution}


def _write(path: str, *lines: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")

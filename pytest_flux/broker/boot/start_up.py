"""What a broker learns before it is made: from its command line, from bootstrap, and from the enclosing instance."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable

from pytest_flux.broker import defaults
from pytest_flux.broker.attributes import Attributes
from pytest_flux.broker.boot import recovery
from pytest_flux.broker.boot.boot import Boot, interface_hint, mapping
from pytest_flux.broker.boot.flux_script import write_flux_script
from pytest_flux.broker.boot.rundir import Cleanup, create_directory
from pytest_flux.broker.log import BrokerLog
from pytest_flux.directories import temporary_parent
from pytest_flux.options import Options
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.severity import LOG_DEBUG, LOG_ERR, LOG_INFO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

_SOCKET_PATH_MAX = 107

Cleanups: TypeAlias = "list[Callable[[], object]]"


class StartError(Exception):
    """The broker cannot start: the text says why."""


def take_settings(attributes: Attributes, options: Options) -> None:
    """Set attributes from the command line. StartError for a setting that is not allowed."""
    attributes.set("broker.pid", str(os.getpid()))
    attributes.set("version", defaults.VERSION)
    attributes.set("security.owner", str(os.getuid()))
    for setting in options.all("setattr"):
        name, equals, value = setting.partition("=")
        try:
            attributes.set_command_line(name, value if equals else None)
        except FluxError as error:
            raise StartError(f"{name}: {error.strerror}") from None
    verbose = options.integer("verbose", 0)
    if "hostname" not in attributes:
        attributes.set("hostname", socket.gethostname())
    if verbose and "log-stderr-mode" not in attributes:
        attributes.set("log-stderr-mode", "local")
    if "log-stderr-level" not in attributes:
        attributes.set("log-stderr-level", str({0: LOG_ERR, 1: LOG_INFO}.get(verbose, LOG_DEBUG)))


def configure(attributes: Attributes, options: Options) -> dict[str, Any]:
    """The configuration that the command line or the environment names. StartError if it cannot be read."""
    path = options.get("config-path") or os.environ.get("FLUX_CONF_DIR")
    config: dict[str, Any] = {}
    if not path and not options.has("conf"):
        return config
    from pytest_flux.broker.config import ConfigError, load_config, update_config

    if path:
        try:
            config = load_config(path)
        except ConfigError as error:
            raise StartError(f"Config file error: {error}") from None
        attributes.set("config.path", path)
    for value in options.all("conf"):
        try:
            update_config(config, value)
        except ConfigError as error:
            raise StartError(f"--conf: {error}") from None
    return config


def describe(attributes: Attributes, boot: Boot) -> None:
    """Set attributes from bootstrap."""
    attributes.set("rank", str(boot.rank))
    attributes.set("size", str(boot.size))
    attributes.setdefault("broker.boot-method", boot.method)
    attributes.set("instance-level", boot.instance_level or "0")
    if boot.under_flux:
        attributes.set("jobid", _jobid(boot.name))
    if (hint := interface_hint(boot)) is not None:
        attributes.setdefault("tbon.interface-hint", hint)
    attributes.set("broker.mapping", mapping(boot))


def _jobid(name: str) -> str:
    """The job id in the name of a job's PMI space; our own shell adds the time of its start for most programs."""
    return name.partition(".")[0] if name.startswith("ƒ") else name


def inherit(attributes: Attributes) -> None:
    """Take over what the enclosing instance left in the environment, if this broker really is a job of it."""
    is_job = "jobid" in attributes
    uri, namespace, path = (
        os.environ.pop(name, None) for name in ("FLUX_URI", "FLUX_KVS_NAMESPACE", "FLUX_JOB_ID_PATH")
    )
    os.environ.pop("FLUX_PROXY_REMOTE", None)
    attributes.set("parent-uri", uri if is_job else None)
    if is_job:
        attributes.set("parent-kvs-namespace", namespace)
    attributes.set("jobid-path", path if is_job and path else "/")


def create_directories(attributes: Attributes, rank: int, log: BrokerLog, cleanup: Cleanups) -> None:
    """Make rundir, statedir and flux command; their clean-ups go to ``cleanup``. Raises StartError and FluxError."""
    made = [create_directory(attributes, "rundir", temporary_parent(os.environ))]
    rundir = attributes.get("rundir") or ""
    made.append(_provide_flux(rundir, rank))
    if rank == 0:
        made += recovery.provide_state(attributes, rundir, log)
    elif "statedir" in attributes:
        attributes.delete("statedir")
    for directory in made:
        if directory is not None:
            cleanup.append(directory.remove)
    uri = attributes.get("local-uri")
    if uri is None:
        attributes.set("local-uri", f"local://{rundir}/local-{rank}")
    elif not uri.startswith("local://"):
        raise StartError("local-uri is malformed")
    elif len(os.fsencode(uri)) - len("local://") > _SOCKET_PATH_MAX:
        length = len(os.fsencode(uri)) - len("local://")
        raise StartError(
            f"local-uri length of {length} bytes exceeds max {_SOCKET_PATH_MAX} AF_UNIX socket path length"
        )


def _provide_flux(rundir: str, rank: int) -> Cleanup | None:
    """Put the ``flux`` command into the rundir. Rank 0 removes it, because it is the last to run programs."""
    write_flux_script(rundir, sys.executable)
    directory = f"{rundir}/bin"
    alone = all(name == "flux" or name.startswith(".flux-") for name in os.listdir(directory))
    return Cleanup.of(directory) if rank == 0 and alone else None

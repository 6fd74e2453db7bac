"""Defaults of an embedded broker: attribute values, and the environment of the programs that it runs."""

from __future__ import annotations

import os

from pytest_flux import python_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = "0.88.0"
"""The flux-core version whose protocols and attributes these are; tools compare it with their own."""

ATTRIBUTES = {
    "broker.cleanup-timeout": "none",
    "broker.quorum-warn": "1m",
    "broker.rc1_path": "",
    "broker.rc3_path": "",
    "broker.sd-stop-timeout": "none",
    "broker.shutdown-timeout": "none",
    "broker.shutdown-warn": "1m",
    "broker.unload-builtins-timeout": "1m",
    "content.hash": "sha1",
    "tbon.interface-hint": "default-route",
    "tbon.prefertcp": "0",
}
"""The values of flux-core 0.88, except rc1 and rc3: the services that flux-core's scripts load are built in here."""

LIBEXEC = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "libexec")
"""Where our `flux-broker` is, for a `flux-start` inside the instance to find."""

BUILTIN = {
    "confdir": "/etc/flux",
    "connector_path": LIBEXEC,
    "datadir": "/usr/share/flux",
    "exec_path": LIBEXEC,
    "libexecdir": LIBEXEC,
    "module_path": LIBEXEC,
    "python_path": python_path.stand_in(),
    "rc1_path": "",
    "rc3_path": "",
    "rundir": "/run/flux",
}
"""What `flux config builtin` shows: paths that flux-core knows since it was built, without those of its own parts."""


def environ(rundir: str, base: Mapping[str, str]) -> dict[str, str]:
    """What the programs of an embedded instance find in their environment, besides the broker's own (``base``).

    flux-core's driver sets the same variables, except PYTHONPATH, which is what its ``flux env`` adds. `flux` on PATH
    is the one in the rundir.
    """
    own, path = os.path.join(rundir, "bin"), base.get("PATH", os.defpath)
    return {
        "FLUX_CONNECTOR_PATH": LIBEXEC,
        "FLUX_EXEC_PATH": LIBEXEC,
        "FLUX_MODULE_PATH": LIBEXEC,
        "PATH": ":".join([own, *(part for part in path.split(":") if part and part != own)]),
        "PYTHONPATH": python_path.with_stand_in(base),
    }

"""Configuration and version: flux-core's ``conf_builtin.c`` and ``version.c``, and what debuggers of MPI look at."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

from pytest_flux.bindings.ffi import NULL, chars, fail, put, text
from pytest_flux.bindings.library import core, function

VERSION = (0, 88, 0)
"""The version of flux-core whose C API this is."""


def builtin(name: str) -> str | None:
    """A value that is compiled into flux-core. Ours are the places where embedded instances look."""
    prefix = os.environ.get("FLUX_INSTALL_PREFIX", sys.prefix)
    lib = f"{prefix}/lib/flux"
    libexec = f"{prefix}/libexec/flux"
    values = {
        "bindir": f"{prefix}/bin",
        "sbindir": f"{prefix}/sbin",
        "libdir": f"{prefix}/lib",
        "libexecdir": libexec,
        "datadir": f"{prefix}/share",
        "datarootdir": f"{prefix}/share",
        "sysconfdir": "/etc",
        "localstatedir": "/var",
        "confdir": "/etc/flux",
        "rundir": "/run/flux",
        "statedir": "/var/lib/flux",
        "jobtap_pluginpath": f"{lib}/job-manager/plugins",
        "connector_path": f"{lib}/connectors",
        "module_path": f"{lib}/modules",
        "exec_path": f"{libexec}/cmd",
        "broker_path": f"{libexec}/cmd/flux-broker",
        "rc1_path": "/etc/flux/rc1",
        "rc3_path": "/etc/flux/rc3",
        "shell_path": f"{libexec}/flux-shell",
        "shell_pluginpath": f"{lib}/shell/plugins",
        "shell_initrc": "/etc/flux/shell/initrc.lua",
        "pmi_library_path": f"{lib}/libpmi.so",
        "lua_path_add": f"{prefix}/share/lua/5.1/?.lua",
        "lua_cpath_add": f"{prefix}/lib/lua/5.1/?.so",
        "python_path": os.path.dirname(os.path.dirname(getattr(sys.modules.get("flux"), "__file__", None) or "")),
        "python_wrapper": f"{libexec}/python",
        "man_path": f"{prefix}/share/man",
        "no_docs_path": f"{prefix}/share/flux/.nodocs",
    }
    return values.get(name)


@function("char *, enum flux_conf_builtin_hint -> char *")
def flux_conf_builtin_get(key: Any, hint: int) -> Any:
    """A value that was fixed when flux-core was built: flux_conf_builtin_get(3)."""
    value = builtin(text(key) or "")
    return fail(errno.EINVAL, NULL) if value is None else chars(value)


@function("-> char *")
def flux_core_version_string() -> bytes:
    """The version of flux-core: flux_core_version(3)."""
    return chars(".".join(map(str, VERSION)))


@function("int *, int *, int * -> int")
def flux_core_version(major: Any, minor: Any, patch: Any) -> int:
    """The version of flux-core, as one number: flux_core_version(3)."""
    for target, value in zip((major, minor, patch), VERSION, strict=True):
        put(target, value)
    return VERSION[0] << 16 | VERSION[1] << 8 | VERSION[2]


# -- what is not flux-core's


@function("void * -> void")
def free(ptr: Any) -> None:
    """Give memory back: free(3). Python does."""


@function("ptrdiff_t -> void *")
def unpack_long(num: Any) -> Any:
    """A pointer from a number: for broker modules in Python, which only flux-core's broker loads."""
    raise NotImplementedError("unpack_long() is for broker modules, which only the broker of flux-core loads")


_debugged = [0]


@function("-> int")
def get_mpir_being_debugged() -> int:
    """Whether a debugger of MPI is attached."""
    return _debugged[0]


@function("int -> void")
def set_mpir_being_debugged(v: int) -> None:
    """Say whether a debugger of MPI is attached."""
    _debugged[0] = v


@function("-> void")
def MPIR_Breakpoint() -> None:  # noqa: N802
    """Where a debugger of MPI stops."""


core.MPIR_being_debugged = 0  # type: ignore[attr-defined]

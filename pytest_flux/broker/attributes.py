"""Broker attributes: names, values, and the rules for changing them.

The names and rules are those of flux-core 0.88 (flux-broker-attributes(7) and its table). Nobody can set a
name outside the table. A registered name without a value does not exist: everybody who may set attributes may set
it once.
"""

from __future__ import annotations

import errno
import os
import re

from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.hostlist import decode_hostlist

#: The value never changes once it is set, so clients may cache it. ``attr.get`` returns this very bit to them.
IMMUTABLE = 1
#: Not to be set on the command line. Says nothing about later.
READONLY = 2
#: Users may change it while the instance runs.
RUNTIME = 4

_FIXED = READONLY | IMMUTABLE

_REGISTERED = {
    "rank": _FIXED,
    "size": _FIXED,
    "version": READONLY,
    "rundir": 0,
    "rundir-cleanup": IMMUTABLE,
    "statedir": 0,
    "statedir-cleanup": IMMUTABLE,
    "security.owner": _FIXED,
    "local-uri": IMMUTABLE,
    "parent-uri": _FIXED,
    "instance-level": _FIXED,
    "jobid": _FIXED,
    "jobid-path": _FIXED,
    "parent-kvs-namespace": _FIXED,
    "hostlist": IMMUTABLE,
    "hostname": IMMUTABLE,
    "broker.mapping": _FIXED,
    "broker.critical-ranks": IMMUTABLE,
    "broker.boot-method": IMMUTABLE,
    "broker.pid": _FIXED,
    "broker.quorum": IMMUTABLE,
    "broker.quorum-warn": IMMUTABLE,
    "broker.shutdown-warn": IMMUTABLE,
    "broker.shutdown-timeout": IMMUTABLE,
    "broker.cleanup-timeout": 0,
    "broker.unload-builtins-timeout": 0,
    "broker.rc1_path": 0,
    "broker.rc3_path": 0,
    "broker.rc2_none": 0,
    "broker.rc2_pgrp": 0,
    "broker.exit-restart": RUNTIME,
    "broker.module-nopanic": RUNTIME,
    "broker.starttime": _FIXED,
    "broker.sd-notify": 0,
    "broker.sd-stop-timeout": IMMUTABLE,
    "broker.exit-norestart": 0,
    "broker.recovery-mode": 0,
    "broker.uuid": _FIXED,
    "conf.shell_initrc": RUNTIME,
    "conf.shell_pluginpath": RUNTIME,
    "config.path": IMMUTABLE,
    "tbon.topo": 0,
    "tbon.fanout": 0,
    "tbon.descendants": READONLY,
    "tbon.level": READONLY,
    "tbon.maxlevel": READONLY,
    "tbon.endpoint": READONLY,
    "tbon.parent-endpoint": READONLY,
    "tbon.zmqdebug": 0,
    "tbon.zmq_io_threads": 0,
    "tbon.child_rcvhwm": 0,
    "tbon.prefertcp": 0,
    "tbon.interface-hint": RUNTIME | IMMUTABLE,
    "tbon.torpid_min": 0,
    "tbon.torpid_max": 0,
    "tbon.tcp_user_timeout": 0,
    "tbon.connect_timeout": 0,
    "log-ring-size": IMMUTABLE,
    "log-forward-level": IMMUTABLE,
    "log-critical-level": IMMUTABLE,
    "log-filename": 0,
    "log-syslog-enable": IMMUTABLE,
    "log-syslog-level": IMMUTABLE,
    "log-stderr-mode": IMMUTABLE,
    "log-stderr-level": RUNTIME,
    "log-level": IMMUTABLE,
    "content.backing-module": 0,
    "content.hash": IMMUTABLE,
    "content.dump": RUNTIME,
    "content.restore": RUNTIME,
    "cron.directory": 0,
    # Ours, see timekeeper.py. flux-core has no such names.
    "clock.mode": 0,
    "clock.start": IMMUTABLE,
}

# Whole families of names, by their beginning.
_FAMILIES = {
    "test.": RUNTIME,
    "test-ro.": READONLY,
    "test-nr.": 0,
    "test-im.": IMMUTABLE,
    "test-rd.": RUNTIME,
    "vendor.": RUNTIME | IMMUTABLE,
}

# What C's strtoll takes, and with base 10 nothing else.
_INTEGER = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+")


def registered_flags(name: str) -> int | None:
    """The flags of a name that may be an attribute, None for one that may not."""
    flags = _REGISTERED.get(name)
    if flags is None:
        flags = next((flags for start, flags in _FAMILIES.items() if name.startswith(start)), None)
    return flags


class Attributes:
    """The attributes of one broker. Errors are FluxErrors, with Flux's text if Flux has one."""

    def __init__(self) -> None:
        self._values: dict[str, str | None] = {}
        self._hostlist = ""
        self._hosts: list[str] = []

    def __contains__(self, name: object) -> bool:
        """Whether ``name`` is set, even to None: ``parent-uri`` is listed even if there is no parent."""
        return name in self._values

    def names(self) -> list[str]:
        """All names that are set, sorted."""
        return sorted(self._values)

    def get(self, name: str, default: str | None = None) -> str | None:
        """The value of ``name``; ``default`` only if it is not set at all."""
        return self._values.get(name, default)

    def flags(self, name: str) -> int:
        """Raises FluxError(ENOENT) if no attribute may have this name."""
        flags = registered_flags(name)
        if flags is None:
            raise FluxError(errno.ENOENT, "unknown attribute")
        return flags

    def set_command_line(self, name: str, value: str | None) -> None:
        """Set what ``-S name=value`` asks for; ``-S name`` is a value of None.

        Raises FluxError, whose text belongs after ``name: ``: ENOENT for an unknown name, EINVAL for a read-only
        one, EPERM if an immutable one is given a second time.
        """
        if self.flags(name) & READONLY:
            raise FluxError(errno.EINVAL, "attribute may not be set on the command line")
        self.set(name, value)

    def set(self, name: str, value: str | None) -> None:
        """Set on behalf of the broker itself. Raises FluxError: ENOENT unknown, EPERM immutable and already set."""
        if self.flags(name) & IMMUTABLE and name in self._values:
            raise FluxError(errno.EPERM, os.strerror(errno.EPERM))
        self._values[name] = value

    def setdefault(self, name: str, value: str | None) -> str | None:
        """The value of ``name``, which is first set to ``value`` if it is not set."""
        if name not in self._values:
            self.set(name, value)
        return self._values[name]

    def delete(self, name: str) -> None:
        """Delete an attribute, which need not be set. Raises FluxError(EPERM) for an immutable one."""
        if name in self._values:
            if self.flags(name) & IMMUTABLE:
                raise FluxError(errno.EPERM, os.strerror(errno.EPERM))
            del self._values[name]

    def check_update(self, name: str, *, force: bool = False) -> None:
        """Raise what ``attr.set`` raises before it looks at the value: ENOENT unknown, EINVAL not at run time."""
        flags = self.flags(name)
        if name in self._values and not force and not flags & RUNTIME:
            raise FluxError(errno.EINVAL, "attribute may not be updated")

    def update(self, name: str, value: str, *, force: bool = False) -> None:
        """Set on behalf of a user, as the ``attr.set`` request does; ``force`` overrides a missing RUNTIME only.

        ``log-stderr-level`` must be agreed with the log first (:func:`redirect_topic`).
        """
        self.check_update(name, force=force)
        self.set(name, value)

    def integer(self, name: str) -> int | None:
        """The number that ``name`` holds, None if it is not set. Raises FluxError(EINVAL) if it is not a number."""
        if name not in self._values:
            return None
        number = parse_integer(self._values[name])
        if number is None:
            raise FluxError(errno.EINVAL, f"{name}: {os.strerror(errno.EINVAL)}")
        return number

    def duration(self, name: str) -> float:
        """The time in seconds that ``name`` holds (RFC 23); negative for "none" and if it is not set.

        Raises ProtocolError if it is not a duration.
        """
        value = self.get(name)
        return -1.0 if value is None or value == "none" else parse_duration(value)

    def host_of(self, rank: int) -> str:
        """The host name of a rank, "?" while the attribute ``hostlist`` is not known."""
        text = self.get("hostlist") or ""
        if text != self._hostlist:
            self._hostlist, self._hosts = text, list(decode_hostlist(text))
        return self._hosts[rank] if rank < len(self._hosts) else "?"


def parse_integer(value: str | None) -> int | None:
    """``value`` as C's strtoll reads it, None if that is not all of it or does not fit into 64 bits."""
    if value is None or _INTEGER.fullmatch(value) is None:
        return None
    number = int(value)
    return number if -(2**63) <= number < 2**63 else None


def redirect_topic(name: str) -> str | None:
    """The service that must agree before ``attr.set`` changes ``name`` (unless forced), None for most names.

    Its request and its errors are those of ``attr.set`` itself; the value is set once it has answered.
    """
    if name == "log-stderr-level":
        return "log.setattr"
    return "testrd.setattr" if name.startswith("test-rd.") else None

"""The settings of one instance: a frozen value, checked in one place, wherever it comes from."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict

from pytest_flux.instance.configuration import find_mistake
from pytest_flux.launcher.spec import CLOCK_MODES, START_MODES, LaunchError, LaunchSpec, hostnames
from pytest_flux.protocol.personality import PERSONALITIES

_CHOICES = {"personality": PERSONALITIES, "start_mode": START_MODES}
_PLAIN_NAME = re.compile(r"[^.=]+")
_SECONDS = ("exit_timeout", "timeout")


Path = str | os.PathLike[str]


class SettingsKeywords(TypedDict, total=False):
    """The keywords of a call that makes settings, for type checkers. Settings explains them."""

    size: int
    broker: str
    personality: str
    rundir: Path | None
    recovery: bool | Path
    attrs: Mapping[str, object]
    conf: Mapping[str, Any]
    hosts: str | None
    start_mode: str
    exit_timeout: float
    wrap: str | Sequence[str]
    timeout: float
    clock: str | None


class MarkerKeywords(TypedDict, total=False):
    """The keywords of a marker: lists multiply the test."""

    size: int | list[int]
    broker: str | list[str]
    personality: str | list[str]
    rundir: Path | None
    recovery: bool | Path | list[bool | Path]
    attrs: Mapping[str, object] | Sequence[Mapping[str, object]]
    conf: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    hosts: str | list[str] | None
    start_mode: str | list[str]
    exit_timeout: float | list[float]
    wrap: str | Sequence[str]
    timeout: float | list[float]
    clock: str | list[str | None] | None
    fresh: bool


class FixtureKeywords(TypedDict, total=False):
    """The keywords of a fixture: lists multiply its tests, functions are called with the request."""

    size: int | list[int] | Callable[[Any], int]
    broker: str | list[str] | Callable[[Any], str]
    personality: str | list[str] | Callable[[Any], str]
    rundir: Path | Callable[[Any], Path | None] | None
    recovery: bool | Path | list[bool | Path] | Callable[[Any], bool | Path]
    attrs: Mapping[str, object] | Sequence[Mapping[str, object]] | Callable[[Any], Mapping[str, object]]
    conf: Mapping[str, Any] | Sequence[Mapping[str, Any]] | Callable[[Any], Mapping[str, Any]]
    hosts: str | list[str] | Callable[[Any], str | None] | None
    start_mode: str | list[str] | Callable[[Any], str]
    exit_timeout: float | list[float] | Callable[[Any], float]
    wrap: str | Sequence[str] | Callable[[Any], str | Sequence[str]]
    timeout: float | list[float] | Callable[[Any], float]
    clock: str | list[str | None] | Callable[[Any], str | None] | None


class SettingsError(ValueError):
    """Invalid settings. The text names the setting, its value and a valid alternative."""


@dataclass(frozen=True)
class Settings:
    """The shape of one instance.

    * ``size``: the number of brokers, at least 1.
    * ``broker``: ``auto``, ``system``, ``embedded`` or the path of a broker.
    * ``personality``: its services, as in Flux's own tests: ``full``; ``job``, with 2 fake cores on each rank;
      ``kvs``; ``minimal``, without rc scripts; ``system``, bootstrapped from a configuration file, with hosts named
      fake0 and so on.
    * ``rundir``: a directory for its sockets (made if missing, and then removed; None for a temporary directory).
    * ``recovery``: a state directory or dump file to start from, True for that of the system instance.
    * ``attrs``: broker attributes by name; ``conf``: the broker's configuration, as tables of tables.
    * ``hosts``: the host names of the brokers, as a hostlist (RFC 29).
    * ``start_mode``: ``all``, or ``leader``: the other brokers are started by ``brokers[rank].start()``.
    * ``exit_timeout``: how long, in seconds, brokers may survive the first that exits.
    * ``wrap``: words to put before a broker's command line: a sequence, or a string with commas.
    * ``clock``: ``manual`` or ``auto`` for a time that the test moves, with ``flux_instance.clock`` (embedded brokers
      only); None for the system's.
    * ``timeout``: the limit, in seconds, of start and stop each, and of other waits by default.
    """

    size: int = 1
    broker: str = "auto"
    personality: str = "full"
    rundir: str | os.PathLike[str] | None = None
    recovery: bool | str | os.PathLike[str] = False
    attrs: Mapping[str, object] = field(default_factory=dict)
    conf: Mapping[str, Any] = field(default_factory=dict)
    hosts: str | None = None
    start_mode: str = "all"
    exit_timeout: float = 20.0
    wrap: str | Sequence[str] = ()
    timeout: float = 60.0
    clock: str | None = None

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 1:
            raise SettingsError(f"size={self.size!r}: a number of brokers, at least 1, is expected")
        for name in ("attrs", "conf"):
            if not isinstance(getattr(self, name), Mapping):
                raise SettingsError(f"{name}={getattr(self, name)!r}: a mapping is expected")
        mistake = find_mistake(self.conf)
        if mistake:
            raise SettingsError(mistake)
        for name, choices in _CHOICES.items():
            _choose(name, getattr(self, name), choices)
        if self.clock is not None:
            _choose("clock", self.clock, CLOCK_MODES)
        for name in _SECONDS:
            value = getattr(self, name)
            if type(value) not in (int, float) or not value >= 0:
                raise SettingsError(f"{name}={value!r}: a number of seconds is expected")
        if self.personality == "system":
            if self.hosts is not None:
                raise SettingsError("hosts=, personality='system': that personality has host names of its own")
            if self.rundir is not None:
                raise SettingsError("rundir=, personality='system': its configuration is written for its own rundir")
        elif self.start_mode == "leader" and self.size > 1:
            text = "brokers that meet over PMI wait for each other: did you mean personality='system'?"
            raise SettingsError(f"start_mode='leader', personality={self.personality!r}: {text}")
        if self.hosts is not None:
            self._check_hosts(self.hosts)

    def _check_hosts(self, hosts: str) -> None:
        try:
            count = len(hostnames(hosts))
        except LaunchError as error:
            raise SettingsError(f"hosts={hosts!r}: {error}") from None
        if count != self.size:
            raise SettingsError(
                f"hosts={hosts!r}, size={self.size}: that is {count} hosts: did you mean size={count}?"
            )

    def spec(self) -> LaunchSpec:
        """The launch spec of these settings. It has no initial program: the instance runs until it is stopped."""
        own = {"broker.rc2_none": "1", "log-stderr-mode": "local", "log-stderr-level": "6"}
        attrs = {**own, **{name: str(value) for name, value in self.attrs.items()}}
        target = None if isinstance(self.recovery, bool) else os.fspath(self.recovery)
        return LaunchSpec(
            size=self.size,
            rundir=None if self.rundir is None else os.fspath(self.rundir),
            rundir_create=self.rundir is not None,
            broker=self.broker,
            setattrs=tuple(f"{name}={value}" for name, value in attrs.items()),
            conf=tuple(_assignments(self.conf, "")),
            recovery=bool(self.recovery),
            recovery_target=target,
            hosts=self.hosts,
            start_mode=self.start_mode,
            exit_timeout=float(self.exit_timeout),
            clock=self.clock,
            wrap=tuple(self.wrap.split(",")) if isinstance(self.wrap, str) and self.wrap else tuple(self.wrap),
        )


NAMES = tuple(item.name for item in fields(Settings))


def _choose(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise SettingsError(f"{name}={value!r}: {nearest(str(value), choices)}")


def nearest(name: str, known: Sequence[str]) -> str:
    """Suggest a known name for a misspelt one."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"


def _assignments(table: Mapping[str, Any], prefix: str) -> list[str]:
    """Convert a table to arguments of `--conf`: NAME.NAME=JSON. Raises SettingsError."""
    result: list[str] = []
    for name, value in table.items():
        key = f"{prefix}{name}"
        if not _PLAIN_NAME.fullmatch(str(name)):
            raise SettingsError(f"conf: {key!r}: the name of a table cannot have periods or equal signs here")
        # An empty table, or one with names that cannot be part of a dotted name, is one argument.
        if isinstance(value, Mapping) and value and all(_PLAIN_NAME.fullmatch(str(inner)) for inner in value):
            result += _assignments(value, f"{key}.")
            continue
        try:
            result.append(f"{key}={json.dumps(value, allow_nan=False)}")
        except (TypeError, ValueError) as error:
            raise SettingsError(f"conf: {key}={value!r}: {error}") from None
    return result


def update(settings: Settings, given: Mapping[str, Any], where: str) -> Settings:
    """Return the settings with the values that were given ``where``. Raises SettingsError."""
    for name in given:
        if name not in NAMES:
            raise SettingsError(f"{where}: unknown keyword {name!r}: {nearest(name, NAMES)}")
    try:
        if given.get("hosts") is not None and "size" not in given and settings.size == 1:
            # The number of hosts is the number of brokers.
            given = {**given, "size": _count_hosts(given["hosts"])}
        return replace(settings, **given)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None


def _count_hosts(hosts: str) -> int:
    try:
        return len(hostnames(hosts))
    except LaunchError:
        return 1


def describe(settings: Settings) -> str:
    """The settings that differ from the defaults, as keywords: ``size=4, broker='embedded'``."""
    default = Settings()
    parts = [
        f"{name}={getattr(settings, name)!r}" for name in NAMES if getattr(settings, name) != getattr(default, name)
    ]
    return ", ".join(parts) or "size=1"

"""What an instance for a test shall be like, and where that was said."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest

from pytest_flux.launcher.spec import LaunchSpec


@dataclass(frozen=True)
class Settings:
    """The shape of one instance.

    ``size`` is the number of brokers; ``rundir`` a directory for its sockets (made if missing, and then removed; None
    for a temporary one); ``broker`` auto, system, embedded or the path of a broker; ``attrs`` broker attributes by
    name; ``conf`` the broker's configuration, as tables of tables; ``timeout`` how long start and stop may each take,
    in seconds.
    """

    size: int = 1
    rundir: str | None = None
    broker: str = "auto"
    attrs: Mapping[str, object] = field(default_factory=dict)
    conf: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 60.0

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 1:
            raise pytest.UsageError(f"flux: size={self.size!r}: a number of brokers, at least 1, is expected")
        for name in ("attrs", "conf"):
            if not isinstance(getattr(self, name), Mapping):
                raise pytest.UsageError(f"flux: {name}={getattr(self, name)!r}: a mapping is expected")

    def spec(self) -> LaunchSpec:
        """The same for the launcher. The instance has no initial program: it runs until it is stopped."""
        own = {"broker.rc2_none": "1", "log-stderr-mode": "local", "log-stderr-level": "6"}
        attrs = {**own, **{name: str(value) for name, value in self.attrs.items()}}
        return LaunchSpec(
            size=self.size,
            rundir=None if self.rundir is None else str(self.rundir),
            rundir_create=self.rundir is not None,
            broker=self.broker,
            setattrs=tuple(f"{name}={value}" for name, value in attrs.items()),
            conf=tuple(_assignments(self.conf, "")),
        )


MARKER = "flux(size=, rundir=, broker=, attrs=, conf=, timeout=): what the instance of flux_instance is like"

_OPTIONS = (
    ("size", "N", "number of brokers of a Flux instance, unless a test says otherwise (default: 1)"),
    ("broker", "auto|system|embedded|PATH", "what runs as broker (default: auto: a real Flux if there is one)"),
)

NAMES = tuple(item.name for item in fields(Settings))


def _assignments(table: Mapping[str, Any], prefix: str) -> list[str]:
    """A table as the assignments that `--conf` takes. JSON's scalars and lists are TOML's as well."""
    result: list[str] = []
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            result += _assignments(value, f"{key}.")
        else:
            result.append(f"{key}={json.dumps(value)}")
    return result


def update(settings: Settings, given: Mapping[str, Any], where: str) -> Settings:
    """The settings with what was given ``where`` put over them. UsageError for a name that is none of them."""
    for name in given:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(NAMES)}"
            raise pytest.UsageError(f"{where}: unknown keyword {name!r}: {hint}")
    return replace(settings, **given)


def add_options(parser: pytest.Parser) -> None:
    """Declare ``--flux-NAME`` and the ini setting ``flux_NAME`` of what can be set for a whole run."""
    group = parser.getgroup("flux", "Flux instances")
    for name, metavar, text in _OPTIONS:
        group.addoption(f"--flux-{name}", dest=f"flux_{name}", metavar=metavar, help=text)
        parser.addini(f"flux_{name}", text)


def from_config(config: pytest.Config) -> Settings:
    """The settings of a run: command line over ini over defaults."""
    given: dict[str, Any] = {}
    for name, _, _ in _OPTIONS:
        value = config.getoption(f"flux_{name}") or config.getini(f"flux_{name}")
        if value:
            given[name] = _number(name, value) if name == "size" else value
    return update(Settings(), given, "settings")


def _number(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise pytest.UsageError(f"--flux-{name}, flux_{name}: {value!r}: a number is expected") from None


def for_test(request: pytest.FixtureRequest) -> Settings:
    """The settings of one test: its markers, the nearest last, over those of the run."""
    settings = from_config(request.config)
    for marker in reversed(list(request.node.iter_markers("flux"))):
        if marker.args:
            raise pytest.UsageError(f"{request.node.nodeid}: pytest.mark.flux takes keywords only, as in size=4")
        settings = update(settings, marker.kwargs, request.node.nodeid)
    return settings

"""The command line options and ini settings, all with the prefix ``flux``, and their values for a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_flux.protocol.personality import PERSONALITIES

if TYPE_CHECKING:
    from collections.abc import Callable

MARKER = (
    "flux(size=, broker=, personality=, rundir=, recovery=, attrs=, conf=, hosts=, start_mode=, exit_timeout=, wrap=,"
    " timeout=): what the instance of flux_instance is like; lists multiply the test"
)
SCOPES = ("function", "class", "module", "package", "session")
KEPT = ("no", "failed", "all")
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


class _Setting(NamedTuple):
    name: str
    metavar: str
    default: Any
    text: str
    choices: tuple[str, ...] = ()

    def convert(self, value: Any) -> Any:  # noqa: ANN401 - what pytest has
        """Convert a value of an option or ini setting to the default's type. Raises UsageError."""
        kind: Callable[[Any], Any] = type(self.default)
        try:
            converted = _truth(value) if kind is bool else kind(value)
        except ValueError:
            what = "true or false is expected" if kind is bool else "a number is expected"
        else:
            if self.choices and converted not in self.choices:
                what = f"one of {', '.join(filter(None, self.choices))} is expected"
            elif kind is int and converted < 0:
                what = "a number that is not negative is expected"
            else:
                return converted
        option = self.name.replace("_", "-")
        raise pytest.UsageError(f"--flux-{option}, flux_{self.name}: {value!r}: {what}")


def _truth(value: bool | str) -> bool:
    """Convert a word of an ini file to bool. Raises ValueError."""
    if isinstance(value, bool):
        return value
    word = value.lower()
    if word not in _TRUE + _FALSE:
        raise ValueError(value)
    return word in _TRUE


SHAPE = (
    _Setting("size", "N", 1, "number of brokers of a Flux instance, unless a test says otherwise"),
    _Setting("broker", "auto|system|embedded|PATH", "auto", "what runs as broker; auto: a real Flux if there is one"),
    _Setting("personality", "NAME", "full", "services: full, job, minimal, kvs or system", PERSONALITIES),
    _Setting("recovery", "PATH", "", "begin with what an instance left behind: a dump archive or a state directory"),
    _Setting("start_mode", "all|leader", "all", "brokers to start", ("all", "leader")),
    _Setting("exit_timeout", "SECONDS", 20.0, "how long brokers may survive the first that exits"),
    _Setting("wrap", "ARGS,...", "", "wrap brokers in a command"),
    _Setting("timeout", "SECONDS", 60.0, "how long the start and the stop of an instance may each take"),
)
"""Settings of instances; markers and calls override them."""

RUN = (
    _Setting("scope", "SCOPE", "function", "scope of the fixture flux_instance", SCOPES),
    _Setting("shared", "", False, "one instance for all pytest-xdist workers, as flux_instance"),
    _Setting("strict", "", False, "what a test leaves behind in an instance of wider scope is an error"),
    _Setting("keep", "failed|all", "no", "keep rundir, state and log of instances, and say where", KEPT),
    _Setting("dump", "failed|all", "no", "dump the KVS of instances, and say how to open that again", KEPT),
    _Setting("dump_dir", "DIR", "", "where dumps go (default: in pytest's cache directory)"),
    _Setting("prestart", "N", 0, "start N instances ahead of the tests that will need them"),
    _Setting("require", "system", "", "tests that need this engine fail where it is absent", ("", "system")),
    _Setting("pmi_trace", "", False, "trace the PMI conversations, for the reports of failed tests"),
    _Setting("keep_alive", "", False, "leave instances to the next run that wants the same"),
    _Setting("bindings", "", False, "`import flux` in tests, without libflux (pip install 'pytest-flux[bindings]')"),
    _Setting("uri", "URI", "", "use the instance at URI, and start none"),
    _Setting("attach", "", False, "use the instance that pytest runs in (FLUX_URI), and start none"),
)
"""Settings of a run."""

COMMANDS = {
    "show_config": "show the settings and where each comes from, and exit",
    "sweep": "remove what earlier runs have left behind, and exit",
}


def add_options(parser: pytest.Parser) -> None:
    """Declare ``--flux-NAME`` and the ini setting ``flux_NAME``."""
    group = parser.getgroup("flux", "Flux instances")
    for setting in (*SHAPE, *RUN):
        text = f"{setting.text} (default: {setting.default})" if setting.default else setting.text
        option, dest = f"--flux-{setting.name.replace('_', '-')}", f"flux_{setting.name}"
        if setting.default is False:
            group.addoption(option, dest=dest, action="store_true", default=None, help=text)
        else:
            group.addoption(option, dest=dest, metavar=setting.metavar, help=text)
        parser.addini(dest, text)
    for name, text in COMMANDS.items():
        group.addoption(f"--flux-{name.replace('_', '-')}", dest=f"flux_{name}", action="store_true", help=text)


def origin(config: pytest.Config, setting: _Setting) -> tuple[Any, str]:
    """The value of a setting, and its origin: command line over ini over default."""
    value = config.getoption(f"flux_{setting.name}")
    if value is not None:
        return setting.convert(value), "command line"
    value = config.getini(f"flux_{setting.name}")
    if value:
        return setting.convert(value), "ini"
    return setting.default, "default"


def value_of(config: pytest.Config, name: str) -> Any:  # noqa: ANN401 - by the setting's type
    """The value of one of RUN."""
    return next(origin(config, setting)[0] for setting in RUN if setting.name == name)


def wants_bindings(config: pytest.Config) -> bool:
    """Whether ``--flux-bindings`` or its ini setting is given, while only the first look at options was taken."""
    setting = next(setting for setting in RUN if setting.name == "bindings")
    given = config.known_args_namespace.flux_bindings
    return bool(setting.convert(given or config.getini("flux_bindings") or False))


def shape_of(config: pytest.Config) -> dict[str, Any]:
    """The settings of instances that the run gives, by the names of Settings."""
    said = {setting.name: origin(config, setting) for setting in SHAPE}
    return {name: value for name, (value, place) in said.items() if place != "default"}


def show(config: pytest.Config) -> str:
    """The settings with their origins, one a line."""
    rows = [(f"flux_{setting.name}", *origin(config, setting)) for setting in (*SHAPE, *RUN)]
    width = max(len(f"{name} = {value}") for name, value, _ in rows)
    return "\n".join(f"{f'{name} = {value}':<{width}}  ({place})" for name, value, place in rows)

"""The command line options and ini settings, all with the prefix ``flux``, and their values for a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_flux.protocol.personality import PERSONALITIES

if TYPE_CHECKING:
    from collections.abc import Callable

MARKER = (
    "flux(size=, broker=, personality=, rundir=, recovery=, attrs=, conf=, hosts=, start_mode=, exit_timeout=, wrap=,"
    " timeout=, clock=): what the instance of flux_instance is like; lists multiply the test"
)
SCOPES = ("function", "class", "module", "package", "session")
KEPT = ("no", "failed", "all")
_TRUE = ("1", "true", "yes", "on")
_UNSET: tuple[Any, ...] = (None, "", [])
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
        except (TypeError, ValueError):
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
    word = str(value).lower()
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
    _Setting("report", "FILE", "", "write an HTML page of the run: tests, instances, their jobs, overlays and logs"),
    _Setting("prestart", "N", 0, "start N instances ahead of the tests that will need them"),
    _Setting("require", "system", "", "tests that need this engine fail where it is absent", ("", "system")),
    _Setting("pmi_trace", "", False, "trace the PMI conversations, for the reports of failed tests"),
    _Setting("keep_alive", "", False, "leave instances to the next run that wants the same"),
    _Setting("bindings", "", False, "`import flux` in tests, without libflux (pip install 'pytest-flux[bindings]')"),
    _Setting("max_instances", "N", 8, "how many instances of wide scope, shared or kept alive may run at once"),
    _Setting("workers", "", False, "run the workers of pytest-xdist (-n) as tasks of a Flux job"),
    _Setting("workers_args", "ARGS", "", "options of flux submit for --flux-workers, such as '-c 2 -q debug'"),
    _Setting("uri", "URI", "", "use the instance at URI, and start none"),
    _Setting("attach", "", False, "use the instance that pytest runs in (FLUX_URI), and start none"),
)
"""Settings of a run."""

PAIRS = {
    "attr": ("NAME=VALUE", "a broker attribute"),
    "conf": ("TABLE.NAME=VALUE", "a value of the broker configuration"),
}
"""Settings of instances that have many values, by name."""

COMMANDS = {
    "show_config": "show the settings and where each comes from, and exit",
}
SWEEP = "remove what earlier runs have left behind, and exit; all: also what --flux-keep has kept"


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
        parser.addini(dest, text, type=_ini_type(setting), default=None)
    for name, (metavar, text) in PAIRS.items():
        option, dest = f"--flux-{name}", f"flux_{name}"
        group.addoption(option, dest=dest, action="append", metavar=metavar, help=f"{text}; may be given again")
        parser.addini(dest, f"{text}, one a line", type="linelist")
    for name, text in COMMANDS.items():
        group.addoption(f"--flux-{name.replace('_', '-')}", dest=f"flux_{name}", action="store_true", help=text)
    group.addoption("--flux-sweep", dest="flux_sweep", nargs="?", const="leftovers", metavar="all", help=SWEEP)


def _ini_type(setting: _Setting) -> Any:  # noqa: ANN401 - a literal of pytest's
    """The type of an ini setting. Since pytest 9, TOML files have numbers and booleans, which must be declared."""
    kind = type(setting.default)
    if kind is bool:
        return "bool"
    has_numbers = pytest.version_tuple >= (8, 4)
    return {int: "int", float: "float"}.get(kind) if has_numbers else None


def origin(config: pytest.Config, setting: _Setting) -> tuple[Any, str]:
    """The value of a setting, and its origin: command line over ini over default."""
    value = config.getoption(f"flux_{setting.name}")
    if value is not None:
        return setting.convert(value), "command line"
    value = _ini(config, setting)
    return (setting.default, "default") if value in _UNSET else (setting.convert(value), "ini")


def _ini(config: pytest.Config, setting: _Setting) -> Any:  # noqa: ANN401 - str, or what TOML has
    name = f"flux_{setting.name}"
    try:
        return config.getini(name)
    except (TypeError, ValueError, pytest.UsageError):
        # Our message names the option as well. Since pytest 9 the value is in an object, with its origin.
        raw: Any = config.inicfg.get(name, "")
        return getattr(raw, "value", raw)


def pairs(config: pytest.Config, name: str) -> dict[str, str]:
    """The values of one of PAIRS by name: those of the ini file, and those of the command line over them."""
    result = {}
    for text in (*config.getini(f"flux_{name}"), *(config.getoption(f"flux_{name}") or ())):
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise pytest.UsageError(f"--flux-{name}, flux_{name}: {text!r}: NAME=VALUE is expected")
        result[key.strip()] = value.strip()
    return result


def conf_of(config: pytest.Config) -> dict[str, Any]:
    """The broker configuration that ``flux_conf`` gives. A value is JSON, else text."""
    import json

    table: dict[str, Any] = {}
    for key, value in pairs(config, "conf").items():
        *parents, last = key.split(".")
        inner = table
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise pytest.UsageError(f"--flux-conf, flux_conf: {key!r}: {parent!r} has a value, and is no table")
        try:
            inner[last] = json.loads(value)
        except ValueError:
            inner[last] = value
    return table


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
    shape = {name: value for name, (value, place) in said.items() if place != "default"}
    tables = {"attrs": pairs(config, "attr"), "conf": conf_of(config)}
    return {**shape, **{name: table for name, table in tables.items() if table}}


def show(config: pytest.Config) -> str:
    """The settings with their origins, one a line."""
    rows = [(f"flux_{setting.name}", *origin(config, setting)) for setting in (*SHAPE, *RUN)]
    rows += [(f"flux_{name}[{key}]", value, "given") for name in PAIRS for key, value in pairs(config, name).items()]
    width = max(len(f"{name} = {value}") for name, value, _ in rows)
    return "\n".join(f"{f'{name} = {value}':<{width}}  ({place})" for name, value, place in rows)

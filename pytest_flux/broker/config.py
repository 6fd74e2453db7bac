"""The configuration of an instance: TOML files and ``--conf``.

The module reads what flux-core 0.88 reads (flux-broker(1), flux-config(5)) and returns the JSON object that
``config.get`` answers. Error texts are Flux's, except those of Python's parsers. TOML is 1.0 here: arrays of mixed
types, which flux-core's parser refuses, are accepted.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable
from datetime import date, datetime, time
from typing import Any

from pytest_flux.protocol.errors import ProtocolError

Config = dict[str, Any]

_INVALID = os.strerror(errno.EINVAL)
_TOML_PLACE = re.compile(r" \(at (?:line ([0-9]+), column [0-9]+|end of document)\)$")


class ConfigError(ValueError):
    """A configuration that cannot be used."""


class TableError(ConfigError):
    """A table that ``module`` refuses; the text of the error is the reason."""

    def __init__(self, module: str, reason: str) -> None:
        super().__init__(reason)
        self.module = module


def check_tables(config: Config, *, module: str | None = None) -> None:
    """Check the tables that ``module`` reads, or all tables. Raises TableError, in flux-core's words."""
    from pytest_flux.broker.resource.config import check_config
    from pytest_flux.protocol.config_tables import CHECKS

    for name, check in {**CHECKS, "resource": check_config}.items():
        if module in (None, name):
            _check(name, lambda: check(config))  # noqa: B023 - called at once


def check_start(config: Config, size: int) -> None:
    """Check everything that the start of an instance with ``size`` brokers reads. Raises TableError.

    ``[fake-resources]``, plugins and excluded ranks are checked only then, as in flux-core: nothing reads them later.
    """
    from pytest_flux.broker.resource.config import check_exclude, decode_config
    from pytest_flux.protocol.config_tables import check_plugins

    check_tables(config)
    _check("resource", lambda: check_exclude(decode_config(config), size))
    _check("job-manager", lambda: check_plugins(config))


def _check(module: str, check: Callable[[], None]) -> None:
    try:
        check()
    except ProtocolError as error:
        raise TableError(module, str(error)) from None


def load_config(path: str) -> Config:
    """The configuration in ``path``: a file (JSON if it is named so, else TOML), or all ``*.toml`` of a directory.

    The files of a directory are merged in the order of their names. Raises ConfigError, whose text Flux puts
    after ``Config file error: ``.
    """
    try:
        os.stat(path)
    except OSError as error:
        raise ConfigError(f"stat: {path}: {error.strerror}") from None
    if not os.path.isdir(path):
        return _read(path)
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    config: Config = {}
    for name in names:
        if name.endswith(".toml") and not name.startswith("."):
            _merge(config, _read(f"{path}/{name}"))
    return config


def update_config(config: Config, value: str) -> None:
    """Change ``config`` as ``--conf=value`` does; an invalid value changes nothing.

    ``value`` is a JSON object if it begins with ``{``, TOML if it has more than one line, ``KEY=VAL`` if it has
    an ``=`` (KEY a path with dots, VAL JSON or else a string), otherwise the path of a TOML or ``.json`` file.
    Raises ConfigError, whose text Flux puts after ``--conf: ``.
    """
    is_long = "\n" in value
    if (value.lstrip(" \t\r\n") if is_long else value).startswith("{"):
        try:
            added = _parse_json(value)
        except _ParserError as error:
            raise ConfigError(f"inline JSON: {error}") from None
        assert isinstance(added, dict)  # it began with a brace
        _merge(config, added)
    elif is_long:
        try:
            _merge(config, _parse_toml(value, "converting inline TOML to JSON"))
        except _ParserError as error:
            raise ConfigError(f"line {error.line}: {error}") from None
    elif "=" in value:
        _set_key(config, *value.split("=", 1))
    else:
        _merge(config, _read(value))


class _ParserError(Exception):
    """What a parser has to say, and about which line."""

    def __init__(self, text: str, line: int) -> None:
        super().__init__(text)
        self.line = line


def _merge(config: Config, added: Config) -> None:
    """Add to ``config``, recursively: tables are united, everything else is replaced."""
    for key, value in added.items():
        present = config.get(key)
        if isinstance(present, dict) and isinstance(value, dict):
            _merge(present, value)
        else:
            config[key] = value


def _read(path: str) -> Config:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    try:
        if path.rpartition(".")[2] != "json":
            return _parse_toml(text, f"{path}: converting TOML to JSON")
        value = _parse_json(text)
    except _ParserError as error:
        raise ConfigError(f"{path}:{error.line}: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: JSON must be an object")
    return value


def _parse_toml(text: str, conversion: str) -> Config:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        match = _TOML_PLACE.search(str(error))
        line = match[1] if match else None
        place = int(line) if line else max(1, len(text.splitlines()))
        raise _ParserError(_TOML_PLACE.sub("", str(error)), place) from None
    try:
        return {key: _as_json(value, f"{conversion}: {key}") for key, value in table.items()}
    except RecursionError:  # a key of a thousand dots
        raise ConfigError(f"{conversion}: nested too deeply") from None


def _as_json(value: object, where: str) -> object:
    """A TOML value as flux-core stores it in JSON; ``where`` begins the error if that is impossible."""
    if isinstance(value, dict):
        return {key: _as_json(below, f"{where}.{key}") for key, below in value.items()}
    if isinstance(value, list):
        return [_as_json(element, where) for element in value]
    if isinstance(value, datetime):
        # As in flux-core the offset is not looked at, and nothing is older than the epoch.
        if value.year >= 1970:
            return {"iso-8601-ts": f"{value:%Y-%m-%dT%H:%M:%SZ}"}
    elif isinstance(value, float):
        if abs(value) < float("inf"):
            return value
    elif isinstance(value, int):
        if -(2**63) <= value < 2**63:
            return value
    elif not isinstance(value, (date, time)):
        return value
    raise ConfigError(f"{where}: {_INVALID}")


def _parse_json(text: str) -> object:
    import json

    def integer(digits: str) -> int:
        number = int(digits)
        if not -(2**63) <= number < 2**63:
            raise ValueError("too big integer")
        return number

    def real(digits: str) -> float:
        number = float(digits)
        if not abs(number) < float("inf"):
            raise ValueError("real number overflow")
        return number

    try:
        value: object = json.loads(text, parse_int=integer, parse_float=real, parse_constant=real)
    except json.JSONDecodeError as error:
        raise _ParserError(error.msg, error.lineno) from None
    except (ValueError, RecursionError) as error:
        raise _ParserError(str(error), 1) from None
    return value


def _set_key(config: Config, path: str, text: str) -> None:
    if not path:
        raise ConfigError("value must have a key in KEY=VAL")
    *tables, key = path.split(".")
    if not all(tables) or not key:
        raise ConfigError(f"setting {path}: {_INVALID}")
    try:
        value = _parse_json(text)
    except _ParserError:
        value = text
    table: object = config
    for depth, name in enumerate([*tables, ""]):
        if not isinstance(table, dict):
            # Only a value that existed before can be something else than a table, so nothing has been added yet.
            raise ConfigError(f"setting {path}: {'.'.join(tables[:depth])} is not a table")
        if depth == len(tables):
            table[key] = value
        else:
            table = table.setdefault(name, {})

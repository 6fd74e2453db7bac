"""The configuration of an instance: TOML files, ``--conf``, and the ``[bootstrap]`` table.

What is read is what flux-core 0.88 reads (flux-broker(1), flux-config(5), flux-config-bootstrap(5)), as the JSON
object that ``config.get`` returns. Error texts are Flux's, but where a parser speaks it is Python's. TOML is 1.0
here: arrays of mixed types, which flux-core's parser refuses, are fine.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time
from typing import Any, NamedTuple

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.hostlist import decode_hostlist

Config = dict[str, Any]

# The longest URI of a [bootstrap] host, and the longest path of a socket in it.
_MAX_URI = 2048
_MAX_SOCKET_PATH = 108

_INVALID = os.strerror(errno.EINVAL)
_TOML_PLACE = re.compile(r" \(at (?:line ([0-9]+), column [0-9]+|end of document)\)$")
_JSON_TYPES: dict[type, str] = {dict: "object", list: "array", str: "string", int: "integer", float: "real"}
_UNFIT_FOR_DOMAIN = re.compile(r"[^0-9A-Za-z-]")


class ConfigError(ValueError):
    """A configuration that cannot be used."""


class Bootstrap(NamedTuple):
    """A ``[bootstrap]`` table as one of its hosts sees it.

    ``hosts`` are in the order of their ranks, each with its ``host`` and, where the table has them, with the URIs
    ``bind`` and ``connect`` and with ``parent``, which is the ``host`` of another.
    """

    rank: int
    hosts: tuple[dict[str, str], ...]
    enable_ipv6: bool
    curve_cert: str | None

    @property
    def size(self) -> int:
        """How many brokers there are."""
        return len(self.hosts)


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
    """Change ``config`` as ``--conf=value`` does; what cannot be applied changes nothing.

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


def bootstrap_hosts(config: Config, hostname: str) -> Bootstrap | None:
    """What ``[bootstrap]`` says to the broker on ``hostname``; None if there is no such table.

    A table without hosts stands for this one broker. Raises ConfigError with a text that is complete.
    """
    if "bootstrap" not in config:
        return None
    try:
        return _parse_bootstrap(config["bootstrap"], hostname)
    except ConfigError as error:
        raise ConfigError(f"Config file error [bootstrap]: {error}") from None


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
    """A TOML value as flux-core stores it in JSON; ``where`` begins the error if it cannot be."""
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
            # Only what was there before can be no table, so nothing has been added yet.
            raise ConfigError(f"setting {path}: {'.'.join(tables[:depth])} is not a table")
        if depth == len(tables):
            table[key] = value
        else:
            table = table.setdefault(name, {})


def _parse_bootstrap(table: object, hostname: str) -> Bootstrap:
    table = _unpack(
        table,
        {
            "hosts": None,
            "curve_cert": str,
            "default_port": int,
            "default_bind": str,
            "default_connect": str,
            "enable_ipv6": bool,
        },
    )
    port = table.get("default_port", -1)
    if port != -1 and not 0 <= port <= 65535:
        raise ConfigError("default_port must be in the range of 0-65535")
    entries = table.get("hosts", [])
    if not isinstance(entries, list):
        raise ConfigError("must be array type")
    hosts: dict[str, dict[str, Any]] = {}
    for index, entry in enumerate(entries):
        with _naming(index):
            _collect_hosts(entry, hosts)
    for index, found in enumerate(hosts.values()):
        with _naming(index):
            _complete_host(found, hosts, table, port)
    if not entries:
        hosts[hostname] = {"host": hostname}
    if hostname not in hosts:
        raise ConfigError(f"{hostname} not found in hosts")
    if len(hosts) > 1 and "curve_cert" not in table:
        raise ConfigError("curve_cert must be defined for size > 1")
    ipv6 = table.get("enable_ipv6", False)
    return Bootstrap(list(hosts).index(hostname), tuple(hosts.values()), ipv6, table.get("curve_cert"))


@contextmanager
def _naming(index: int) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"invalid hosts[{index}]: {error}") from None


def _collect_hosts(entry: object, hosts: dict[str, dict[str, Any]]) -> None:
    """Add an entry's hosts, or, for those that had one before, what that one left open."""
    if not isinstance(entry, dict):
        raise ConfigError(f"Expected object, got {_json_type(entry)}")
    if "host" not in entry:
        raise ConfigError("Object item not found: host")
    _expect(entry["host"], str)
    try:
        names = decode_hostlist(entry["host"])
    except ProtocolError:
        raise ConfigError("host key is not a valid RFC 29 hostlist") from None
    for name in names:
        hosts[name] = {**entry, **hosts.get(name, {"host": name})}


def _complete_host(host: dict[str, Any], hosts: dict[str, dict[str, Any]], defaults: Config, port: int) -> None:
    """Check a host, and put in the defaults and what ``%h`` and ``%p`` stand for."""
    _unpack(host, {"host": str, "bind": str, "connect": str, "parent": str})
    name = host["host"]
    parent = host.get("parent")
    if parent == name:
        raise ConfigError("parent key refers to self")
    if parent is not None and parent not in hosts:
        raise ConfigError("parent key refers to unknown host")
    _check_domain(name)
    for key in ("bind", "connect"):
        template = host.get(key, defaults.get(f"default_{key}"))
        if template is not None:
            host[key] = uri = _format_uri(template, name, port)
            if len(uri.encode()) > _MAX_URI:
                raise ConfigError(f"{key} key is too long")
            if problem := _uri_problem(uri):
                raise ConfigError(f"{key} key {uri} {problem}")


def _format_uri(template: str, host: str, port: int) -> str:
    """``%h`` is the host, ``%p`` the port, ``%%`` a percent sign; other letters after one mean nothing."""
    known = {"%h": host, "%p": str(port), "%%": "%", "%": ""}
    return re.sub("%.?", lambda match: known.get(match[0], match[0]), template, flags=re.DOTALL)


def _uri_problem(uri: str) -> str | None:
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return "has no URI scheme"
    if ":*" in uri:
        return "contains 0MQ port wildcard"
    if scheme not in {"ipc", "tcp"}:
        return "URI scheme must be tcp or ipc"
    if not rest:
        return "socket path is empty" if scheme == "ipc" else "address is empty"
    if scheme == "ipc" and len(rest.encode()) > _MAX_SOCKET_PATH:
        return f"socket path must not exceed {_MAX_SOCKET_PATH} bytes"
    return None


def _check_domain(name: str) -> None:
    """RFC 1035 section 2.3.1, as far as Flux minds it: a label may begin with a digit."""
    if not 1 <= len(name) <= 253:
        raise ConfigError(f"{name} domain must be 1-253 characters")
    for label in filter(None, name.split(".")):
        if len(label) > 63:
            raise ConfigError(f"{name} must be 1-63 characters")
        if label.startswith("-") or label.endswith("-"):
            raise ConfigError(f"{name} domain label must not start or end with '-'")
        if unfit := _UNFIT_FOR_DOMAIN.search(label):
            raise ConfigError(f"{name} domain label contains invalid character '{unfit[0]}' ({ord(unfit[0]):#x})")


def _unpack(value: object, types: dict[str, type | None]) -> Config:
    """``value`` as an object with no other keys than ``types`` has, and of the types that it says."""
    if not isinstance(value, dict):
        raise ConfigError(f"Expected object, got {_json_type(value)}")
    for key, wanted in types.items():
        if wanted is not None and key in value:
            _expect(value[key], wanted)
    extra = [key for key in value if key not in types]
    if extra:
        raise ConfigError(f"{len(extra)} object item(s) left unpacked: {', '.join(extra)}")
    return value


def _expect(value: object, wanted: type) -> None:
    if type(value) is not wanted:
        name = "true or false" if wanted is bool else _JSON_TYPES[wanted]
        raise ConfigError(f"Expected {name}, got {_json_type(value)}")


def _json_type(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return _JSON_TYPES.get(type(value), "null")

"""The ``[bootstrap]`` table of a configuration, which lists the brokers of an instance.

Rules and error texts are flux-core 0.88's (flux-config-bootstrap(5)).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from pytest_flux.broker.config import Config, ConfigError
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.hostlist import decode_hostlist

# The longest URI of a [bootstrap] host, and the longest path of a socket in it.
_MAX_URI = 2048
_MAX_SOCKET_PATH = 108

_JSON_TYPES: dict[type, str] = {dict: "object", list: "array", str: "string", int: "integer", float: "real"}
_UNFIT_FOR_DOMAIN = re.compile(r"[^0-9A-Za-z-]")


class Bootstrap(NamedTuple):
    """A ``[bootstrap]`` table as one of its hosts sees it.

    ``hosts`` are in the order of their ranks, each with its ``host`` and, if given, the URIs ``bind`` and ``connect``
    and ``parent``, which is the ``host`` of another.
    """

    rank: int
    hosts: tuple[dict[str, str], ...]
    enable_ipv6: bool
    curve_cert: str | None

    @property
    def size(self) -> int:
        """How many brokers there are."""
        return len(self.hosts)


def bootstrap_hosts(config: Config, hostname: str) -> Bootstrap | None:
    """The ``[bootstrap]`` table as the broker on ``hostname`` sees it; None if there is no such table.

    A table without hosts means this one broker. Raises ConfigError with a complete text.
    """
    if "bootstrap" not in config:
        return None
    try:
        return _parse_bootstrap(config["bootstrap"], hostname)
    except ConfigError as error:
        raise ConfigError(f"Config file error [bootstrap]: {error}") from None


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
    """Add the hosts of an entry; for hosts that had an entry before, add only the missing keys."""
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
    """Check a host, add the defaults, and replace ``%h`` and ``%p``."""
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
    """RFC 1035 section 2.3.1, as Flux applies it: a label may begin with a digit."""
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

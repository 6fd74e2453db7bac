"""The ``[bootstrap]`` table. Every error text here was first seen with flux-core 0.88."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_flux.broker.boot.table import Bootstrap, bootstrap_hosts
from pytest_flux.broker.config import ConfigError, update_config


def bootstrap(text: str, hostname: str = "foo") -> Bootstrap:
    config: dict[str, Any] = {}
    update_config(config, f"[bootstrap]\n{text}\n")
    found = bootstrap_hosts(config, hostname)
    assert found is not None
    return found


def test_no_table() -> None:
    assert bootstrap_hosts({}, "foo") is None


@pytest.mark.parametrize("text", ["", "hosts = []", 'default_bind = "tcp://x"'])
def test_a_table_without_hosts_is_for_one_broker(text: str) -> None:
    assert bootstrap(text) == Bootstrap(0, ({"host": "foo"},), False, None)


def test_hostlists_and_defaults() -> None:
    found = bootstrap(
        'default_port = 42\ndefault_bind = "tcp://en0:%p"\ndefault_connect = "tcp://x%h:%p"\n'
        'curve_cert = "cert"\nenable_ipv6 = true\n'
        'hosts = [{host = "foo0"}, {host = "foo[1-62]"}, {host = "foo63", bind = "ipc:///%%h"}]',
        "foo42",
    )
    assert (found.rank, found.size, found.enable_ipv6, found.curve_cert) == (42, 64, True, "cert")
    assert found.hosts[42] == {"host": "foo42", "bind": "tcp://en0:42", "connect": "tcp://xfoo42:42"}
    assert found.hosts[63]["bind"] == "ipc:///%h"


def test_a_host_may_be_given_in_parts() -> None:
    found = bootstrap(
        'curve_cert = "c"\n'
        'hosts = [{host = "t[0-3]", bind = "tcp://a"}, {host = "t[1,2]", parent = "t0", bind = "tcp://b"},'
        ' {host = "t3", parent = "t1"}]',
        "t3",
    )
    assert [host.get("parent") for host in found.hosts] == [None, "t0", "t0", "t1"]
    assert {host["bind"] for host in found.hosts} == {"tcp://a"}


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        ("ipc://%h/%p", "ipc://foo/-1"),
        ("ipc://%X%", "ipc://%X"),
        ("tcp://[2001:db8::1]:42", "tcp://[2001:db8::1]:42"),
        ("ipc://" + "x" * 108, "ipc://" + "x" * 108),
    ],
)
def test_uris(template: str, uri: str) -> None:
    assert bootstrap(f'hosts = [{{host = "foo", connect = "{template}"}}]').hosts[0]["connect"] == uri


@pytest.mark.parametrize("host", ["foo42", "foo.bar", "foo-bar", "1.2.3.4", "a..b"])
def test_names(host: str) -> None:
    assert bootstrap(f'hosts = [{{host = "{host}"}}]', host).size == 1


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("hosts = 1", "must be array type"),
        ("hosts = [1]", "invalid hosts[0]: Expected object, got integer"),
        ('hosts = ["foo"]', "invalid hosts[0]: Expected object, got string"),
        ("hosts = [{}]", "invalid hosts[0]: Object item not found: host"),
        ("hosts = [{host = 1}]", "invalid hosts[0]: Expected string, got integer"),
        ('hosts = [{host = "foo", bind = true}]', "invalid hosts[0]: Expected string, got true"),
        ('hosts = [{host = "foo", extra = 1}]', "invalid hosts[0]: 1 object item(s) left unpacked: extra"),
        ('hosts = [{host = "foo[1-"}]', "invalid hosts[0]: host key is not a valid RFC 29 hostlist"),
        ('hosts = [{host = "foo", parent = "foo"}]', "invalid hosts[0]: parent key refers to self"),
        ('hosts = [{host = "foo", parent = "x"}]', "invalid hosts[0]: parent key refers to unknown host"),
        ('hosts = [{host = "bar"}]', "foo not found in hosts"),
        ('hosts = [{host = ""}]', "foo not found in hosts"),
        ('hosts = [{host = "foo,bar"}]', "curve_cert must be defined for size > 1"),
        ("bogus = 1\nbogus2 = 2", "2 object item(s) left unpacked: bogus, bogus2"),
        ('default_port = "x"', "Expected integer, got string"),
        ("default_port = true", "Expected integer, got true"),
        ("default_port = 70000", "default_port must be in the range of 0-65535"),
        ("default_port = -2", "default_port must be in the range of 0-65535"),
        ("enable_ipv6 = 1", "Expected true or false, got integer"),
        ("curve_cert = 1.5", "Expected string, got real"),
    ],
)
def test_errors(text: str, error: str) -> None:
    with pytest.raises(ConfigError) as raised:
        bootstrap(text)
    assert str(raised.value) == f"Config file error [bootstrap]: {error}"


@pytest.mark.parametrize(
    ("key", "uri", "problem"),
    [
        ("bind", "x://z", "key x://z URI scheme must be tcp or ipc"),
        ("bind", "xz", "key xz has no URI scheme"),
        ("connect", "ipc://", "key ipc:// socket path is empty"),
        ("connect", "tcp://", "key tcp:// address is empty"),
        ("connect", "ipc://foo:*", "key ipc://foo:* contains 0MQ port wildcard"),
        ("bind", "ipc://" + "x" * 109, f"key ipc://{'x' * 109} socket path must not exceed 108 bytes"),
        ("bind", "ipc://" + "x" * 2043, "key is too long"),
    ],
)
def test_errors_of_uris(key: str, uri: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        bootstrap(f'default_{key} = "{uri}"\nhosts = [{{host = "foo"}}]')
    assert str(raised.value) == f"Config file error [bootstrap]: invalid hosts[0]: {key} {problem}"


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        ("fo_o", "fo_o domain label contains invalid character '_' (0x5f)"),
        ("-fo", "-fo domain label must not start or end with '-'"),
        ("fo-.bar", "fo-.bar domain label must not start or end with '-'"),
        ("x" * 64, "x" * 64 + " must be 1-63 characters"),
        ("x." * 127, "x." * 127 + " domain must be 1-253 characters"),
    ],
)
def test_errors_of_names(host: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        bootstrap(f'hosts = [{{host = "{host}"}}]', host)
    assert str(raised.value) == f"Config file error [bootstrap]: invalid hosts[0]: {problem}"


def test_not_a_table() -> None:
    with pytest.raises(ConfigError) as raised:
        bootstrap_hosts({"bootstrap": 1}, "foo")
    assert str(raised.value) == "Config file error [bootstrap]: Expected object, got integer"

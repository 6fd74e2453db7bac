"""The configuration. Every error text here was first seen with flux-core 0.88, but for those of the parsers."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.broker.config import Bootstrap, ConfigError, bootstrap_hosts, load_config, update_config


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str, name: str = "c.toml") -> dict[str, Any]:
    Path(name).write_text(text)
    return load_config(name)


class TestFiles:
    def test_a_file(self) -> None:
        config = load('a.b = 1\n[bootstrap]\nhosts = [{host = "x"}]\n')
        assert config == {"a": {"b": 1}, "bootstrap": {"hosts": [{"host": "x"}]}}

    def test_a_json_file(self) -> None:
        assert load('{"a": {"b": [1, 2.5, null]}}', "c.json") == {"a": {"b": [1, 2.5, None]}}

    def test_a_directory_is_merged_in_the_order_of_names(self) -> None:
        os.mkdir("d")
        Path("d/b.toml").write_text("q = 3\n[a]\nc = [3]\nd = 2\n")
        Path("d/a.toml").write_text('a.b = 1\na.c = [1, 2]\nq = "x"\n')
        Path("d/c.json").write_text("junk")
        Path("d/.hidden.toml").write_text("junk")
        assert load_config("d") == {"q": 3, "a": {"b": 1, "c": [3], "d": 2}}

    def test_an_empty_directory(self) -> None:
        os.mkdir("d")
        assert load_config("d") == {}

    @pytest.mark.parametrize(
        ("toml", "value"),
        [
            ("1979-05-27T07:32:00Z", {"iso-8601-ts": "1979-05-27T07:32:00Z"}),
            ("1979-05-27T07:32:00-07:00", {"iso-8601-ts": "1979-05-27T07:32:00Z"}),
            ("1979-05-27 07:32:00.25", {"iso-8601-ts": "1979-05-27T07:32:00Z"}),
            ("0x10", 16),
            ("1e3", 1000.0),
            ("[1, 'x', true]", [1, "x", True]),
        ],
    )
    def test_toml_values_as_json(self, toml: str, value: object) -> None:
        assert load(f"x = {toml}\n") == {"x": value}

    @pytest.mark.parametrize(
        "toml", ["nan", "-inf", "1979-05-27", "07:32:00", "1960-05-27T07:32:00Z", "99999999999999999999"]
    )
    def test_toml_values_that_json_cannot_hold(self, toml: str) -> None:
        with pytest.raises(ConfigError) as raised:
            load(f"[a]\nx = [{toml}]\n")
        assert str(raised.value) == "c.toml: converting TOML to JSON: a.x: Invalid argument"

    @pytest.mark.parametrize(
        ("name", "text", "beginning"),
        [
            ("bad.toml", "[bootstrap]\nbad-toml\n", "bad.toml:2: "),
            ("bad.toml", "a = 1\na = 2\n", "bad.toml:2: "),
            ("bad.toml", "x = 1\ny = [\n", "bad.toml:2: "),
            ("bad.toml", ".".join("a" * 5000) + " = 1", "bad.toml: converting TOML to JSON: nested too deeply"),
            ("bad.json", '{"a":1,"b":\n\n}', "bad.json:3: "),
            ("bad.json", '{"a": 99999999999999999999}', "bad.json:1: too big integer"),
            ("bad.json", '{"a": NaN}', "bad.json:1: real number overflow"),
            ("bad.json", "[" * 100_000, "bad.json:1: "),
            ("bad.json", "[1]", "bad.json: JSON must be an object"),
        ],
    )
    def test_errors_name_file_and_line(self, name: str, text: str, beginning: str) -> None:
        with pytest.raises(ConfigError) as raised:
            load(text, name)
        assert str(raised.value).startswith(beginning)
        assert "(at " not in str(raised.value)

    def test_not_utf8(self) -> None:
        Path("c.toml").write_bytes(b'a = "\xff"\n')
        with pytest.raises(ConfigError, match=r"^c\.toml: not UTF-8 at byte 5$"):
            load_config("c.toml")

    def test_what_is_not_there(self) -> None:
        with pytest.raises(ConfigError, match=r"^stat: noexist: No such file or directory$"):
            load_config("noexist")
        os.mkdir("d")
        os.symlink("nowhere", "d/x.toml")
        with pytest.raises(ConfigError, match=r"^d/x\.toml: No such file or directory$"):
            load_config("d")


class TestUpdates:
    @pytest.mark.parametrize(
        ("value", "config"),
        [
            ("a.b.c=1", {"a": {"b": {"c": 1}}}),
            ("k=hello world", {"k": "hello world"}),
            ("k=a=b", {"k": "a=b"}),
            ("k=null", {"k": None}),
            ("k=", {"k": ""}),
            ('k="a"b', {"k": '"a"b'}),
            ('a.b={"c":[1]}', {"a": {"b": {"c": [1]}}}),
            ("k=99999999999999999999", {"k": "99999999999999999999"}),
            ("k=NaN", {"k": "NaN"}),
            ("k=1e999", {"k": "1e999"}),
            ('{"a":{"b":"x=y"}}', {"a": {"b": "x=y"}}),
            (' \n{"a":{"b":"q"}}', {"a": {"b": "q"}}),
            ('\n[a]\nb = "q"\n', {"a": {"b": "q"}}),
        ],
    )
    def test_values(self, value: str, config: dict[str, Any]) -> None:
        updated: dict[str, Any] = {}
        update_config(updated, value)
        assert updated == config

    def test_files(self) -> None:
        Path("c.json").write_text('{"a": {"c": 2}}')
        Path("c.toml").write_text("a.d = 3\n")
        config: dict[str, Any] = {"a": {"b": 1}}
        update_config(config, "c.json")
        update_config(config, "c.toml")
        assert config == {"a": {"b": 1, "c": 2, "d": 3}}

    def test_objects_are_merged_and_all_else_replaced(self) -> None:
        config: dict[str, Any] = {}
        for value in ("a.b=2", '{"a":{"c":3},"l":[1,2]}', '{"l":[3]}'):
            update_config(config, value)
        assert config == {"a": {"b": 2, "c": 3}, "l": [3]}

    def test_a_key_is_replaced_even_by_an_object(self) -> None:
        config: dict[str, Any] = {"a": {"b": {"c": 1}}}
        update_config(config, 'a.b={"d":2}')
        assert config == {"a": {"b": {"d": 2}}}

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("=3", "value must have a key in KEY=VAL"),
            ("a.=4", "setting a.: Invalid argument"),
            (".b=4", "setting .b: Invalid argument"),
            ("a..b=1", "setting a..b: Invalid argument"),
            ("n.b.c=2", "setting n.b.c: n is not a table"),
            ("noexist.toml", "noexist.toml: No such file or directory"),
            ("noexist.json", "noexist.json: No such file or directory"),
            (".", ".: Is a directory"),
            ("", ": No such file or directory"),
            ("x=1\ny=nan\n", "converting inline TOML to JSON: y: Invalid argument"),
        ],
    )
    def test_errors(self, value: str, text: str) -> None:
        config: dict[str, Any] = {"n": 1, "a": {}}
        before = copy.deepcopy(config)
        with pytest.raises(ConfigError) as raised:
            update_config(config, value)
        assert str(raised.value) == text
        assert config == before

    @pytest.mark.parametrize(
        ("value", "beginning"),
        [
            ('{"a":', "inline JSON: "),
            ('{"a":1}x', "inline JSON: "),
            ("a=\n", "line 1: "),
            ("x = 1\ny = [\n", "line 2: "),  # flux-core 0.88 never comes back from this one
            ("x=2 y=3\n", "line 1: "),
        ],
    )
    def test_errors_of_parsers(self, value: str, beginning: str) -> None:
        with pytest.raises(ConfigError) as raised:
            update_config({}, value)
        assert str(raised.value).startswith(beginning)

    @given(st.text())
    def test_any_text_is_taken_or_refused(self, value: str) -> None:
        config: dict[str, Any] = {}
        try:
            update_config(config, "k=" + value.replace("\n", ""))
            update_config(config, value + "\n")
        except ConfigError:
            pass


def bootstrap(text: str, hostname: str = "foo") -> Bootstrap:
    found = bootstrap_hosts(load(f"[bootstrap]\n{text}\n"), hostname)
    assert found is not None
    return found


class TestBootstrap:
    def test_no_table(self) -> None:
        assert bootstrap_hosts({}, "foo") is None

    @pytest.mark.parametrize("text", ["", "hosts = []", 'default_bind = "tcp://x"'])
    def test_a_table_without_hosts_is_for_one_broker(self, text: str) -> None:
        assert bootstrap(text) == Bootstrap(0, ({"host": "foo"},), False, None)

    def test_hostlists_and_defaults(self) -> None:
        found = bootstrap(
            'default_port = 42\ndefault_bind = "tcp://en0:%p"\ndefault_connect = "tcp://x%h:%p"\n'
            'curve_cert = "cert"\nenable_ipv6 = true\n'
            'hosts = [{host = "foo0"}, {host = "foo[1-62]"}, {host = "foo63", bind = "ipc:///%%h"}]',
            "foo42",
        )
        assert (found.rank, found.size, found.enable_ipv6, found.curve_cert) == (42, 64, True, "cert")
        assert found.hosts[42] == {"host": "foo42", "bind": "tcp://en0:42", "connect": "tcp://xfoo42:42"}
        assert found.hosts[63]["bind"] == "ipc:///%h"

    def test_a_host_may_be_given_in_parts(self) -> None:
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
    def test_uris(self, template: str, uri: str) -> None:
        assert bootstrap(f'hosts = [{{host = "foo", connect = "{template}"}}]').hosts[0]["connect"] == uri

    @pytest.mark.parametrize("host", ["foo42", "foo.bar", "foo-bar", "1.2.3.4", "a..b"])
    def test_names(self, host: str) -> None:
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
    def test_errors(self, text: str, error: str) -> None:
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
    def test_errors_of_uris(self, key: str, uri: str, problem: str) -> None:
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
    def test_errors_of_names(self, host: str, problem: str) -> None:
        with pytest.raises(ConfigError) as raised:
            bootstrap(f'hosts = [{{host = "{host}"}}]', host)
        assert str(raised.value) == f"Config file error [bootstrap]: invalid hosts[0]: {problem}"

    def test_not_a_table(self) -> None:
        with pytest.raises(ConfigError) as raised:
            bootstrap_hosts({"bootstrap": 1}, "foo")
        assert str(raised.value) == "Config file error [bootstrap]: Expected object, got integer"

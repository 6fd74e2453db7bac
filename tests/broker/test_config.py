"""The configuration. Every error text here was first seen with flux-core 0.88, but for those of the parsers."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.broker.config import ConfigError, load_config, update_config


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
            # Newer parsers refuse this themselves.
            ("bad.toml", ".".join("a" * 5000) + " = 1", "bad.toml:"),
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

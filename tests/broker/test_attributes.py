"""Broker attributes: the rules of flux-core 0.88, each seen with ``flux setattr`` and ``flux start -S``."""

from __future__ import annotations

import errno

import pytest

from pytest_flux.broker.attributes import (
    IMMUTABLE,
    READONLY,
    RUNTIME,
    Attributes,
    parse_integer,
    redirect_topic,
)
from pytest_flux.protocol.errors import FluxError


@pytest.fixture
def attributes() -> Attributes:
    return Attributes()


def errors_of(raised: pytest.ExceptionInfo[FluxError]) -> tuple[int, str | None]:
    return raised.value.errnum, raised.value.text


def test_command_line(attributes: Attributes) -> None:
    attributes.set_command_line("tbon.topo", "kary:2")
    attributes.set_command_line("log-filename", None)
    assert attributes.get("tbon.topo") == "kary:2"
    assert "log-filename" in attributes
    assert attributes.get("log-filename") is None


@pytest.mark.parametrize(
    ("name", "errnum", "text"),
    [
        ("foo", errno.ENOENT, "unknown attribute"),
        ("test", errno.ENOENT, "unknown attribute"),
        ("rank", errno.EINVAL, "attribute may not be set on the command line"),
        ("test-ro.a", errno.EINVAL, "attribute may not be set on the command line"),
    ],
)
def test_not_on_the_command_line(attributes: Attributes, name: str, errnum: int, text: str) -> None:
    with pytest.raises(FluxError) as raised:
        attributes.set_command_line(name, "1")
    assert errors_of(raised) == (errnum, text)
    assert attributes.names() == []


def test_an_immutable_attribute_is_given_once(attributes: Attributes) -> None:
    attributes.set_command_line("hostname", "a")
    with pytest.raises(FluxError) as raised:
        attributes.set_command_line("hostname", "b")
    assert errors_of(raised) == (errno.EPERM, "Operation not permitted")
    with pytest.raises(FluxError, match="Operation not permitted"):
        attributes.delete("hostname")
    assert attributes.get("hostname") == "a"


def test_set_to_none_is_set(attributes: Attributes) -> None:
    attributes.set("parent-uri", None)
    assert "parent-uri" in attributes
    assert attributes.names() == ["parent-uri"]
    with pytest.raises(FluxError) as raised:
        attributes.set("parent-uri", "local:///x")
    assert raised.value.errnum == errno.EPERM


def test_names_that_nobody_registered(attributes: Attributes) -> None:
    with pytest.raises(FluxError) as raised:
        attributes.set("foo", "1")
    assert errors_of(raised) == (errno.ENOENT, "unknown attribute")
    assert attributes.get("foo", "fallback") == "fallback"
    assert "foo" not in attributes
    attributes.delete("foo")


def test_setdefault_and_delete(attributes: Attributes) -> None:
    assert attributes.setdefault("statedir", "/a") == "/a"
    assert attributes.setdefault("statedir", "/b") == "/a"
    attributes.delete("statedir")
    assert "statedir" not in attributes


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("rank", READONLY | IMMUTABLE),
        ("version", READONLY),
        ("rundir", 0),
        ("log-stderr-level", RUNTIME),
        ("tbon.interface-hint", RUNTIME | IMMUTABLE),
        ("vendor.x", RUNTIME | IMMUTABLE),
        ("test-im.", IMMUTABLE),
    ],
)
def test_flags(attributes: Attributes, name: str, flags: int) -> None:
    assert attributes.flags(name) == flags


def test_users_set_once_what_is_not_there(attributes: Attributes) -> None:
    attributes.update("test-nr.b", "3")
    with pytest.raises(FluxError) as raised:
        attributes.update("test-nr.b", "4")
    assert errors_of(raised) == (errno.EINVAL, "attribute may not be updated")
    attributes.update("test-nr.b", "4", force=True)
    assert attributes.get("test-nr.b") == "4"


def test_users_change_runtime_attributes(attributes: Attributes) -> None:
    attributes.update("test.a", "1")
    attributes.update("test.a", "2")
    assert attributes.get("test.a") == "2"


@pytest.mark.parametrize("force", [False, True])
def test_users_cannot_change_what_is_immutable(attributes: Attributes, force: bool) -> None:
    attributes.update("vendor.a", "1")
    with pytest.raises(FluxError) as raised:
        attributes.update("vendor.a", "2", force=force)
    assert errors_of(raised) == (errno.EPERM, "Operation not permitted")
    with pytest.raises(FluxError, match="unknown attribute"):
        attributes.update("nope", "2", force=force)


def test_who_must_agree() -> None:
    assert redirect_topic("log-stderr-level") == "log.setattr"
    assert redirect_topic("test-rd.x") == "testrd.setattr"
    assert redirect_topic("test.x") is None


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("7", 7),
        ("-1", -1),
        (" +3", 3),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", None),
        ("", None),
        ("4xx", None),
        ("1_0", None),
        ("\u0663", None),
        (None, None),
    ],
)
def test_integers(attributes: Attributes, value: str | None, number: int | None) -> None:
    assert parse_integer(value) == number
    attributes.set("log-level", value)
    if number is None:
        with pytest.raises(FluxError) as raised:
            attributes.integer("log-level")
        assert errors_of(raised) == (errno.EINVAL, "log-level: Invalid argument")
    else:
        assert attributes.integer("log-level") == number


def test_no_integer_where_nothing_is_set(attributes: Attributes) -> None:
    assert attributes.integer("log-level") is None

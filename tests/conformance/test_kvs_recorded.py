"""What real Flux recorded of a KVS: the same operations give the same references, byte for byte."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_flux.broker.content.store import ContentStore
from pytest_flux.broker.kvs import APPEND, Kvs, Op, put_op
from pytest_flux.broker.kvs.lookup import TREEOBJ
from pytest_flux.protocol import treeobj
from pytest_flux.reactor.reactor import Reactor

DATA = Path(__file__).parent / "data"


def recorded(name: str) -> dict[str, str]:
    """Keys, and what was recorded of each."""
    pairs = [(key, text) for key, _, text in (line.partition(" ") for line in (DATA / name).read_text().splitlines())]
    return dict(pairs)


@pytest.fixture(scope="module")
def kvs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kvs]:
    """A store after the operations of the recording."""
    reactor = Reactor()
    path = str(tmp_path_factory.mktemp("state"))
    content = ContentStore(reactor, path, "sha1", volatile=True, complain=pytest.fail)
    kvs = Kvs(reactor, content, lambda topic, payload: None, pytest.fail)
    for op in (
        put_op("a.small", "1"),
        put_op("a.str", '"text"'),
        put_op("a.json", '{"x":[1,2,{"y":null}]}'),
        put_op("b.large", "x" * 3000),
        put_op("c.append", "one"),
        Op("c.append", treeobj.val(b"-two"), APPEND),
        Op("d.link", treeobj.symlink("a.small")),
        Op("e.empty", treeobj.directory()),
        put_op("deep.x.y.z.w", "42"),
    ):
        kvs.commit([op])
        kvs.settle()
    yield kvs
    content.close()
    reactor.close()


@pytest.mark.parametrize(("key", "encoded"), recorded("kvs-treeobj.txt").items())
def test_tree_objects(kvs: Kvs, key: str, encoded: str) -> None:
    entry = kvs.entry(key, TREEOBJ)
    assert entry is not None
    assert entry.encode().decode() == encoded


@pytest.mark.parametrize(("key", "encoded"), recorded("kvs-values.txt").items())
def test_values(kvs: Kvs, key: str, encoded: str) -> None:
    assert kvs.lookup(key) == base64.b64decode(encoded)

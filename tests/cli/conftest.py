"""A broker for tests of commands: it answers as each test says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.scripted_broker import ScriptedBroker, open_broker


@pytest.fixture
def bed(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedBroker]:
    """A broker that commands connect to."""
    with open_broker() as bed:
        monkeypatch.setenv("FLUX_URI", bed.uri)
        yield bed

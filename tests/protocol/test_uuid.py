"""Random UUIDs are what the standard library takes for such."""

from __future__ import annotations

import uuid

from pytest_flux.protocol.uuid import random_uuid


def test_version_4() -> None:
    made = [random_uuid() for _ in range(200)]
    for text in made:
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant, str(parsed)) == (4, uuid.RFC_4122, text)
    assert len(set(made)) == 200

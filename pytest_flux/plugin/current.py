"""The test that runs now."""

from __future__ import annotations

import pytest

_ITEM = pytest.StashKey["pytest.Item | None"]()


def set_item(config: pytest.Config, item: pytest.Item | None) -> None:
    """Note the test that runs, None between tests."""
    config.stash[_ITEM] = item


def current_item(config: pytest.Config) -> pytest.Item | None:
    """The test that runs now."""
    return config.stash.get(_ITEM, None)

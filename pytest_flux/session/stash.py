"""Where the instances of a pytest process are kept: with its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_flux.session.pool import Pool

_POOL = pytest.StashKey["Pool"]()


def pool_of(config: pytest.Config) -> Pool:
    """The instances of this pytest process."""
    pool = config.stash.get(_POOL, None)
    if pool is None:
        # Not before it is needed: most runs of pytest have nothing to do with Flux.
        from pytest_flux.session.pool import Pool

        pool = config.stash[_POOL] = Pool(config)
    return pool


def pool_if_any(config: pytest.Config) -> Pool | None:
    """The same, None if no test has needed an instance yet."""
    return config.stash.get(_POOL, None)

"""rc1 of the personality `kvs`, for `flux modprobe run`."""

from typing import Any


def setup(context: Any) -> None:  # noqa: ANN401 - Flux has no types
    """The key-value store, and what it stores in."""
    context.load_modules(["content", "content-sqlite", "kvs", "kvs-watch", "heartbeat"])

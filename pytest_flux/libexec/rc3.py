"""rc3 of the personalities `job` and `kvs`, for `flux modprobe run`."""

from typing import Any


def setup(context: Any) -> None:  # noqa: ANN401 - Flux has no types
    """Unload what rc1 has loaded, in the order that modprobe knows."""
    context.remove_modules()

"""What a part asks of the part that made it.

Most parts are given what they use: the router, the log, the reactor, attributes. A few call back to their maker.
These protocols describe such a maker and keep the imports between modules in one direction. For type checkers only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pytest_flux.broker.overlay.peers import Tracers


class Life(Protocol):
    """What the state machine asks of the broker when it enters a state."""

    def load_builtins(self) -> None:
        """Open the sockets and connect to the parent."""

    def follow_config(self, post: Callable[[str], None]) -> None:
        """Follow the parent's configuration; ``post`` gets the event that says how that began."""

    def settle(self, done: Callable[[], None]) -> None:
        """End the running jobs, then call ``done``."""

    def unload_builtins(self, done: Callable[[], None]) -> None:
        """Close everything, then call ``done``."""

    def state_changed(self, state: str) -> None:
        """The state machine has entered ``state``."""


class Tree(Protocol):
    """What the link to the parent asks of the overlay."""

    status: int
    tracers: Tracers

    def congest(self, congested: bool) -> None:
        """The parent stops taking messages, or takes them again."""

    def log(self, severity: int, text: str) -> None:
        """Log in the name of the overlay."""

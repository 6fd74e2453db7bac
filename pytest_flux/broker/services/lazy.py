"""A service that costs nothing until somebody asks it: a name in the router, and how to make it."""

from __future__ import annotations

from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.broker.router import Router
    from pytest_flux.broker.service import Service
    from pytest_flux.protocol.message import Message


class LazyService:
    """Stands in the router for the service that ``make`` imports and makes. ``service`` is that, once it is made."""

    def __init__(self, name: str, router: Router, make: Callable[[], Service]) -> None:
        self.name = name
        self.service: Service | None = None
        self._router = router
        self._make = make

    def receive(self, message: Message) -> None:
        """Pass the first request on to the service, which gets those that follow itself."""
        self.load().receive(message)

    def load(self) -> Service:
        """Make the service and put it in this one's place."""
        if self.service is None:
            self.service = self._make()
            self._router.services[self.name] = self.service.receive
        return self.service

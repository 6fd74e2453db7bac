"""Services that cost nothing until somebody asks them: a name in the router, and a class that is imported then."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from pytest_flux.broker.broker import Broker
    from pytest_flux.broker.service import Service
    from pytest_flux.protocol.message import Message

    T = TypeVar("T")


def part(broker: Broker, kind: type[T]) -> T:
    """The one ``kind`` of this broker, made with the broker as its only argument when first asked for."""
    parts: dict[type[Any], Any] = broker.parts
    if kind not in parts:
        parts[kind] = kind(broker)  # type: ignore[call-arg]
    made: T = parts[kind]
    return made


def existing(broker: Broker, path: str) -> Any:  # noqa: ANN401 - whoever names it knows what it is
    """The part whose class is at ``path``, ``"package.module:Class"``, if somebody has asked for it; else None."""
    for kind, made in broker.parts.items():
        if f"{kind.__module__}:{kind.__qualname__}" == path:
            return made
    return None


class LazyService:
    """Stands in the router for the service whose class is at ``path``, ``"package.module:Class"``."""

    def __init__(self, broker: Broker, name: str, path: str) -> None:
        self.name = name
        self._broker = broker
        self._path = path

    def receive(self, message: Message) -> None:
        """Pass the first request on to the service; those that follow go there by themselves."""
        self.load().receive(message)

    def load(self) -> Service:
        """Import and make the service, and have it take this one's place."""
        from importlib import import_module

        module, _, name = self._path.partition(":")
        service: Service = part(self._broker, getattr(import_module(module), name))
        self._broker.router.services[self.name] = service.receive
        return service

"""`groups`: named sets of brokers, kept by rank 0."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_flux.broker.service import ALL, LATER, Answer, Request, Service, _Later, method
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.idset import decode_idset, encode_idset
from pytest_flux.protocol.message import Message

if TYPE_CHECKING:
    from pytest_flux.broker.broker import Broker


class GroupsService(Service):
    """Every broker joins and leaves for itself; rank 0 knows the members of all groups."""

    name = "groups"

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker)
        self._joined: set[str] = set()
        self._members: dict[str, set[int]] = {}
        self._watchers: list[tuple[str, Callable[[str], None]]] = []

    # -- the broker's own use

    def join(self, name: str, done: Callable[[Message], None]) -> None:
        """Put this broker into a group."""
        self.broker.router.rpc("groups.join", {"name": name}, done)

    def watch(self, name: str, changed: Callable[[str], None]) -> None:
        """Call ``changed`` with the members (an idset) now and whenever they change. Rank 0 only."""
        self._watchers.append((name, changed))
        changed(self.members(name))

    def members(self, name: str) -> str:
        """The members of a group as idset. Rank 0 only."""
        return encode_idset(self._members.get(name, ()))

    def lose(self, ranks: str) -> None:
        """Brokers are gone: they leave every group."""
        self.broker.router.rpc("groups.update", {"leave": ranks}, nodeid=0)

    # -- requests

    @method("join")
    def request_join(self, request: Request) -> Answer | _Later:
        """``{name}`` → empty, once rank 0 knows."""
        name = request.field("name", str)
        if name in self._joined:
            raise FluxError(errno.EEXIST)
        self._joined.add(name)
        return self._update(request, {"join": str(self.broker.rank), "name": name})

    @method("leave")
    def request_leave(self, request: Request) -> Answer | _Later:
        """``{name}`` → empty, once rank 0 knows."""
        name = request.field("name", str)
        if name not in self._joined:
            raise FluxError(errno.ENOENT)
        self._joined.remove(name)
        return self._update(request, {"leave": str(self.broker.rank), "name": name})

    def _update(self, request: Request, change: dict[str, object]) -> _Later:
        def answered(message: Message) -> None:
            if message.errnum:
                request.error(message.errnum)
            else:
                request.respond()

        self.broker.router.rpc("groups.update", change, answered, nodeid=0)
        return LATER

    @method("update")
    def update(self, request: Request) -> Answer:
        """Between brokers: ``{join|leave: idset, name?}``; leaving without a name leaves all groups."""
        joining = decode_idset(request.field("join", str, ""))
        leaving = set(decode_idset(request.field("leave", str, "")))
        name = request.field("name", str, None)
        for group in [name] if name is not None else list(self._members):
            before = self._members.get(group, set())
            after = (before | set(joining)) - leaving
            if after != before:
                self._members[group] = after
                self._changed(group)
        return None

    def _changed(self, name: str) -> None:
        members = self.members(name)
        for watched, changed in list(self._watchers):
            if watched == name:
                changed(members)
        for request in self.held_for("groups.get"):
            if request.field("name", str) == name:
                request.respond({"members": members})

    @method("get", roles=ALL)
    def get(self, request: Request) -> Answer | _Later:
        """``{name}`` → ``{members}``; streaming: again at each change. Rank 0 only."""
        name = request.field("name", str)
        if self.broker.rank != 0:
            raise FluxError(errno.EPROTO, "groups.get is only available on rank 0")
        answer = {"members": self.members(name)}
        if not request.message.is_streaming:
            return answer
        request.respond(answer)
        return self.hold(request)

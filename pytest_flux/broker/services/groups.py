"""`groups`: named sets of brokers, kept by rank 0."""

from __future__ import annotations

import errno
from collections.abc import Callable

from pytest_flux.broker.service import ALL, LATER, Answer, Request, Service, _Later, method
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.idset import decode_idset, encode_idset
from pytest_flux.protocol.message import ROLE_LOCAL, Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router


class GroupsService(Service):
    """Every broker joins and leaves for itself, through one client at a time; rank 0 knows all members."""

    name = "groups"

    def __init__(self, router: Router, log: BrokerLog) -> None:
        super().__init__(router, log)
        self._joined: dict[str, str] = {}
        self._torpid: set[int] = set()
        self._members: dict[str, set[int]] = {}
        self._watchers: list[tuple[str, Callable[[str], None]]] = []

    # -- for the broker itself

    def join(self, name: str, done: Callable[[Message], None]) -> None:
        """Put this broker into a group."""
        self.router.rpc("groups.join", {"name": name}, done)

    def watch(self, name: str, changed: Callable[[str], None]) -> None:
        """Call ``changed`` with the members (an idset) now and whenever they change. Rank 0 only."""
        self._watchers.append((name, changed))
        changed(self.members(name))

    def unwatch(self, changed: Callable[[str], None]) -> None:
        """Call ``changed`` no longer."""
        self._watchers = [watcher for watcher in self._watchers if watcher[1] != changed]

    def members(self, name: str) -> str:
        """The members of a group as idset. Rank 0 only."""
        return encode_idset(self._members.get(name, ()))

    def lose(self, ranks: str) -> None:
        """Remove lost brokers from every group."""
        self.router.rpc("groups.update", {"leave": ranks}, nodeid=0)

    def set_torpid(self, rank: int, *, is_torpid: bool) -> None:
        """A child has become unresponsive, or responsive again."""
        if is_torpid != (rank in self._torpid):
            self._torpid ^= {rank}
            change = {"join" if is_torpid else "leave": str(rank), "name": "broker.torpid"}
            self.router.rpc("groups.update", change, nodeid=0)

    # -- requests

    def _require_local(self, request: Request) -> str:
        name = request.field("name", str)
        if not request.message.rolemask & ROLE_LOCAL:
            raise FluxError(errno.EPROTO, f"{request.topic} is restricted to the local broker")
        return name

    @method("join")
    def request_join(self, request: Request) -> Answer | _Later:
        """``{name}`` → empty, once rank 0 knows. The membership ends with the client's connection."""
        name = self._require_local(request)
        if name in self._joined:
            raise FluxError(errno.EEXIST, f"rank {self.router.rank} is already a member of {name}")
        self._joined[name] = request.sender
        return self._update(request, {"join": str(self.router.rank), "name": name})

    @method("leave")
    def request_leave(self, request: Request) -> Answer | _Later:
        """``{name}`` → empty, once rank 0 knows."""
        name = self._require_local(request)
        if name not in self._joined:
            raise FluxError(errno.ENOENT, f"rank {self.router.rank} is not a member of {name}")
        del self._joined[name]
        return self._update(request, {"leave": str(self.router.rank), "name": name})

    def _update(self, request: Request, change: dict[str, object]) -> _Later:
        def answered(message: Message) -> None:
            if message.errnum:
                request.error(message.errnum)
            else:
                request.respond()

        self.router.rpc("groups.update", change, answered, nodeid=0)
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
        if self.router.rank != 0:
            raise FluxError(errno.EPROTO, "this RPC is only available on rank 0")
        answer = {"members": self.members(name)}
        if not request.message.is_streaming:
            return answer
        request.respond(answer)
        return self.hold(request)

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """→ ``{subtree}``: the members of all groups; known on rank 0."""
        return {"subtree": {name: self.members(name) for name in self._members}}

    @method("disconnect", roles=ALL)
    def disconnect(self, request: Request) -> Answer:
        """A client has disconnected: drop its watches, and leave the groups that this broker joined for it."""
        for name in [name for name, sender in self._joined.items() if sender == request.sender]:
            del self._joined[name]
            change = {"leave": str(self.router.rank), "name": name}
            self.router.rpc("groups.update", change, nodeid=0)
        return super().disconnect(request)

"""The broker's local socket: clients come in here (flux-core's connector-local)."""

from __future__ import annotations

import errno
from collections.abc import Callable

from pytest_flux.broker.flow import Ledger
from pytest_flux.broker.service import Request
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.limits import OPEN_REQUESTS_OF_CLIENT, SUBSCRIPTIONS_OF_CLIENT, UNREAD_OF_CLIENT
from pytest_flux.protocol.message import (
    EVENT,
    FLAG_NORESPONSE,
    FLAG_PRIVATE,
    FLAG_UPSTREAM,
    REQUEST,
    RESPONSE,
    ROLE_NONE,
    ROLE_OWNER,
    ROLE_USER,
    USERID_UNKNOWN,
    Message,
)
from pytest_flux.reactor.usock import Connection, UsockServer, owner_only

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.broker.overlay.overlay import Overlay
    from pytest_flux.broker.router import Router
    from pytest_flux.broker.services.module import ConnectorService
    from pytest_flux.reactor.reactor import Reactor

_BEFORE_INIT = frozenset(("state-machine.wait", "state-machine.get", "attr.get", "log.dmesg"))


class Client:
    """What a connected client has asked for, which must be undone when it disconnects."""

    __slots__ = ("connection", "contacted", "ledger", "services", "subscriptions")

    def __init__(self, connection: Connection, ledger: Ledger) -> None:
        self.connection = connection
        self.ledger = ledger
        self.subscriptions: dict[str, int] = {}
        self.services: set[str] = set()
        self.contacted: set[tuple[str, int, int]] = set()


class LocalConnector:
    """Clients of one broker: authentication, subscriptions, their services, and the clean-up when they leave."""

    def __init__(
        self,
        path: str,
        rundir: str,
        reactor: Reactor,
        router: Router,
        overlay: Overlay,
        config: dict[str, Any],
        connector: ConnectorService,
        is_online: Callable[[], bool],
    ) -> None:
        self._router = router
        self._config = config
        self._connector = connector
        self._is_online = is_online
        self._clients: dict[str, Client] = {}
        self._intercepted = {
            "event.subscribe": self._subscribe,
            "event.unsubscribe": self._unsubscribe,
            "service.add": self._add_service,
            "service.remove": self._remove_service,
        }
        self._server = UsockServer(
            reactor,
            path,
            self._receive,
            self._forget,
            self._authorize,
            limit=UNREAD_OF_CLIENT,
            spool=rundir,
            on_connect=self._connected,
        )
        router.on_event.append(self._deliver_event)
        overlay.on_congestion.append(self._pause)

    def close(self) -> None:
        """Drop all clients and remove the socket."""
        self._server.close()

    def _authorize(self, uid: int) -> int:
        if self._connector.refuses(uid):
            return ROLE_NONE
        access = self._config.get("access", {})
        if uid == 0 and access.get("allow-root-owner") is True:
            return ROLE_OWNER
        if (role := owner_only(uid)) != ROLE_NONE:
            return role
        return ROLE_USER if access.get("allow-guest-user") is True else ROLE_NONE

    def _connected(self, connection: Connection) -> None:
        if connection.rolemask & ROLE_OWNER and self._connector.demotes():
            connection.userid, connection.rolemask = USERID_UNKNOWN, ROLE_USER

    def _client(self, connection: Connection) -> Client:
        client = self._clients.get(connection.uuid)
        if client is None:
            client = self._clients[connection.uuid] = Client(connection, Ledger(self._router, connection))
            self._router.routes[connection.uuid] = client.ledger.deliver
        return client

    def _pause(self, paused: bool) -> None:
        for client in self._clients.values():
            client.connection.pause(paused)

    def _receive(self, connection: Connection, message: Message) -> None:
        if message.topic is None:
            return
        client = self._client(connection)
        if message.type == REQUEST:
            self._request(client, message)
        elif message.type == RESPONSE:
            self._router.respond(message)
        elif message.type == EVENT and message.rolemask & ROLE_OWNER:
            self._router.send_event(message)

    def _request(self, client: Client, message: Message) -> None:
        if message.routes is None:
            message.routes = []
        message.routes.append(client.connection.uuid)
        topic = message.topic or ""
        intercepted = self._intercepted.get(topic)
        if intercepted is not None:
            request = Request(message, self._router.respond)
            try:
                intercepted(client, request)
                request.respond()
            except FluxError as error:
                request.error(error.errnum, error.text)
            except ProtocolError:
                request.error(errno.EPROTO)
            return
        if not self._is_online() and topic not in _BEFORE_INIT:
            self._router.refuse(message, errno.EAGAIN, "Upstream Flux broker is offline. Try again later.")
            return
        if message.wants_response:
            if not client.ledger.open(message):
                text = f"over the limit of {OPEN_REQUESTS_OF_CLIENT} open requests"
                self._router.refuse(message, errno.EAGAIN, text)
                return
            prefix = topic.rpartition(".")[0]
            client.contacted.add((prefix, message.nodeid, message.flags & FLAG_UPSTREAM))
        elif topic.endswith(".disconnect"):
            client.ledger.forget(message)
        self._router.request(message)

    # -- requests that the connector answers itself (flux-core's librouter)

    def _subscribe(self, client: Client, request: Request) -> None:
        topic = request.field("topic", str)
        if topic not in client.subscriptions and len(client.subscriptions) >= SUBSCRIPTIONS_OF_CLIENT:
            raise FluxError(errno.ENOSPC, f"over the limit of {SUBSCRIPTIONS_OF_CLIENT} subscriptions")
        client.subscriptions[topic] = client.subscriptions.get(topic, 0) + 1

    def _unsubscribe(self, client: Client, request: Request) -> None:
        topic = request.field("topic", str)
        if topic not in client.subscriptions:
            raise FluxError(errno.ENOENT)
        client.subscriptions[topic] -= 1
        if not client.subscriptions[topic]:
            del client.subscriptions[topic]

    def _add_service(self, client: Client, request: Request) -> None:
        name = request.field("service", str)
        # The userid of the message, which an owner may have set on behalf of somebody else.
        if not request.is_owner and not name.startswith(f"{request.message.userid}-"):
            raise FluxError(errno.EPERM)
        if "." in name:
            raise FluxError(errno.EINVAL)
        self._router.add_service(name, client.connection.send)
        client.services.add(name)

    def _remove_service(self, client: Client, request: Request) -> None:
        name = request.field("service", str)
        if name not in client.services:
            raise FluxError(errno.ENOENT)
        client.services.remove(name)
        del self._router.services[name]

    def _deliver_event(self, message: Message) -> None:
        topic = message.topic or ""
        for client in list(self._clients.values()):
            connection = client.connection
            if message.flags & FLAG_PRIVATE and not (
                connection.rolemask & ROLE_OWNER or connection.userid == message.userid
            ):
                continue
            if any(topic.startswith(prefix) for prefix in client.subscriptions):
                connection.send(message)

    def _forget(self, connection: Connection) -> None:
        client = self._clients.pop(connection.uuid, None)
        if client is None:
            return
        router = self._router
        router.routes.pop(connection.uuid, None)
        for name in client.services:
            del router.services[name]
        for prefix, nodeid, upstream in client.contacted:
            router.request(
                Message(
                    REQUEST,
                    f"{prefix}.disconnect" if prefix else "disconnect",
                    flags=FLAG_NORESPONSE | upstream,
                    userid=connection.userid,
                    rolemask=connection.rolemask,
                    aux1=nodeid,
                    routes=[connection.uuid],
                )
            )

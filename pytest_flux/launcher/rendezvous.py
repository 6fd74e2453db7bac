"""Connections between the processes of one run, which may be on several hosts: who listens, who dials, who may.

The problem: the workers of ``pytest --flux-workers`` are tasks of a job, perhaps on other hosts, and execnet wants a
stream of bytes to each. Three ways were open. The standard input and output of tasks go through the KVS, encoded as
JSON: slow, and one job has one stream for all. execnet has gateways to sockets, but there the worker listens and runs
whatever code a client sends, with no question asked: on a cluster, that is everybody's. So we listen, and the workers
dial.

Who may? A worker runs the code that it is sent, and pytest believes what workers report. So both ends prove that they
know a key, by the challenges of :mod:`multiprocessing.connection`. The key goes to the workers in their environment,
which only their owner can read. After that there are only the bytes of execnet.

On one host, the address is a socket file in a private directory, and nobody else can dial at all. Between hosts it is
a port, and all addresses of our host are given, because we do not know which network the others see: the first that
answers with the right key is used.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import queue
import secrets
import select
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any, NamedTuple

ENVIRONMENT = "PYTEST_FLUX_RENDEZVOUS"
"""The environment variable with the address for tasks."""

LIFELINE = "lifeline"

USERS = "workers"
"""A file in the directory of a node. Who uses the directory has a shared lock on it."""

_KEY_BYTES = 32
_BACKLOG = 1024
# The time, in seconds, that a stranger may take to prove that it knows the key.
_PATIENCE = 10.0
# The time, in seconds, after which an idle connection is probed: hosts can vanish without a word.
_KEEPALIVE = 60
# The time, in seconds, in which locks are released after a process was killed; its children may have them too.
_DYING, _INTERVAL = 5.0, 0.05
# Old versions of multiprocessing have assertions about what strangers send.
_FAILURES = (OSError, EOFError, AuthenticationError, ValueError, AssertionError)


class Guest(NamedTuple):
    """A process that has dialled: its connection, and what it says about itself."""

    connection: socket.socket
    about: dict[str, Any]


class Rendezvous:
    """Listens from creation to :meth:`close`. ``address`` is what others dial. ``guests`` takes who has come.

    Those that are about LIFELINE are not guests: nothing is ever sent to them, so that they notice our end.
    """

    def __init__(self, *, is_local: bool) -> None:
        self.guests: queue.Queue[Guest] = queue.Queue()
        self._key = secrets.token_hex(_KEY_BYTES)
        self._directory = tempfile.mkdtemp(prefix="flux-") if is_local else ""
        try:
            self._socket, places = _listen_here(f"{self._directory}/socket") if is_local else _listen_anywhere()
        except BaseException:
            self._remove_directory()
            raise
        self.address = json.dumps({"key": self._key, "places": places})
        self._closed = False
        self._lifelines: list[socket.socket] = []
        threading.Thread(target=self._accept, name="rendezvous", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            # A stranger that says nothing must not keep the others waiting.
            threading.Thread(target=self._welcome, args=[connection], daemon=True).start()

    def _welcome(self, connection: socket.socket) -> None:
        try:
            with _as_messages(connection) as messages:
                deliver_challenge(messages, self._key.encode())
                answer_challenge(messages, self._key.encode())
                about = json.loads(messages.recv_bytes())
            _prepare(connection)
        except _FAILURES:
            connection.close()
            return
        if self._closed:
            connection.close()
        elif LIFELINE in about:
            self._lifelines.append(connection)
        else:
            self.guests.put(Guest(connection, about))

    def close(self) -> None:
        """Listen no longer, and hang up on those that nobody has taken from ``guests``."""
        self._closed = True
        with contextlib.suppress(OSError):
            # A thread that waits in accept() returns.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with contextlib.suppress(queue.Empty):
            while True:
                self.guests.get_nowait().connection.close()
        for connection in self._lifelines:
            connection.close()
        self._remove_directory()

    def _remove_directory(self) -> None:
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)


def _listen_here(path: str) -> tuple[socket.socket, list[Any]]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(_BACKLOG)
    return listener, [path]


def _listen_anywhere() -> tuple[socket.socket, list[Any]]:
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    listener = socket.create_server(("", 0), family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
    port = listener.getsockname()[1]
    return listener, [[host, port] for host in _our_addresses(is_dual=dual)]


def _our_addresses(*, is_dual: bool) -> list[str]:
    """The addresses of this host, those of loopback last, without those that are of use with an interface only."""
    import psutil

    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    families = (socket.AF_INET, socket.AF_INET6) if is_dual else (socket.AF_INET,)
    found = [
        address.address
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if name in up and address.family in families and "%" not in address.address
    ]
    return sorted(found, key=lambda address: address == "::1" or address.startswith("127."))


def dial(address: str, about: dict[str, Any], timeout: float) -> socket.socket:
    """Connect to a rendezvous, and say something ``about`` us. Raises OSError, and TimeoutError."""
    parsed = json.loads(address)
    reasons = []
    for connection in _connect(parsed["places"], timeout):
        try:
            with _as_messages(connection) as messages:
                answer_challenge(messages, parsed["key"].encode())
                deliver_challenge(messages, parsed["key"].encode())
                messages.send_bytes(json.dumps(about).encode())
            _prepare(connection)
        except _FAILURES as error:
            reasons.append(str(error) or type(error).__name__)
            connection.close()
        else:
            return connection
    raise ConnectionRefusedError(f"nobody answers at {parsed['places']}: {', '.join(reasons) or 'refused'}")


def node_directory(address: str) -> str:
    """Where those on one node of a run that dial an address can share things. It need not exist."""
    # Brokers on one host have sockets of different names, and count as nodes.
    node = f"{address} {os.environ.get('FLUX_URI', '')}"
    return f"{tempfile.gettempdir()}/pytest-flux-{os.getuid()}-{hashlib.sha256(node.encode()).hexdigest()[:16]}"


def clean_up(address: str) -> None:
    """Remove what processes of a run could not remove, because they were killed."""
    for place in json.loads(address)["places"]:
        if not isinstance(place, str):
            continue
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(place)
            except ConnectionRefusedError:
                shutil.rmtree(os.path.dirname(place), ignore_errors=True)
            except OSError:
                # It is removed.
                pass
    directory = node_directory(address)
    deadline = time.monotonic() + _DYING
    while not _remove_unused(directory) and time.monotonic() < deadline:
        time.sleep(_INTERVAL)


def _remove_unused(directory: str) -> bool:
    """Remove the directory of a node, unless a worker has locked it. Return whether it is gone."""
    try:
        descriptor = os.open(f"{directory}/{USERS}", os.O_RDWR)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _connect(places: list[Any], timeout: float) -> Iterator[socket.socket]:
    """Connect to all places at once: what is connected, as it comes."""
    pending: dict[int, socket.socket] = {}
    poll = select.poll()
    deadline = time.monotonic() + timeout
    try:
        for place in places:
            connection = _begin(place)
            if connection is not None:
                pending[connection.fileno()] = connection
                poll.register(connection, select.POLLOUT)
        while pending and time.monotonic() < deadline:
            for descriptor, _ in poll.poll(max(deadline - time.monotonic(), 0) * 1000):
                poll.unregister(descriptor)
                connection = pending.pop(descriptor)
                if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    connection.close()
                    continue
                connection.setblocking(True)
                yield connection
    finally:
        for connection in pending.values():
            connection.close()


def _begin(place: Any) -> socket.socket | None:  # noqa: ANN401 - of JSON: a path, or host and port
    family = socket.AF_UNIX if isinstance(place, str) else socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    try:
        connection = socket.socket(family)
    except OSError:
        return None
    # A file's owner has room for all of us, but may be slow to take us.
    connection.setblocking(isinstance(place, str))
    try:
        connection.connect(place if isinstance(place, str) else tuple(place))
    except BlockingIOError:
        pass
    except OSError:
        connection.close()
        return None
    return connection


@contextlib.contextmanager
def _as_messages(connection: socket.socket) -> Iterator[Connection]:
    """The connection as multiprocessing has it, with a limit of time."""
    _limit(connection, _PATIENCE)
    messages = Connection(os.dup(connection.fileno()))
    try:
        yield messages
    finally:
        messages.close()
        _limit(connection, 0.0)


def _limit(connection: socket.socket, seconds: float) -> None:
    # Not settimeout(): that would make the descriptor non-blocking, which multiprocessing does not expect.
    import struct

    value = struct.pack("ll", int(seconds), 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


def _prepare(connection: socket.socket) -> None:
    if connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE)

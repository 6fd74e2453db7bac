"""The methods by which a broker boots: each a store of keys and values, with a rank and a size.

``simple`` speaks PMI-1 (RFC 13) over the descriptor PMI_FD; ``single`` and ``config`` ask nobody.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pytest_flux.broker.bizcard import Bizcard
from pytest_flux.protocol import pmi
from pytest_flux.protocol.errors import ProtocolError

DEFAULT_METHODS = "config simple libpmi2 libpmi single"
_REQUIRED = ("PMI_FD", "PMI_RANK", "PMI_SIZE")

# Flux's words for the codes of RFC 13, as users see them.
_CODES = {
    pmi.FAIL: "operation failed",
    1: "PMI not initialized",
    2: "input buffer not large enough",
    3: "invalid argument",
    pmi.INVALID_KEY: "invalid key argument",
    pmi.INVALID_KEY_LENGTH: "invalid key length argument",
    6: "invalid val argument",
    pmi.INVALID_VAL_LENGTH: "invalid val length argument",
    pmi.INVALID_LENGTH: "invalid length argument",
}


class BootError(Exception):
    """The broker cannot boot; the text, in Flux's words where it has some, says where and why."""


class Refused(Exception):
    """An answer with an error code: of a get, it means that there is no such key."""


class Store(Protocol):
    """A store, and this broker's place in the instance, which is known once it is initialized.

    All methods raise Refused for an answer with an error code, and BootError if there is no server to answer.
    """

    @property
    def method(self) -> str:
        """Which of the methods this is."""

    @property
    def name(self) -> str:
        """The name that the server gives the store."""

    @property
    def rank(self) -> int:
        """The rank of this broker."""

    @property
    def size(self) -> int:
        """The number of brokers."""

    @property
    def hosts(self) -> Sequence[Mapping[str, Any]]:
        """The configured brokers in the order of ranks, ``{host, bind?, connect?, parent?}`` each."""

    def initialize(self) -> None:
        """Begin the conversation."""

    def get(self, key: str) -> str:
        """The value of ``key``."""

    def put(self, key: str, value: str) -> None:
        """Set ``key``, for others to see after the next barrier."""

    def barrier(self) -> None:
        """Wait until all brokers are here."""

    def finalize(self) -> None:
        """End the conversation, and close the connection."""

    def abort(self, code: int, message: str) -> None:
        """Ask that all brokers be killed, for the reason ``message``; without waiting for it."""

    def close(self) -> None:
        """Drop the conversation."""


class _LocalStore:
    """What ``single`` puts in the place of a PMI server: a store that nobody else sees."""

    method = name = "single"
    hosts: Sequence[Mapping[str, Any]] = ()
    rank = 0
    size = 1

    def __init__(self) -> None:
        self._kvs: dict[str, str] = {}

    def initialize(self) -> None:
        pass

    def get(self, key: str) -> str:
        if key not in self._kvs:
            raise Refused("key not found")
        return self._kvs[key]

    def put(self, key: str, value: str) -> None:
        self._kvs[key] = value

    def barrier(self) -> None:
        pass

    def finalize(self) -> None:
        pass

    def abort(self, code: int, message: str) -> None:
        print(message, file=sys.stderr)

    def close(self) -> None:
        pass


class _ConfigStore(_LocalStore):
    """The business cards that the ``[bootstrap]`` table implies."""

    method = name = "config"

    def __init__(self, config: Mapping[str, Any], hostname: str) -> None:
        if "bootstrap" not in config:
            raise BootError("bootstrap configuration not found")
        super().__init__()
        self._config = config
        self._hostname = hostname

    def initialize(self) -> None:
        from pytest_flux.broker.config import bootstrap_hosts

        # Not sooner: who has such a table wants this method, and no other if there are mistakes in it.
        try:
            self.hosts = bootstrap_hosts(self._config, self._hostname)
        except ValueError as error:
            raise BootError(str(error)) from None
        self.size = len(self.hosts)
        self.rank = [host["host"] for host in self.hosts].index(self._hostname)
        for rank, host in enumerate(self.hosts):
            uris = (host["connect"],) if host.get("connect") else ()
            self.put(str(rank), Bizcard(host["host"], uris).encode())


class _SimpleStore:
    """The client of a PMI server."""

    method = "simple"
    hosts: Sequence[Mapping[str, Any]] = ()

    def __init__(self, environ: Mapping[str, str]) -> None:
        for name in _REQUIRED:
            if name not in environ:
                raise BootError(f"{name} not found in environ")
        try:
            self._fd, self.rank, self.size = (int(environ[name]) for name in _REQUIRED)
            if not 0 <= self.rank < self.size:
                raise ValueError
            # The tasks that this broker starts get a PMI server of their own, or none.
            os.set_inheritable(self._fd, False)
            os.set_blocking(self._fd, True)
        except ValueError:
            values = " ".join(f"{name}={environ[name]}" for name in _REQUIRED)
            raise BootError(f"create context: Invalid argument ({values})") from None
        except OSError as error:
            raise BootError(f"create context: {error.strerror} (PMI_FD={self._fd})") from None
        self.name = ""
        self._lines = pmi.LineBuffer()

    def initialize(self) -> None:
        greeting = self._ask("response_to_init", "init", pmi_version=1, pmi_subversion=1)
        # Hydra of MPICH 5 answers 1.1 with 1.2, whose differences (tags of barriers) do not concern us.
        if _number(greeting, "pmi_version") != 1 or _number(greeting, "pmi_subversion") < 1:
            raise BootError("operation failed: the PMI server does not speak version 1.1")
        self._value_max = _number(self._ask("maxes", "get_maxes"), "vallen_max")
        self.name = self._ask("my_kvsname", "get_my_kvsname").fields.get("kvsname", "")

    def get(self, key: str) -> str:
        self._ask("get_result", "get", kvsname=self.name, key=key)
        # Not from the fields: Hydra of MPICH 4.0 puts msg=success first, and a msg runs to the end of its line.
        start = pmi.find_field(self._answer, "value")
        if start < 0:
            raise Refused(_CODES[pmi.INVALID_KEY])
        return pmi.string_at(self._answer, start)

    def put(self, key: str, value: str) -> None:
        # Servers differ in what they do to longer values; cutting them is one of the things.
        if pmi.byte_length(value) >= self._value_max:
            raise Refused(_CODES[pmi.INVALID_VAL_LENGTH])
        self._ask("put_result", "put", kvsname=self.name, key=key, value=value)

    def barrier(self) -> None:
        self._ask("barrier_out", "barrier_in")

    def finalize(self) -> None:
        self._ask("finalize_ack", "finalize")
        self.close()

    def abort(self, code: int, message: str) -> None:
        self._send(pmi.encode("abort", exitcode=code, error_msg=message))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _ask(self, answer: str, command: str, **fields: str | int) -> pmi.Response:
        self._send(pmi.encode(command, **fields))
        try:
            self._answer = self._receive()
            response = pmi.decode_response(self._answer)
        except ProtocolError as error:
            raise BootError(f"operation failed: {error}") from None
        if response.command != answer:
            raise BootError(f"operation failed: the PMI server answered {command} with {response.command}")
        if response.rc != pmi.SUCCESS:
            raise Refused(_CODES.get(response.rc, f"pmi error {response.rc}"))
        return response

    def _send(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise BootError(f"operation failed: PMI server: {error.strerror}") from None

    def _receive(self) -> str:
        while True:
            try:
                data = os.read(self._fd, 4096)
            except OSError as error:
                raise BootError(f"operation failed: PMI server: {error.strerror}") from None
            if not data:
                raise BootError("operation failed: the PMI server closed the connection")
            lines = self._lines.feed(data)
            if lines:  # one, as the conversation is in lock-step
                return lines[0]


def open_store(method: str, environ: Mapping[str, str], config: Mapping[str, Any], hostname: str) -> Store:
    """The store of ``method``, not yet initialized. Raises BootError if its prerequisites are not there."""
    name = method.partition(":")[0]
    if name == "config":
        return _ConfigStore(config, hostname)
    if name == "simple":
        return _SimpleStore(environ)
    if name == "single":
        return _LocalStore()
    if name in ("libpmi", "libpmi2"):
        raise BootError("the embedded broker loads no PMI library: use simple, or install flux-core")
    raise BootError(f"plugin matching '{method}' not found")


def _number(response: pmi.Response, key: str) -> int:
    text = response.fields.get(key, "")
    if not (text.isascii() and text.isdigit()):
        raise BootError(f"operation failed: the PMI server sent no {key}")
    return int(text)

"""The client's side of PMI-1 (RFC 13), blocking, over the descriptor in PMI_FD."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from pytest_flux.protocol import pmi
from pytest_flux.protocol.errors import ProtocolError

# How flux start, as recorded, and flux-start name the store of their PMI server.
FLUX_START = "-"

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
    """The broker cannot boot. The text says where and why, in Flux's words if there are any."""


class Refused(Exception):
    """An answer with an error code: for a get, it means that there is no such key."""


class PmiClient:
    """The method ``simple``: a Store whose other end is a PMI server. Opening it raises BootError."""

    method = "simple"
    hosts: Sequence[Mapping[str, str]] = ()

    def __init__(self, environ: Mapping[str, str]) -> None:
        for name in _REQUIRED:
            if name not in environ:
                raise BootError(f"{name} not found in environ")
        try:
            self._fd, self.rank, self.size = (int(environ[name]) for name in _REQUIRED)
            if not 0 <= self.rank < self.size:
                raise ValueError
            # The tasks that this broker starts must not inherit its PMI server.
            os.set_inheritable(self._fd, False)
            os.set_blocking(self._fd, True)
        except ValueError:
            values = " ".join(f"{name}={environ[name]}" for name in _REQUIRED)
            raise BootError(f"create context: Invalid argument ({values})") from None
        except OSError as error:
            raise BootError(f"create context: {error.strerror} (PMI_FD={self._fd})") from None
        self.name = ""
        self._buffer = pmi.LineBuffer()
        self._lines: list[str] = []

    def initialize(self) -> None:
        """Begin the conversation."""
        greeting = self._ask("response_to_init", "init", pmi_version=1, pmi_subversion=1)
        # Hydra of MPICH 5 answers 1.1 with 1.2, whose differences (tags of barriers) do not concern us.
        if _number(greeting, "pmi_version") != 1 or _number(greeting, "pmi_subversion") < 1:
            raise BootError("operation failed: the PMI server does not speak version 1.1")
        self._value_max = _number(self._ask("maxes", "get_maxes"), "vallen_max")
        self.name = self._ask("my_kvsname", "get_my_kvsname").fields.get("kvsname", "")

    def get(self, key: str) -> str:
        """The value of ``key``."""
        self._ask("get_result", "get", kvsname=self.name, key=key)
        return self._value()

    def get_many(self, keys: Sequence[str]) -> list[str | None]:
        """The values of many keys, None for a missing one."""
        # The servers with this name, those of flux start and flux-start, take the next request before the last
        # answer is read. PMI does not promise that, so others are asked in lock-step. It makes the boot of 64
        # brokers, each of which asks for 64 cards, two and a half times as fast.
        size = 64 if self.name == FLUX_START else 1
        values: list[str | None] = []
        for start in range(0, len(keys), size):
            batch = keys[start : start + size]
            self._send(b"".join(pmi.encode("get", kvsname=self.name, key=key) for key in batch))
            for _ in batch:
                try:
                    self._answer("get_result", "get")
                    values.append(self._value())
                except Refused:
                    values.append(None)
        return values

    def _value(self) -> str:
        # Not from the fields: Hydra of MPICH 4.0 puts msg=success first, and a msg runs to the end of its line.
        start = pmi.find_field(self._line, "value")
        if start < 0:
            raise Refused(_CODES[pmi.INVALID_KEY])
        return pmi.string_at(self._line, start)

    def put(self, key: str, value: str) -> None:
        """Set ``key``, for others to see after the next barrier."""
        # Servers treat longer values differently; some truncate them.
        if pmi.byte_length(value) >= self._value_max:
            raise Refused(_CODES[pmi.INVALID_VAL_LENGTH])
        self._ask("put_result", "put", kvsname=self.name, key=key, value=value)

    def barrier(self) -> None:
        """Wait until all clients are here."""
        self._ask("barrier_out", "barrier_in")

    def finalize(self) -> None:
        """End the conversation, and close the connection."""
        self._ask("finalize_ack", "finalize")
        self.close()

    def abort(self, code: int, message: str) -> None:
        """Ask that all clients be killed, for the reason ``message``; without waiting for it."""
        self._send(pmi.encode("abort", exitcode=code, error_msg=message))

    def close(self) -> None:
        """Drop the conversation."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _ask(self, answer: str, command: str, **fields: str | int) -> pmi.Response:
        self._send(pmi.encode(command, **fields))
        return self._answer(answer, command)

    def _answer(self, answer: str, command: str) -> pmi.Response:
        try:
            self._line = self._receive()
            response = pmi.decode_response(self._line)
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
        while not self._lines:
            try:
                data = os.read(self._fd, 65536)
            except OSError as error:
                raise BootError(f"operation failed: PMI server: {error.strerror}") from None
            if not data:
                raise BootError("operation failed: the PMI server closed the connection")
            self._lines = self._buffer.feed(data)[::-1]
        return self._lines.pop()


def _number(response: pmi.Response, key: str) -> int:
    text = response.fields.get(key, "")
    if not (text.isascii() and text.isdigit()):
        raise BootError(f"operation failed: the PMI server sent no {key}")
    return int(text)

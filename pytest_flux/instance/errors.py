"""Errors that name what they are about: the key, the attribute, the rank, the job, the program."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_flux.client.kvs import PRIMARY, TREEOBJ, Kvs
from pytest_flux.protocol.errors import FluxError

if TYPE_CHECKING:
    from pytest_flux.protocol.treeobj import TreeObject

_T = TypeVar("_T")
_MOST_OUTPUT = 4000


class ProgramFailed(subprocess.CalledProcessError):
    """A program ended with another exit code than 0. The text has what it wrote."""

    def __str__(self) -> str:
        return super().__str__() + _written(self.stdout, self.stderr)


class ProgramTimeout(subprocess.TimeoutExpired):
    """A program did not end in time. The text has what it wrote so far."""

    def __str__(self) -> str:
        return super().__str__() + _written(self.stdout, self.stderr)


def _written(*streams: str | bytes | None) -> str:
    text = ""
    for name, data in zip(("stdout", "stderr"), streams, strict=True):
        words = data.decode(errors="replace") if isinstance(data, bytes) else data or ""
        words = words.rstrip("\n")
        if words:
            text += f"\n{name}:\n" + (words if len(words) <= _MOST_OUTPUT else f"[...]{words[-_MOST_OUTPUT:]}")
    return text


def named(what: str, ask: Callable[[], _T]) -> _T:
    """Call ``ask``, and put ``what`` before the text of its FluxError."""
    try:
        return ask()
    except FluxError as error:
        raise FluxError(error.errnum, f"{what}: {error.text or os.strerror(error.errnum)}") from None


class NamingKvs(Kvs):
    """A key-value store whose errors name the key."""

    def _named(self, key: str, ask: Callable[[], _T]) -> _T:
        where = "" if self.namespace == PRIMARY else f" in namespace {self.namespace}"
        return named(f"Kvs key {key!r}{where}", ask)

    def entry(self, key: str, flags: int = TREEOBJ) -> TreeObject:
        """The tree object at a key: how it is stored."""
        return self._named(key, lambda: super(NamingKvs, self).entry(key, flags))

    def wait_create(self, key: str, timeout: float | None = None) -> bytes:
        """The value of a key, once there is one."""
        try:
            return self._named(key, lambda: super(NamingKvs, self).wait_create(key, timeout))
        except TimeoutError:
            raise TimeoutError(f"Kvs key {key!r} was not created within {timeout:g} s") from None

    def watch(self, key: str, **how: Any) -> Iterator[bytes]:  # noqa: ANN401 - as Kvs has it
        """The value, and again whenever it is written."""
        values = super().watch(key, **how)
        while True:
            try:
                value = self._named(key, lambda: next(values))
            except StopIteration:
                return
            yield value

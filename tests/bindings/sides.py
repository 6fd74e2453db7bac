"""The four combinations: our stand-in and the C module, on an embedded instance and on a real one."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest_flux
from pytest_flux import FluxInstance, bindings


class Client(NamedTuple):
    """A Python that has `flux`, and what serves below it: ``ours`` or ``c``."""

    name: str
    python: str
    path: str

    def run(self, instance: FluxInstance, *command: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a Python program that is a client of an instance."""
        environ = {**os.environ, "FLUX_URI": instance.uri, "PYTHONPATH": self.path, "LC_ALL": "C.UTF-8"}
        return subprocess.run(
            [self.python, *command],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )


def our_client() -> Client:
    """The stand-in below the wheel that is installed here."""
    return Client("ours", sys.executable, bindings.directory())


@functools.cache
def c_client(flux: str) -> Client:
    """The bindings of a real Flux, with the Python that they were built for."""
    ask = "import os, sys, flux; print(sys.executable); print(os.path.dirname(os.path.dirname(flux.__file__)))"
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([flux, "python", "-c", ask], env=environ, capture_output=True, text=True, check=True)
    python, path = done.stdout.split()
    return Client("c", python, path)


@contextmanager
def instance_of(broker: str) -> Iterator[FluxInstance]:
    """An instance of two brokers."""
    with pytest_flux.start(size=2, broker=broker) as instance:
        yield instance

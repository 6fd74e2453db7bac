"""`flux pmi`: try out the process management interface as a client (RFC 13)."""

from __future__ import annotations

import os
import sys
import time

from pytest_flux.cli.command import Command, CommandError, Context
from pytest_flux.options import Option
from pytest_flux.protocol.idset import decode_idset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, TypeVar

    from pytest_flux.options import Options

    Result = TypeVar("Result")

    class _Store(Protocol):
        """The operations that this command uses of the embedded broker's boot methods."""

        @property
        def method(self) -> str: ...
        @property
        def name(self) -> str: ...
        @property
        def rank(self) -> int: ...
        @property
        def size(self) -> int: ...
        def initialize(self) -> None: ...
        def get(self, key: str) -> str: ...
        def put(self, key: str, value: str) -> None: ...
        def barrier(self) -> None: ...
        def finalize(self) -> None: ...
        def abort(self, code: int, message: str) -> None: ...


OPTIONS = (
    Option("method", argument="URI", usage="Use this method; otherwise the first that works"),
    Option("libpmi-noflux", hidden=True, usage="Accepted; there are no libraries here"),
    Option("libpmi2-cray", hidden=True, usage="Accepted; there are no libraries here"),
    Option("verbose", "v", "[LEVEL]", optional=True, usage="Print each operation"),
    Option("timeout", "t", "FSD", usage="Give up after this time"),
)
BARRIER_OPTIONS = (
    Option("test-count", argument="N", usage="Enter N barriers (default 1)"),
    Option("test-abort", argument="RANK", usage="Let RANK abort instead"),
    Option("test-timing", usage="Enter another barrier first, then measure"),
)
GET_OPTIONS = (Option("ranks", argument="{IDSET|all}", usage="Print on these ranks (default 0)"),)
EXCHANGE_OPTIONS = (Option("count", argument="N", usage="Do it N times (default 1)"),)


class Client:
    """An open store. It traces operations, and turns errors into CommandError."""

    def __init__(self, store: _Store, *, trace: bool) -> None:
        self.store = store
        self._trace = trace
        self._attempt("initialize", store.initialize, "")
        self._say(f"initialize: rank={store.rank} size={store.size} name={store.name}: success")

    def get(self, key: str) -> str:
        """Return the value of a key."""
        value = self._attempt(f"get key={key}", lambda: self.store.get(key), f"get {key}: ")
        self._say(f"get key={key} value={value}: success")
        return value

    def put(self, key: str, value: str) -> None:
        """Set a key."""
        self._attempt(f"put key={key}", lambda: self.store.put(key, value), f"put {key}: ")
        self._say(f"put key={key} value={value}: success")

    def barrier(self) -> None:
        """Wait for all ranks to enter the barrier."""
        self._attempt("barrier", self.store.barrier, "barrier: ")
        self._say("barrier: success")

    def finalize(self) -> None:
        """Finalize the connection."""
        self._attempt("finalize", self.store.finalize, "finalize: ")
        self._say("finalize: success")

    def _attempt(self, trace: str, operation: Callable[[], Result], complaint: str) -> Result:
        from pytest_flux.broker.boot.methods import BootError, Refused

        try:
            return operation()
        except (BootError, Refused) as error:
            self._say(f"{trace}: {error}")
            raise CommandError(f"{complaint}{error}") from None

    def _say(self, text: str) -> None:
        if self._trace:
            sys.stderr.write(f"{self.store.method}: {text}\n")


def open_client(general: Options, context: Context) -> Client:
    """Return the client that the general options ask for. Raises CommandError."""
    trace = general.integer("verbose", 0) > 0
    timeout = general.duration("timeout", -1)
    if timeout >= 0:
        _set_alarm(timeout, context, verbose=trace)
    method = general.get("method")
    if method is not None:
        return Client(_open_store(method), trace=trace)
    from pytest_flux.broker.boot.methods import DEFAULT_METHODS

    complaint = "no method to try"
    for method in os.environ.get("FLUX_PMI_CLIENT_METHODS", DEFAULT_METHODS).split():
        if trace:
            sys.stderr.write(f"flux-pmi-client: trying '{method}'\n")
        try:
            store = _open_store(method)
        except CommandError as error:
            complaint = str(error)
            if trace:
                sys.stderr.write(f"{method}: {error}\n")
            continue
        if trace:
            sys.stderr.write(f"{method}: selected\n")
        return Client(store, trace=trace)
    raise CommandError(complaint)


def _open_store(method: str) -> _Store:
    from pytest_flux.broker.boot.methods import BootError, open_store

    try:
        return open_store(method, os.environ, {}, os.uname().nodename)
    except BootError as error:
        raise CommandError(str(error)) from None


def _set_alarm(timeout: float, context: Context, *, verbose: bool) -> None:
    import signal

    def expire(*_: object) -> None:
        context.log("timeout expired before PMI operation completed")
        sys.stderr.flush()
        os._exit(1)

    signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    if verbose:
        context.log(f"Timer is set to {int(timeout)} sec {int(timeout % 1 * 1e6)} usec")


def _label() -> str:
    return os.environ.get("FLUX_JOB_CC") or os.environ.get("FLUX_JOB_ID") or "0"


def get(options: Options, context: Context) -> int:
    """Print the values of keys."""
    text = options.get("ranks", "0") or ""
    try:
        ranks = None if text == "all" else decode_idset(text)
    except ValueError:
        raise CommandError("could not decode --ranks argument") from None
    client = open_client(context.general, context)
    if ranks is None or client.store.rank in ranks:
        for key in options.arguments:
            print(client.get(key))
    client.finalize()
    return 0


def barrier(options: Options, context: Context) -> int:
    """Enter a barrier, once or several times."""
    if options.arguments:
        raise context.command.usage_error()
    count = options.integer("test-count", 1)
    abort = options.integer("test-abort", -1)
    timing = options.has("test-timing")
    client = open_client(context.general, context)
    if timing:
        client.barrier()  # do not measure the start of the processes
    if abort == client.store.rank:
        client.store.abort(1, f"flux-pmi: rank {abort} is aborting")
        return 1
    for _ in range(count):
        started = time.monotonic()
        client.barrier()
        if client.store.rank == 0:
            seconds = f" in {time.monotonic() - started:0.3f}s." if timing else ""
            print(f"{_label()}: completed pmi barrier on {client.store.size} tasks{seconds}", flush=True)
    client.finalize()
    return 0


def exchange(options: Options, context: Context) -> int:
    """Send something from every rank to every other rank, and check that it arrives."""
    if options.arguments:
        raise context.command.usage_error()
    count = options.integer("count", 1)
    client = open_client(context.general, context)
    store = client.store
    client.barrier()
    for _ in range(count):
        started = time.monotonic()
        client.put(f"key.{store.rank}", f"{store.name}-{store.rank}-{store.size}")
        client.barrier()
        for rank in range(store.size):
            if client.get(f"key.{rank}") != f"{store.name}-{rank}-{store.size}":
                raise CommandError(f"get key.{rank}: returned unexpected value")
        client.barrier()
        if store.rank == 0:
            seconds = time.monotonic() - started
            print(f"{_label()}: completed pmi exchange on {store.size} tasks in {seconds:0.3f}s.", flush=True)
    client.finalize()
    return 0


COMMANDS = (
    Command(
        "flux pmi",
        summary="Try out the process management interface",
        options=OPTIONS,
        subcommands=(
            Command("flux pmi barrier", barrier, summary="Enter a barrier", options=BARRIER_OPTIONS),
            Command("flux pmi get", get, summary="Print values of keys", options=GET_OPTIONS),
            Command(
                "flux pmi exchange", exchange, summary="Exchange values with all others", options=EXCHANGE_OPTIONS
            ),
        ),
    ),
)

"""Bootstrap: how a broker learns its rank, the size of its instance and its peers, before its reactor runs (RFC 13).

The methods are Flux's, tried in its order: ``config`` (a ``[bootstrap]`` table), ``simple`` (a PMI-1 server
at the descriptor PMI_FD: flux-start, Flux, Hydra, Slurm), ``single``. So are the environment variables:
FLUX_PMI_CLIENT_METHODS, FLUX_PMI_DEBUG.

The conversation goes as recorded of flux-core 0.88: bootstrap(), interface_hint() unless that attribute is
set, mapping(), Boot.exchange().
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from pytest_flux.broker.boot.bizcard import Bizcard, machine_identity, require_one_machine
from pytest_flux.broker.boot.methods import (
    DEFAULT_METHODS,
    BootError,
    Refused,
    Store,
    open_store,
)
from pytest_flux.broker.overlay.topology import Topology
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.hostlist import encode_hostlist
from pytest_flux.protocol.taskmap import decode_taskmap
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["Boot", "BootError", "PeerCards", "Trace", "bootstrap", "interface_hint", "mapping"]

Trace = Callable[[str], None]


class Boot:
    """The open conversation with the launcher of this broker.

    ``name`` is PMI's kvsname: under Flux, the job id. ``instance_level`` is that of the enclosing Flux, or None if
    something else started us. ``hosts``, with the method ``config``, are those of the configuration, in the order of
    ranks, ``{host, bind?, connect?, parent?}`` each.
    """

    def __init__(self, store: Store, trace: Trace) -> None:
        self._store = store
        self._trace = trace
        try:
            store.initialize()
        except (Refused, BootError) as error:
            self._fail("initialize", error)
        self.method = store.method
        self.rank = store.rank
        self.size = store.size
        self.name = store.name
        self.hosts = store.hosts
        self._note(f"initialize: rank={self.rank} size={self.size} name={self.name}: success")
        self.instance_level = self.get("flux.instance-level")

    @property
    def under_flux(self) -> bool:
        """Whether this broker is a task of a Flux job."""
        return self.instance_level is not None

    def get(self, key: str) -> str | None:
        """The value of ``key``, or None if there is none. Raises BootError if the PMI server is lost."""
        try:
            return self._lookup(key)
        except Refused:
            return None

    def _lookup(self, key: str) -> str:
        try:
            value = self._store.get(key)
        except Refused as error:
            self._note(f"get key={key}: {error}")
            raise
        except BootError as error:
            self._fail(f"get key={key}", error)
        self._note(f"get key={key} value={value}: success")
        return value

    def put(self, key: str, value: str) -> None:
        """Set ``key``, for others to see after the next barrier. Raises BootError."""
        self._call(f"put key={key}", lambda: self._store.put(key, value), f"put key={key} value={value}")

    def barrier(self) -> None:
        """Wait until all brokers are here. Raises BootError."""
        self._call("barrier", self._store.barrier)

    def finalize(self) -> None:
        """End the conversation; the connection is closed. Raises BootError."""
        self._call("finalize", self._store.finalize)

    def exchange(self, card: Bizcard, topology: Topology) -> PeerCards:
        """Publish this broker's card, fetch all others', and end the conversation.

        Raises BootError, also if some brokers run on another machine. (With the method ``config`` the cards are
        those of the configuration, and ``card`` does not matter.)
        """
        if self.size == 1:
            self.finalize()
            return PeerCards([card], card.host, "")
        if self.method != "config":
            card = card._replace(machine=card.machine or machine_identity())
            self.put(str(self.rank), card.encode())
        self.barrier()
        parent = topology.parent(self.rank)
        peers = topology.children(self.rank) if parent is None else [parent, *topology.children(self.rank)]
        cards = self._whois(peers)
        # flux-core's brokers must know their peers' keys before these connect.
        self.barrier()
        cards.update(self._whois([rank for rank in range(self.size) if rank not in cards]))
        self.finalize()
        ordered = [cards[rank] for rank in range(self.size)]
        require_one_machine(ordered, self.method)
        endpoint = "" if parent is None else cards[parent].find_uri("ipc://")
        if endpoint is None:
            raise BootError(f"{self.method}: the business card of rank {parent} has no URI to connect to")
        return PeerCards(ordered, encode_hostlist(card.host for card in ordered), endpoint)

    def _whois(self, ranks: Sequence[int]) -> dict[int, Bizcard]:
        keys = [str(rank) for rank in ranks]
        try:
            values = self._store.get_many(keys)
        except BootError as error:
            self._fail("get business cards", error)
        cards: dict[int, Bizcard] = {}
        for rank, value in zip(ranks, values, strict=True):
            if value is None:
                self._note(f"get key={rank}: key not found")
                raise BootError(f"error fetching bizcard for rank {rank}: {self.method}: get {rank}: key not found")
            self._note(f"get key={rank} value={value}: success")
            try:
                cards[rank] = Bizcard.decode(value)
            except ProtocolError as error:
                raise BootError(f"error decoding rank {rank} business card: {error}") from None
        return cards

    def abort(self, message: str, code: int = 1) -> NoReturn:
        """Ask that all brokers be killed, and exit with ``code`` (SystemExit)."""
        self._store.abort(code, message)
        raise SystemExit(code)

    def close(self) -> None:
        """Drop the conversation, as after an error."""
        self._store.close()

    def _call(self, what: str, action: Callable[[], None], done: str = "") -> None:
        try:
            action()
        except (Refused, BootError) as error:
            self._fail(what, error)
        self._note(f"{done or what}: success")

    def _fail(self, what: str, error: Exception) -> NoReturn:
        self._note(f"{what}: {error}")
        raise BootError(f"{self._store.method}: {what.replace(' key=', ' ')}: {error}") from None

    def _note(self, text: str) -> None:
        self._trace(f"bootstrap: {self._store.method}: {text}")


class PeerCards(NamedTuple):
    """What :meth:`Boot.exchange` has learned.

    The business cards of all ranks in their order; their host names (RFC 29); the URI of the parent, "" for rank 0.
    """

    cards: Sequence[Bizcard]
    hostlist: str
    parent_endpoint: str


def bootstrap(
    environ: Mapping[str, str],
    config: dict[str, Any],
    hostname: str,
    *,
    method: str | None = None,
    trace: Trace | None = None,
) -> Boot:
    """Choose a method (``method``, the attribute broker.boot-method, forces one) and start its conversation.

    ``trace`` gets a line for each step; without it they go to stderr if FLUX_PMI_DEBUG is in the environment.
    Raises BootError.
    """
    if trace is None:
        trace = _print if "FLUX_PMI_DEBUG" in environ else _ignore
    if method is not None:
        store = open_store(method, environ, config, hostname)
    else:
        store = _choose(environ, config, hostname, trace)
    try:
        return Boot(store, trace)
    except BaseException:
        store.close()
        raise


def interface_hint(boot: Boot) -> str | None:
    """The attribute tbon.interface-hint, as Flux hands it to instances that it starts."""
    return boot.get("flux.tbon-interface-hint") if boot.under_flux else None


def mapping(boot: Boot) -> str | None:
    """The attribute broker.mapping: which rank is on which node (RFC 34), if the launcher tells.

    Hydra of MPICH 4.0 names one rank if there are more (it means: and so on); that is passed on, as in flux-core.
    Raises BootError for an invalid mapping.
    """
    if boot.size == 1 or boot.method == "config":
        return f"[[0,{boot.size},1,1]]"
    for key in ("flux.taskmap", "PMI_process_mapping")[not boot.under_flux :]:
        value = boot.get(key)
        if value is not None:
            try:
                return decode_taskmap(value).encode_json()
            except ProtocolError as error:
                raise BootError(f"{boot.method}: {key}: {error}") from None
    return None


def _choose(environ: Mapping[str, str], config: dict[str, Any], hostname: str, trace: Trace) -> Store:
    failure = BootError("FLUX_PMI_CLIENT_METHODS names no method")
    for method in environ.get("FLUX_PMI_CLIENT_METHODS", DEFAULT_METHODS).split():
        trace(f"bootstrap: flux-pmi-client: trying '{method}'")
        try:
            store = open_store(method, environ, config, hostname)
        except BootError as error:
            known = method in DEFAULT_METHODS.split()
            trace(f"bootstrap: {method if known else 'flux-pmi-client'}: {error}")
            failure = error
        else:
            trace(f"bootstrap: {method}: selected")
            return store
    raise failure


def _print(line: str) -> None:
    print(line, file=sys.stderr)


def _ignore(line: str) -> None:
    pass

"""The resources of the instance, on rank 0: R and its origin; online, drained, excluded ranks (RFC 20, RFC 44)."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.boot.recovery import is_recovery
from pytest_flux.broker.resource.config import JOURNAL_MAX, decode_config
from pytest_flux.broker.resource.discovery import core_count, gpu_count
from pytest_flux.broker.resource.drain import MODES, Drains, decode_targets
from pytest_flux.broker.resource.journal import EVENTLOG, Journal
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.hostlist import decode_hostlist, encode_hostlist
from pytest_flux.protocol.idset import decode_idset, encode_idset
from pytest_flux.protocol.resource_set import Node, ResourceSet, ids_of, text_of
from pytest_flux.protocol.severity import LOG_ERR, LOG_INFO

if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.enclosing import Enclosing
    from pytest_flux.broker.kvs import Kvs
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.services.groups import GroupsService
    from pytest_flux.protocol.eventlog import Event
    from pytest_flux.reactor.clock import Clock

KEY = "resource.R"
_CHECKPOINT = "checkpoint.resource"


class Inventory:
    """With ``force_up`` every rank counts as online.

    With ``is_strict`` a bad configuration or log is a FluxError EINVAL.

    ``on_change`` is called whenever the usable resources change. ``allocated`` returns what jobs hold.

    ``keeps_history`` says that no event is dropped from the log of earlier runs, however old it is.

    ``is_muted`` asks the scheduler to take no notice of further changes.
    """

    def __init__(
        self,
        size: int,
        attributes: Attributes,
        config: dict[str, Any],
        log: BrokerLog,
        clock: Clock,
        groups: GroupsService,
        kvs: Kvs,
        enclosing: Enclosing | None,
        *,
        is_strict: bool = False,
        force_up: bool = False,
        keeps_history: bool = False,
    ) -> None:
        self._size = size
        self._attributes = attributes
        self._log = log
        self._clock = clock
        self._groups = groups
        self._kvs = kvs
        self._enclosing = enclosing
        self.on_change: list[Callable[[], None]] = []
        self.allocated: Callable[[], ResourceSet] = ResourceSet
        self.resources = ResourceSet()
        self.method = ""
        self.drains = Drains()
        self.online: set[int] = set()
        self.torpid: set[int] = set()
        self.excluded: set[int] = set()
        self.lost: set[int] = set()
        self.is_muted = False
        self.journal = Journal(kvs, clock)
        self._config = decode_config({})
        self._watching = False
        self._is_strict = is_strict
        try:
            self._config = decode_config(config)
        except ProtocolError as error:
            self._complain(str(error))
        self._force_up = force_up or self._config.fake
        self.journal.set_limit(self._config.journal_max)
        self._is_recovery = is_recovery(attributes)
        past: list[Event] = []
        try:
            past = self.journal.recall()
        except ProtocolError as error:
            self._complain(f"{EVENTLOG}: {error}")
        self._begin(past, keeps_all=keeps_history or self._is_recovery)
        self._verify()

    def _complain(self, text: str) -> None:
        self._log.write(LOG_ERR, text, "resource")
        if self._is_strict:
            raise FluxError(errno.EINVAL, text)

    # -- beginning

    def _begin(self, past: list[Event], *, keeps_all: bool) -> None:
        everybody = encode_idset(range(self._size))
        nodelist = self._attributes.get("hostlist") or ""
        online = everybody if self._force_up else ""
        self.journal.post("restart", {"ranks": everybody, "online": online, "nodelist": nodelist}, commit=False)
        if not self._is_recovery:
            # In recovery mode all ranks stay offline, however many brokers run.
            self._groups.watch("broker.online", self._online_changed)
            self._groups.watch("broker.torpid", self._torpid_changed)
        resources, method = self._find()
        since, drained = self._checkpoint()
        if not keeps_all:
            self.journal.truncate(past, self._forget_before(since))
        self.define(resources, method)
        self._recall(past, since, drained)
        self._watching = True
        if self._config.exclude:
            try:
                self.excluded = self.targets(self._config.exclude)
            except FluxError as error:
                text = f"error decoding exclude set {self._config.exclude}: {error.text}"
                self._log.write(LOG_ERR, text, "resource")
        # Excluded ranks cannot be drained, whatever an earlier run said.
        self.drains.undrain(self.excluded)

    def _find(self) -> tuple[ResourceSet, str]:
        if self._config.resources is not None:
            if self._config.fake:
                self.online = set(self._config.resources)
                return self._config.resources, "kvs"
            return self._config.resources, "configuration"
        inherited = None if self._config.rediscover else self._inherited()
        if inherited is not None:
            return inherited, "job-info"
        try:
            return ResourceSet.decode(self._kvs.lookup_json(KEY)), "kvs"
        except (FluxError, ProtocolError, ValueError):
            return self._discover(), "dynamic-discovery"

    def _inherited(self) -> ResourceSet | None:
        """What the enclosing instance has given us, with ranks from 0 on; None unless each broker has a part."""
        enclosing = self._enclosing
        given = enclosing.resources() if enclosing is not None else None
        if enclosing is None or given is None or len(given) != self._size:
            return None
        enclosing.on_expiration = self.set_expiration
        nodes = dict(enumerate(given.nodes.values()))
        new_rank = {rank: position for position, rank in enumerate(given)}
        properties = {name: frozenset(new_rank[rank] for rank in of) for name, of in given.properties.items()}
        return ResourceSet(
            nodes, properties, starttime=given.starttime, expiration=given.expiration, scheduling=given.scheduling
        )

    def _discover(self) -> ResourceSet:
        """Every broker runs on this host and offers all of it, as flux-core's brokers do."""
        cores, gpus = (1 << core_count()) - 1, (1 << gpu_count()) - 1
        return ResourceSet({rank: Node(self._attributes.host_of(rank), cores, gpus) for rank in range(self._size)})

    def _verify(self) -> None:
        """Drain the ranks that lack resources that the configuration, or an earlier run, gives them."""
        if self.method not in ("configuration", "kvs") or not self._config.verify or self._is_recovery:
            return
        actual = self._discover()
        for rank in self.resources:
            complaint = verify(rank, self.resources.nodes[rank], actual.nodes.get(rank))
            if complaint and rank not in self.drains and rank not in self.excluded:
                self._log.write(LOG_ERR, complaint, "resource")
                self._drain({rank}, complaint, 0, named=False)

    def define(self, resources: ResourceSet, method: str) -> None:
        """Use these resources from now on."""
        self.resources, self.method = resources, method
        encoded = resources.encode()
        if not self._is_recovery:
            self._kvs.put_json(KEY, encoded)
        self.journal.post("resource-define", {"method": method}, resources=encoded, commit=not self._is_recovery)
        self._changed()

    def _forget_before(self, since: float) -> float:
        """The time before which events are not needed: drains up to ``since``, the checkpoint's time, are in it."""
        return min(self._clock.time() - self._config.history, since) if self._config.history else since

    def _checkpoint(self) -> tuple[float, dict[str, Any]]:
        """Return the time of the checkpoint of an earlier run, and the drained ranks in it."""
        try:
            checkpoint = self._kvs.lookup_json(_CHECKPOINT)
            return float(checkpoint["timestamp"]), dict(checkpoint["drain_state"])
        except (FluxError, ProtocolError, ValueError, KeyError, TypeError):
            return 0.0, {}

    def _recall(self, past: list[Event], since: float, state: dict[str, Any]) -> None:
        """Drain the ranks that were drained before the instance was restarted, by the checkpoint and later events."""
        with contextlib.suppress(ProtocolError, ValueError, KeyError, TypeError):
            for ranks, entry in state.items():
                drained = self._ranks_now(ranks, entry.get("nodelist"))
                self.drains.drain(drained, float(entry["timestamp"]), entry["reason"] or None, 0)
        for event in past:
            context = event.get("context", {})
            if event["timestamp"] < since or event["name"] not in ("drain", "undrain"):
                continue
            try:
                of_event = self._ranks_now(context["idset"], context.get("nodelist"))
            except (ProtocolError, KeyError, TypeError, AttributeError) as error:
                self._complain(f"{event['name']}: {error!r}")
                continue
            if event["name"] == "drain":
                overwrite = context.get("overwrite", 1)
                self.drains.drain(of_event, event["timestamp"], context.get("reason"), overwrite)
            else:
                self.drains.undrain(of_event)

    def _ranks_now(self, ranks: str, nodelist: str | None) -> set[int]:
        """Find the ranks of an earlier run by their hosts, which may have other ranks now, or none."""
        then = list(decode_idset(ranks))
        hosts = decode_hostlist(nodelist) if nodelist else [self._host(rank) for rank in then]
        found = set()
        moved = []
        for rank, host in zip(then, hosts, strict=False):
            if self._host(rank) == host:
                found.add(rank)
            else:
                moved.append(host)
        if moved:
            # Of several ranks on a host, the first.
            rank_of = {self._host(rank): rank for rank in reversed(range(self._size))}
            found.update(rank_of[host] for host in moved if host in rank_of)
        return found

    def destroy(self) -> None:
        """Save, and follow nothing any longer, as the instance ends."""
        self._groups.unwatch(self._online_changed)
        self._groups.unwatch(self._torpid_changed)
        self.save()

    def save(self) -> None:
        """Keep the drained ranks for a restart."""
        if self._is_recovery:
            return
        state = {
            ranks: {**entry, "nodelist": self._hosts(decode_idset(ranks))}
            for ranks, entry in self.drains.encode().items()
        }
        self._kvs.put_json(_CHECKPOINT, {"timestamp": self._clock.time(), "drain_state": state})

    def configure(self, config: dict[str, Any]) -> None:
        """Take over what may change while the instance runs: only ``journal-max``, as in flux-core."""
        self.journal.set_limit(config.get("resource", {}).get("journal-max", JOURNAL_MAX))

    # -- brokers that are online

    def _online_changed(self, members: str) -> None:
        now = set(decode_idset(members)) | self._forced()
        if not self.online and 0 in now:
            # In flux-core the other brokers wait for that of rank 0, which so is online alone at first.
            self._compare(self.online, {0}, "online", "offline")
        self._compare(self.online, now, "online", "offline")

    def _torpid_changed(self, members: str) -> None:
        self._compare(self.torpid, set(decode_idset(members)), "torpid", "lively")

    def _forced(self) -> set[int]:
        return set(self.resources) if self._force_up else set()

    def _compare(self, known: set[int], now: set[int], joined: str, left: str) -> None:
        gone, new = known - now, now - known
        known.clear()
        known.update(now)
        if joined == "online":
            self.lost = (self.lost | gone) - new
        for name, ranks in ((joined, new), (left, gone)):
            if ranks:
                self.journal.post(name, {"idset": encode_idset(ranks)}, commit=False)
        if gone or new:
            self._changed()

    def _changed(self) -> None:
        for callback in self.on_change if self._watching else ():
            callback()

    @property
    def offline(self) -> set[int]:
        """Ranks whose broker is not online."""
        return set(range(max(self._size, len(self.resources)))) - self.online

    def usable(self) -> ResourceSet:
        """Return resources that are neither excluded nor lost. Configured ranks are never lost: they come back."""
        gone = self.excluded if self.method == "configuration" else self.excluded | self.lost
        return self.resources.without(gone)

    def down(self) -> set[int]:
        """Return the ranks on which no job may start now."""
        return self.offline | self.torpid | self.drains.ranks()

    # -- draining

    def targets(self, text: str) -> set[int]:
        """Return the ranks that an idset or hostlist names. Raises FluxError EINVAL, in flux-core's words."""
        return decode_targets(text, self.resources, self._size)

    def _host(self, rank: int) -> str:
        node = self.resources.nodes.get(rank)
        return self._attributes.host_of(rank) if node is None else node.hostname

    def _hosts(self, ranks: list[int]) -> str:
        return encode_hostlist(map(self._host, ranks))

    def drain(self, targets: str, reason: str | None, mode: str | None) -> None:
        """Drain ranks. Raises FluxError if targets, mode or the state of a rank forbid it."""
        ranks = self.targets(targets)
        if mode not in MODES:
            raise FluxError(errno.EINVAL, "Invalid mode specified")
        if mode is None:
            self.drains.check_drain(ranks, self.excluded)
        self._drain(ranks, reason, MODES[mode])

    def _drain(self, ranks: set[int], reason: str | None, overwrite: int, *, named: bool = True) -> None:
        timestamp = self._clock.time()
        self.drains.drain(ranks, timestamp, reason, overwrite)
        context: dict[str, Any] = {"idset": encode_idset(ranks), "nodelist": self._hosts(sorted(ranks))}
        if reason is not None:
            context["reason"] = reason
        if named:
            context["overwrite"] = overwrite
        self._log_change("drain", context, overwrite, reason)
        self.journal.post("drain", context, timestamp=timestamp)
        self._changed()

    def undrain(self, targets: str, reason: str | None, mode: str | None) -> None:
        """Undrain ranks. Raises FluxError as ``drain`` does."""
        ranks = self.targets(targets)
        if mode not in MODES:
            raise FluxError(errno.EINVAL, f"invalid undrain mode '{mode}' specified")
        if mode is None:
            self.drains.check_undrain(ranks)
        self.drains.undrain(ranks)
        context: dict[str, Any] = {"idset": encode_idset(ranks), "nodelist": self._hosts(sorted(ranks))}
        if reason is not None:
            context["reason"] = reason
        context["overwrite"] = MODES[mode]
        self._log_change("undrain", context, MODES[mode], reason)
        self.journal.post("undrain", context)
        self._changed()

    def _log_change(self, name: str, context: dict[str, Any], overwrite: int, reason: str | None) -> None:
        where = f"idset={context['idset']} nodelist={context['nodelist']}"
        self._log.write(LOG_INFO, f"{name} {where} overwrite={overwrite} reason={reason or ''}", "resource")

    def set_expiration(self, expiration: float) -> None:
        """Change the end of the instance's resources, as the enclosing instance orders."""
        self.resources.expiration = expiration
        self._kvs.put_json(KEY, self.resources.encode())
        self.journal.post("resource-update", {"expiration": expiration})
        self._changed()


def verify(rank: int, expected: Node, actual: Node | None) -> str:
    """Compare a node with its configuration, as flux-core's rlist_verify() does.

    Returns what is wrong, in flux-core's words; an empty text if hostname and cores are right, or ``actual`` is None
    because there is no such broker.
    """
    if actual is None:
        return ""
    complaints = []
    if expected.hostname != actual.hostname:
        complaints.append(f"rank {rank} got hostname '{actual.hostname}', expected '{expected.hostname}'")
    missing = expected.cores & ~actual.cores
    if missing:
        ids = text_of(missing)
        shown = f"[{ids}]" if len(ids_of(missing)) > 1 else ids
        complaints.append(f"rank {rank} ({actual.hostname}) missing resources: core{shown}")
    return "\n".join(complaints)

"""One embedded broker: its parts, and how they hold together."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from pytest_flux.broker import defaults
from pytest_flux.broker.attributes import Attributes
from pytest_flux.broker.boot.bizcard import Bizcard
from pytest_flux.broker.boot.boot import Boot, BootError
from pytest_flux.broker.boot.recovery import is_recovery
from pytest_flux.broker.instance_state import InstanceState
from pytest_flux.broker.local import LocalConnector
from pytest_flux.broker.log import LOG_ERR, LOG_INFO, BrokerLog
from pytest_flux.broker.overlay import tbon
from pytest_flux.broker.overlay.overlay import Overlay
from pytest_flux.broker.overlay.peers import Child
from pytest_flux.broker.overlay.topology import Topology
from pytest_flux.broker.overlay.torpid import TorpidWatch
from pytest_flux.broker.process.programs import program_environ
from pytest_flux.broker.process.runat import Runat
from pytest_flux.broker.router import Router
from pytest_flux.broker.service import Service
from pytest_flux.broker.services.attr import AttrService
from pytest_flux.broker.services.broker import BrokerService, RunatService, ShutdownService
from pytest_flux.broker.services.config import ConfigService
from pytest_flux.broker.services.event import EventService
from pytest_flux.broker.services.groups import GroupsService
from pytest_flux.broker.services.lazy import LazyService, existing
from pytest_flux.broker.services.log import LogService
from pytest_flux.broker.services.module import ConnectorService, ModuleService
from pytest_flux.broker.services.overlay import OverlayService
from pytest_flux.broker.services.rexec import RexecService
from pytest_flux.broker.services.state_machine import StateMachineService
from pytest_flux.broker.state.state_machine import StateMachine
from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.hostlist import decode_hostlist
from pytest_flux.protocol.idset import encode_idset
from pytest_flux.protocol.message import USERID_UNKNOWN, Message
from pytest_flux.reactor.reactor import Reactor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.broker.content.store import ContentStore
    from pytest_flux.broker.kvs import Kvs


def random_uuid() -> str:
    """A random UUID (RFC 9562, version 4), made here because the module uuid is large with all that it imports."""
    digits = f"{int.from_bytes(os.urandom(16), 'big') & ~(0xF << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


class Broker:
    """A broker that knows its rank. It lives from ``start`` until its state machine stops the reactor."""

    def __init__(
        self,
        reactor: Reactor,
        attributes: Attributes,
        config: dict[str, Any],
        log: BrokerLog,
        boot: Boot,
    ) -> None:
        self.reactor = reactor
        self.attributes = attributes
        self.config = config
        self.log = log
        self.boot = boot
        self.rank = boot.rank
        self.size = boot.size
        self.uuid = random_uuid()
        self.hostname = attributes.get("hostname") or socket.gethostname()
        self.exit_code = 0
        self.greeting = ""
        self.is_online = False
        self.is_closing = False
        self.parts: dict[type[Any], Any] = {}
        self._hosts: list[str] = []
        self._local: LocalConnector | None = None
        self.router = Router(self.uuid, self.rank, self._configured_topology())
        self.runat = Runat(self)
        self.overlay = Overlay(self)
        self._torpid = TorpidWatch(self.overlay)
        self.groups = GroupsService(self)
        self._log_service = LogService(self)
        self._state_service = StateMachineService(self)
        self._overlay_service = OverlayService(self)
        self._shutdown = ShutdownService(self)
        self._config_service = ConfigService(self)
        self.rexec = RexecService(self)
        self.services = self._services()
        for service in self.services:
            self.router.add_service(service.name, service.receive)
        self.state_machine = StateMachine(self)
        self.overlay.on_change.append(self._child_changed)
        log.add_follower(self._logged)
        self.state = InstanceState(self)
        self.state.find()

    def _services(self) -> list[Service | LazyService]:
        return [
            self.groups,
            self._log_service,
            self._state_service,
            self._overlay_service,
            self._shutdown,
            self.rexec,
            AttrService(self),
            BrokerService(self),
            self._config_service,
            ConnectorService(self),
            EventService(self),
            ModuleService(self),
            RunatService(self),
            *(LazyService(self, name, path) for name, path in defaults.services(self.rank).items()),
        ]

    def _configured_topology(self) -> Topology:
        tbon.configure(self.attributes, self.config)
        topology = tbon.topology(self.attributes, self.boot)
        self.attributes.set("tbon.descendants", str(topology.descendant_count(self.rank)))
        self.attributes.set("tbon.level", str(topology.level(self.rank)))
        self.attributes.set("tbon.maxlevel", str(topology.maxlevel))
        return topology

    # -- what the parts ask of the whole

    def duration(self, name: str) -> float:
        """A time attribute in seconds; negative for "none"."""
        value = self.attributes.get(name)
        return -1.0 if value is None or value == "none" else parse_duration(value)

    def host_of(self, rank: int) -> str:
        """The host name of a rank, "?" while it is not known."""
        if not self._hosts:
            self._hosts = list(decode_hostlist(self.attributes.get("hostlist") or ""))
        return self._hosts[rank] if rank < len(self._hosts) else "?"

    def program_environ(self) -> dict[str, str]:
        """The environment of everything this broker runs."""
        own = defaults.environ(self.attributes.get("rundir") or "", os.environ.get("PATH", os.defpath))
        uri = self.attributes.get("local-uri") or ""
        return program_environ({**os.environ, **own}, uri, self.attributes.get("jobid"))

    def follow_config(self, post: Callable[[str], None]) -> None:
        """Take over the parent's configuration, now and whenever it changes; ``post`` is told how the first went."""
        self._config_service.follow(post)

    @property
    def content(self) -> ContentStore:
        """The blobs of the instance, on rank 0."""
        return self.state.content

    @property
    def kvs(self) -> Kvs:
        """The key-value store of the instance, on rank 0."""
        return self.state.kvs

    def settle(self, done: Callable[[], None]) -> None:
        """End the jobs that run, as the instance is about to end; then call back."""
        manager = existing(self, "pytest_flux.broker.jobs.manager:JobManager")
        # What is looked at stays as it was.
        if manager is None or is_recovery(self.attributes):
            done()
        else:
            manager.settle(done)

    # -- life

    def start(self) -> None:
        """Enter the first state; everything else follows from the reactor."""
        self.state_machine.start()

    def enter_load_builtins(self) -> None:
        """Open the sockets, meet the peers, and become a member of the tree."""
        try:
            parent_endpoint = self._meet_peers()
            if self.router.parent is not None:
                self.overlay.connect(parent_endpoint, self.state_machine.parent.follow)
            self._torpid.start()
            self.state_machine.post("builtins-success")
        except BootError as error:
            self._fail_to_load(str(error))
        except OSError as error:
            self._fail_to_load(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror))

    def _fail_to_load(self, reason: str) -> None:
        self.log.write(LOG_ERR, f"error loading builtins: {reason}")
        self.state_machine.fail("builtins-fail")

    def _meet_peers(self) -> str:
        attributes, topology = self.attributes, self.router.topology
        rundir, uri = attributes.get("rundir") or "", attributes.get("local-uri") or ""
        # Before the conversation with PMI ends, so that its end tells the launcher that clients may come.
        self._local = LocalConnector(self, uri.removeprefix("local://"))
        endpoints = []
        # With hosts from a configuration, those of the rest may be there yet, and have nothing to seek here.
        if self.overlay.children and not (self.boot.hosts and is_recovery(self.attributes)):
            endpoints.append(tbon.endpoint(self.boot, self.rank, rundir))
            self.overlay.bind(endpoints[0])
            attributes.set("tbon.endpoint", endpoints[0])
        cards = self.boot.exchange(Bizcard(self.hostname, tuple(endpoints)), topology)
        if self.router.parent is not None:
            attributes.set("tbon.parent-endpoint", cards.parent_endpoint)
        attributes.setdefault("hostlist", cards.hostlist)
        attributes.setdefault("broker.critical-ranks", encode_idset(topology.internal_ranks()))
        return cards.parent_endpoint

    def state_changed(self, state: str) -> None:
        """The state machine has entered a state: tell who wants to know."""
        self._state_service.changed()
        if state == "run":
            self.state.resume_jobs()
        if state == "init" and self.rank == 0 and self.attributes.get("parent-uri"):
            from pytest_flux.broker.enclosing import introduce

            introduce(self)
        if state == "goodbye":
            self.goodbye_check()

    def goodbye_check(self) -> None:
        """Rank 0 may leave once the client that asked for shutdown has been told."""
        if self.rank == 0 and self.state_machine.state == "goodbye" and not self._shutdown.complete():
            self.state_machine.post("goodbye")

    def unload_builtins(self, done: Callable[[], None]) -> None:
        """End what clients have running, close what was opened, then call ``done``: the last thing before the end."""
        self.is_closing = True

        def close() -> None:
            self.close()
            done()

        self.rexec.shut_down(close)

    def close(self) -> None:
        """Close everything that was opened, at once."""
        self.rexec.destroy()
        self.runat.destroy()
        for made in list(self.parts.values()):
            if hasattr(made, "destroy"):
                made.destroy()
        self.state.close()
        if self._local is not None:
            self._local.close()
        self.overlay.close()

    # -- signals

    def deadly_signal(self, signum: int) -> None:
        """HUP, INT, QUIT, TERM or ALRM: abort what is being done."""
        self.log.write(LOG_INFO, f"signal {signum}")
        self.state_machine.kill(signum)

    def user_signal(self, signum: int) -> None:
        """USR1 or USR2, which rank 0 hands to the jobs. Others have none: to them it is deadly."""
        self.log.write(LOG_INFO, f"signal {signum}")
        if self.rank > 0:
            self.state_machine.kill(signum)
            return

        def answered(message: Message) -> None:
            if message.errnum:
                text = message.text()
                reason = f"{text}: " if text else ""
                self.log.write(LOG_ERR, f"job-manager.killall: {reason}{os.strerror(message.errnum)}")

        everybody = {"dry_run": False, "userid": USERID_UNKNOWN, "signum": signum}
        self.router.rpc("job-manager.killall", everybody, answered)

    # -- events from the parts

    def _child_changed(self, child: Child) -> None:
        self._overlay_service.changed(child)
        self.groups.set_torpid(child.rank, is_torpid=child.is_torpid)
        if not child.is_online:
            ranks = [child.rank, *self.router.topology.descendants(child.rank)]
            self.groups.lose(encode_idset(sorted(ranks)))
        self.state_machine.check_children()

    def _logged(self, line: bytes) -> None:
        self._log_service.appended(line)
        self._shutdown.appended(line)

    def forward_log(self, line: bytes) -> None:
        """A grave log line of this rank goes to the parent, too."""
        if self.overlay.parent is not None:
            self.router.rpc("log.append", line, upstream=True)

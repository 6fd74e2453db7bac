"""One embedded broker: makes its parts and connects them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from pytest_flux.broker import defaults
from pytest_flux.broker.attributes import Attributes
from pytest_flux.broker.boot.bizcard import Bizcard
from pytest_flux.broker.boot.boot import Boot, BootError
from pytest_flux.broker.boot.recovery import is_recovery
from pytest_flux.broker.local import LocalConnector
from pytest_flux.broker.log import BrokerLog
from pytest_flux.broker.modules import Modules
from pytest_flux.broker.overlay import tbon
from pytest_flux.broker.overlay.overlay import Overlay
from pytest_flux.broker.overlay.peers import Child
from pytest_flux.broker.overlay.topology import Topology
from pytest_flux.broker.overlay.torpid import TorpidWatch
from pytest_flux.broker.parts import Parts
from pytest_flux.broker.process.programs import program_environ
from pytest_flux.broker.process.runat import Runat
from pytest_flux.broker.router import Router
from pytest_flux.broker.service import Service
from pytest_flux.broker.services.broker import (
    AttrService,
    BrokerService,
    RunatService,
    ShutdownService,
    StateMachineService,
)
from pytest_flux.broker.services.config import ConfigService
from pytest_flux.broker.services.event import EventService
from pytest_flux.broker.services.groups import GroupsService
from pytest_flux.broker.services.log import LogService
from pytest_flux.broker.services.module import ConnectorService, ModuleService
from pytest_flux.broker.services.overlay import OverlayService
from pytest_flux.broker.services.rexec import RexecService
from pytest_flux.broker.state.state_machine import StateMachine
from pytest_flux.protocol.duration import format_duration, parse_duration
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.idset import encode_idset
from pytest_flux.protocol.message import USERID_UNKNOWN, Message
from pytest_flux.protocol.severity import LOG_CRIT, LOG_DEBUG, LOG_ERR, LOG_INFO
from pytest_flux.protocol.uuid import random_uuid
from pytest_flux.reactor.reactor import Reactor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.broker.timekeeper import Timekeeper
    from pytest_flux.reactor.clock import Clock


_WATCH = "PYTEST_FLUX_WATCH"
"""Environment variable: log callbacks that take longer than this duration (RFC 23)."""


class Broker:
    """A broker that knows its rank. It lives from ``start`` until its state machine stops the reactor.

    ``config`` is the configuration, one object for all parts: a new configuration replaces its contents.
    """

    def __init__(
        self,
        reactor: Reactor,
        attributes: Attributes,
        config: dict[str, Any],
        log: BrokerLog,
        boot: Boot,
        modules: Modules | None = None,
    ) -> None:
        self.reactor = reactor
        self.attributes = attributes
        self.config = config
        self.log = log
        self._boot = boot
        self._local: LocalConnector | None = None
        self._timekeeper: Timekeeper | None = None
        attributes.setdefault("hostname", socket.gethostname())
        self.router = Router(random_uuid(), boot.rank, self._configured_topology(), reactor.call)
        self.runat = Runat(reactor, attributes, log, self._program_environ)
        self.overlay = Overlay(
            reactor,
            self.router,
            attributes,
            log,
            admits_children=lambda: self.state_machine.admits_children,
            parent_lost=lambda: self.state_machine.lose_parent(),  # noqa: PLW0108 - it does not exist yet
        )
        self._torpid = TorpidWatch(self.overlay, reactor, attributes)
        self.groups = GroupsService(self.router, log)
        self.state_machine = StateMachine(
            self, reactor, self.router, attributes, log, self.overlay, self.runat, self.groups
        )
        self.parts = Parts(reactor, self.router, attributes, config, log, self.groups, modules or Modules(boot.rank))
        self._add_services()
        self.overlay.on_change.append(self._child_changed)
        log.add_follower(self._logged)
        reactor.on_error = self.report
        limit = os.environ.get(_WATCH)
        if limit is not None:
            reactor.slow = parse_duration(limit)
            reactor.on_slow = self._report_slow
        self.parts.find_state()

    def _add_services(self) -> None:
        router, log, attributes, machine = self.router, self.log, self.attributes, self.state_machine
        self._log_service = LogService(router, log)
        self._state_service = StateMachineService(router, log, machine, self.reactor.clock)
        self._overlay_service = OverlayService(router, log, attributes, self.overlay, self.reactor.clock)
        self._shutdown = ShutdownService(router, log, machine, self._check_goodbye)
        self._config_service = ConfigService(
            router, log, attributes, self.config, self._configure, lambda: machine.is_online
        )
        self._rexec = RexecService(
            router, log, self.reactor, attributes, self.config, self.runat, self._program_environ
        )
        self._connector = ConnectorService(router, log)
        self._services: list[Service] = [
            self.groups,
            self._log_service,
            self._state_service,
            self._overlay_service,
            self._shutdown,
            self._rexec,
            AttrService(router, log, attributes),
            BrokerService(router, log),
            self._config_service,
            self._connector,
            EventService(router, log),
            ModuleService(router, log, self.parts, self._service_names, self.reactor.clock),
            RunatService(router, log, self.runat),
        ]
        clock = self.reactor.clock
        if clock.is_virtual:
            self._add_clock(clock)
        for service in self._services:
            router.add_service(service.name, service.receive)
        self.parts.enable_services()

    def _service_names(self) -> set[str]:
        return {service.name for service in self._services} | {lazy.name for lazy in self.parts.services}

    def _configure(self, config: dict[str, Any]) -> None:
        try:
            self._overlay_service.configure(config)
        except FluxError as error:
            raise FluxError(error.errnum, f"error updating overlay: {error.text}") from None
        self._connector.configure(config)
        self.parts.configure(config)

    def _add_clock(self, clock: Clock) -> None:
        from pytest_flux.broker.services.clock import ClockFollowService, ClockService
        from pytest_flux.broker.timekeeper import LeadingTimekeeper, Timekeeper, Work
        from pytest_flux.reactor.virtual_clock import VirtualClock

        assert isinstance(clock, VirtualClock)
        router, log = self.router, self.log
        work = Work(lambda: self._rexec.is_busy or self.parts.is_busy, lambda: not self.parts.is_settled)
        kind = LeadingTimekeeper if router.rank == 0 else Timekeeper
        keeper = self._timekeeper = kind(clock, self.reactor, router, self.overlay, self.attributes, work)
        self._services.append(ClockFollowService(router, log, keeper))
        if isinstance(keeper, LeadingTimekeeper):
            self._services.append(ClockService(router, log, keeper))

    def _configured_topology(self) -> Topology:
        tbon.configure(self.attributes, self.config)
        topology = tbon.topology(self.attributes, self._boot)
        rank = self._boot.rank
        self.attributes.set("tbon.descendants", str(topology.descendant_count(rank)))
        self.attributes.set("tbon.level", str(topology.level(rank)))
        self.attributes.set("tbon.maxlevel", str(topology.maxlevel))
        return topology

    def _program_environ(self) -> dict[str, str]:
        """The environment of everything this broker runs."""
        own = defaults.environ(self.attributes.get("rundir") or "", os.environ)
        uri = self.attributes.get("local-uri") or ""
        return program_environ({**os.environ, **own}, uri, self.attributes.get("jobid"))

    # -- life

    def start(self) -> None:
        """Enter the first state; everything else follows from the reactor."""
        self.state_machine.start()

    # -- what the state machine asks for (ports.Life)

    def load_builtins(self) -> None:
        """Open the sockets, meet the peers, and become a member of the tree."""
        try:
            parent_endpoint = self._meet_peers()
            if self.router.parent is not None:
                self.overlay.connect(parent_endpoint, self.state_machine.follow_parent)
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
        # Before the conversation with PMI ends, because its end tells the launcher that clients may connect.
        self._local = LocalConnector(
            uri.removeprefix("local://"),
            rundir,
            self.reactor,
            self.router,
            self.overlay,
            self.config,
            self._connector,
            lambda: self.state_machine.is_online,
        )
        self._connector.configure(self.config)
        endpoints = []
        # With configured hosts, brokers of the recovered instance may still run; they must not connect here.
        if self.overlay.children and not (self._boot.hosts and is_recovery(self.attributes)):
            endpoints.append(tbon.endpoint(self._boot, self.router.rank, rundir))
            self.overlay.bind(endpoints[0], writes_secret=bool(self._boot.hosts))
            attributes.set("tbon.endpoint", endpoints[0])
        secret = os.urandom(16).hex() if self.router.rank == 0 else None
        card = Bizcard(attributes.get("hostname") or "", tuple(endpoints), secret=secret)
        cards = self._boot.exchange(card, topology)
        self.overlay.secret = cards.cards[0].secret
        if self.router.parent is not None:
            attributes.set("tbon.parent-endpoint", cards.parent_endpoint)
        attributes.setdefault("hostlist", cards.hostlist)
        attributes.setdefault("broker.critical-ranks", encode_idset(topology.internal_ranks()))
        return cards.parent_endpoint

    def follow_config(self, post: Callable[[str], None]) -> None:
        """Take over the parent's configuration, now and whenever it changes; ``post`` gets the first one's event."""
        self._config_service.follow(post)

    def settle(self, done: Callable[[], None]) -> None:
        """End the running jobs, because the instance is about to end; then call back."""
        self.parts.settle(done)

    def state_changed(self, state: str) -> None:
        """The state machine has entered a state: notify the parts that follow it."""
        self._state_service.changed()
        if self._timekeeper is not None:
            self._timekeeper.state_changed(state)
        if state == "run":
            self.parts.begin_to_run()
        if state == "init" and self.router.rank == 0 and self.attributes.get("parent-uri"):
            enclosing = self.parts.enclosing
            if enclosing is not None:
                enclosing.introduce()
        if state == "goodbye":
            # Before it: whoever has asked for a shutdown with a dump finds the archive.
            self.parts.dump()
            self._check_goodbye()

    def _check_goodbye(self) -> None:
        """Rank 0 may leave once the client that asked for shutdown has heard of it."""
        if self.router.rank == 0 and self.state_machine.state == "goodbye" and not self._shutdown.complete():
            self.state_machine.post("goodbye")

    def unload_builtins(self, done: Callable[[], None]) -> None:
        """End the processes of clients, close everything, then call ``done``: the last step of a broker's life."""

        def close() -> None:
            self.close()
            done()

        self._rexec.shut_down(close)

    def close(self) -> None:
        """Close everything that was opened, at once."""
        self._rexec.destroy()
        self.runat.destroy()
        machine = self.state_machine
        left_behind = self.parts.modules.left_behind() if machine.state == "unload-builtins" else ()
        for name in left_behind:
            self.log.write(LOG_ERR, f"broker module '{name}' was not properly shut down")
        if not self.parts.close() or left_behind:
            machine.exit_code = machine.exit_code or 1
        if self._local is not None:
            self._local.close()
        self.overlay.close()

    # -- faults

    def report(self, error: Exception, callback: object) -> None:
        """Log the exception of a callback. It ends what the callback served, and the broker only if that is its life.

        Its life are the state machine and this object.
        """
        import traceback

        text = "".join(traceback.format_exception(error)).rstrip()
        self.log.write(LOG_CRIT, f"{_name(callback)}: {text}")
        if getattr(callback, "__self__", None) in (self, self.state_machine):
            self.reactor.fail(error)

    def _report_slow(self, callback: object, seconds: float) -> None:
        self.log.write(LOG_DEBUG, f"{_name(callback)} took {format_duration(seconds)}")

    # -- signals

    def deadly_signal(self, signum: int) -> None:
        """HUP, INT, QUIT, TERM or ALRM: abort the work of the present state."""
        self.log.write(LOG_INFO, f"signal {signum}")
        self.state_machine.kill(signum)

    def user_signal(self, signum: int) -> None:
        """USR1 or USR2: rank 0 passes it on to the jobs. Other ranks have no jobs, so there it is deadly."""
        self.log.write(LOG_INFO, f"signal {signum}")
        if self.router.rank > 0:
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
        """Send a severe log line of this rank to the parent, too."""
        if self.overlay.parent is not None:
            self.router.rpc("log.append", line, upstream=True)


def _name(callback: object) -> str:
    function = getattr(callback, "__func__", callback)
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(callback))}"

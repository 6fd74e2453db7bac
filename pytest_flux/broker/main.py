"""The command line of the embedded broker (`flux broker`), and its start-up in flux-core's order."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial

from pytest_flux.broker import defaults
from pytest_flux.broker.attributes import Attributes
from pytest_flux.broker.boot import recovery
from pytest_flux.broker.boot.boot import BootError, bootstrap
from pytest_flux.broker.boot.start_up import (
    Cleanups,
    StartError,
    configure,
    create_directories,
    describe,
    inherit,
    take_settings,
)
from pytest_flux.broker.broker import Broker
from pytest_flux.broker.log import BrokerLog
from pytest_flux.broker.modules import Modules
from pytest_flux.broker.process.programs import initial_program, is_interactive
from pytest_flux.options import Option, OptionExit, OptionParser, Options
from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.hostlist import decode_hostlist, encode_hostlist
from pytest_flux.protocol.idset import decode_idset
from pytest_flux.protocol.severity import LOG_CRIT, LOG_ERR, LOG_INFO
from pytest_flux.protocol.taskmap import Taskmap, decode_taskmap
from pytest_flux.reactor.clock import Clock
from pytest_flux.reactor.descriptors import open_standard_descriptors
from pytest_flux.reactor.reactor import Reactor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, Protocol

    class Lifeline(Protocol):
        """How a broker that was forked notices that its launcher is dead."""

        descriptor: int

        def has_ended(self) -> bool:
            """Whether it is dead."""

        def wake_parent(self, signum: int) -> None:
            """Wake whoever cleans up, if it is stopped."""

        def perish(self, clean_up: Callable[[], None]) -> NoReturn:
            """Kill and remove all that is left of the instance."""


PARSER = OptionParser(
    "flux-broker",
    (
        Option("verbose", "v", "[LEVEL]", optional=True, usage="Be annoyingly informative by degrees"),
        Option("setattr", "S", "ATTR=VAL", usage="Set broker attribute"),
        Option("config-path", "c", "PATH", usage="Set broker config from PATH (default: none)"),
        Option("conf", argument="VALUE", usage="Update broker config from VALUE"),
        Option("version", "V", usage="Show the version and exit"),
    ),
)

_DEADLY = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGALRM)
# For fewer brokers the rehearsal would take longer than it saves.
_REHEARSED_SIZE = 4


def prepare(size: int, rundir: str) -> None:
    """Do once, in the process from which brokers are forked, what each of them would do for the first time."""
    # The module re compiles patterns, and keeps them.
    parse_duration("0")
    decode_idset("0")
    decode_hostlist(encode_hostlist(("a0", "a1")))
    decode_taskmap(Taskmap.single(1).encode_pmi())
    if size >= _REHEARSED_SIZE:
        from pytest_flux.broker.boot.rehearsal import rehearse

        rehearse(rundir)


def main(argv: Sequence[str] | None = None, lifeline: Lifeline | None = None) -> int:
    """Run one broker to its end. Returns its exit code.

    If ``lifeline`` ends, the broker kills and removes all that is left of the instance, and exits at once.
    """
    open_standard_descriptors()
    try:
        options = PARSER.parse(sys.argv[1:] if argv is None else argv)
        verbose = options.integer("verbose", 0)
    except OptionExit as stop:
        sys.stderr.write(stop.text)
        return stop.status
    if options.has("version"):
        print(f"flux-broker {defaults.VERSION} (embedded, pytest-flux)")
        return 0
    attributes = Attributes()
    try:
        take_settings(attributes, options)
    except StartError as error:
        print(f"flux-broker: {error}", file=sys.stderr)
        return 1
    try:
        clock = _make_clock(attributes)
    except ValueError as error:
        print(f"flux-broker: {error}", file=sys.stderr)
        return 1
    log = BrokerLog(attributes, clock=clock)
    cleanup: Cleanups = []
    try:
        try:
            _die_at_once()
            broker = _create(attributes, options, log, clock, cleanup)
        except (StartError, BootError) as error:
            log.write(LOG_CRIT, str(error))
            return 1
        if lifeline is not None:
            broker.reactor.on_readable(lifeline.descriptor, partial(lifeline.perish, partial(_clean_up, cleanup)))
            broker.reactor.on_signal(signal.SIGCONT, lifeline.wake_parent)
        return _run(broker, verbose)
    finally:
        if lifeline is not None and lifeline.has_ended():
            lifeline.perish(partial(_clean_up, cleanup))
        _clean_up(cleanup)


def _make_clock(attributes: Attributes) -> Clock:
    """The clock that the attributes ask for. ValueError."""
    if not any(name in attributes for name in ("clock.mode", "clock.start")):
        return Clock()
    from pytest_flux.broker.timekeeper import make_clock

    return make_clock(attributes)


def _clean_up(cleanup: Cleanups) -> None:
    """Undo everything in reverse order, even if a step fails."""
    if cleanup:
        try:
            cleanup.pop()()
        finally:
            _clean_up(cleanup)


def _die_at_once() -> None:
    """Until the reactor takes over, let a deadly signal end the broker after removing what it created."""

    def die(signum: int, _: object) -> NoReturn:
        raise SystemExit(128 + signum)

    for signum in _DEADLY:
        signal.signal(signum, die)


def _create(attributes: Attributes, options: Options, log: BrokerLog, clock: Clock, cleanup: Cleanups) -> Broker:
    config = configure(attributes, options)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    attributes.set("broker.starttime", f"{clock.time():.2f}")
    boot = bootstrap(
        os.environ, config, attributes.get("hostname") or "", method=attributes.get("broker.boot-method")
    )
    cleanup.append(boot.close)
    log.write(LOG_INFO, f"boot: rank={boot.rank} size={boot.size}")
    describe(attributes, boot)
    inherit(attributes)
    reactor = Reactor(clock)
    cleanup.append(reactor.close)
    broker: Broker | None = None

    def forward(line: bytes) -> None:
        if broker is not None:
            broker.forward_log(line)

    try:
        log.initialize(boot.rank, forward)
    except FluxError as error:
        log.write(LOG_ERR, error.text or str(error))
        raise StartError(f"Error initializing logging: {os.strerror(error.errnum)}") from None
    modules = Modules(
        boot.rank,
        is_explicit="broker.rc1_path" in attributes and not recovery.is_recovery(attributes),
        has_rc3="broker.rc3_path" in attributes,
    )
    for name, value in defaults.ATTRIBUTES.items():
        attributes.setdefault(name, value)
    try:
        if config and boot.rank == 0:
            _check_tables(config, boot.size, log)
        create_directories(attributes, boot.rank, log, cleanup)
        broker = Broker(reactor, attributes, config, log, boot, modules)
    except FluxError as error:
        raise StartError(str(error.text or error.strerror)) from None
    except ValueError as error:
        raise StartError(str(error)) from None
    _define_phases(broker, options.arguments)
    return broker


def _check_tables(config: dict[str, Any], size: int, log: BrokerLog) -> None:
    """Refuse a configuration that a module of flux-core would not start with."""
    from pytest_flux.broker.config import TableError, check_start

    try:
        check_start(config, size)
    except TableError as error:
        log.write(LOG_ERR, str(error), error.module)
        raise StartError(f"{error.module}: {os.strerror(errno.EINVAL)}") from None


def _define_phases(broker: Broker, command: list[str]) -> None:
    attributes = broker.attributes
    for phase in ("rc1", "rc3"):
        path = attributes.get(f"broker.{phase}_path")
        if path:
            broker.runat.push_shell(phase, path, logged=True)
    if broker.router.rank == 0 and "broker.rc2_none" not in attributes:
        if is_interactive(command) and not os.isatty(0):
            raise StartError("stdin is not a tty - can't run interactive shell")
        if is_interactive(command) and recovery.is_recovery(attributes):
            broker.state_machine.greeting = recovery.banner(attributes)
        broker.runat.push("rc2", initial_program(command), logged=False)


def _run(broker: Broker, verbose: int) -> int:
    try:
        broker.start()
        for signum in _DEADLY:
            broker.reactor.on_signal(signum, broker.deadly_signal)
        for signum in (signal.SIGUSR1, signal.SIGUSR2):
            broker.reactor.on_signal(signum, broker.user_signal)
        if verbose > 1:
            broker.log.write(LOG_INFO, "entering event loop")
        broker.reactor.run()
    except BaseException:
        broker.close()
        raise
    # The work is done. A signal from here on, such as the hangup below of a broker in the same group, would only
    # spoil the exit code.
    signal.pthread_sigmask(signal.SIG_BLOCK, _DEADLY)
    if verbose > 1:
        broker.log.write(LOG_INFO, "exited event loop")
        broker.log.write(LOG_INFO, "cleaning up")
    if os.getpgrp() == os.getpid():
        # What rc2 left in the background shares the group of a broker that leads one (see Runat).
        os.kill(0, signal.SIGHUP)
    return broker.state_machine.exit_code


if __name__ == "__main__":
    sys.exit(main())

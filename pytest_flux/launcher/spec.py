"""What to launch: one frozen value, which command line, plugin and scripts make, and which is checked here."""

from __future__ import annotations

from pytest_flux.record import NamedTuple

EXIT_MODES = ("any", "leader")
START_MODES = ("all", "leader")
CLOCK_MODES = ("manual", "auto")

#: Ends the message about a process that could not be forked.
PROCESS_LIMITS = "(limits of processes: ulimit -u, pids.max of the cgroup)"


class LaunchError(ValueError):
    """An instance cannot be launched. The text is the message without its prefix ``flux-start: ``."""


class LaunchSpec(NamedTuple):
    """Everything that a launch depends on, except the environment. Arguments keep their order.

    ``size`` is the number of brokers to start here; None for normal mode, in which we become one broker of an
    instance that another launcher starts. ``hosts`` is a hostlist (RFC 29), ``exit_timeout`` seconds. ``recovery``
    without a ``recovery_target`` (statedir or dump file) is for the system instance.

    If ``rundir`` is None, a temporary directory is used. Otherwise it must exist and is kept, except that
    ``rundir_create`` makes a missing one and removes it again, and ``rundir_cleanup`` always removes it.

    ``clock`` makes time stop and jump (see CLOCK_MODES); None for the system's time.

    ``test_options`` names the given options that need a ``size``, in Flux's order: without a size they are refused
    even if they repeat a default. None if the caller does not know: then those that differ from their default.
    """

    command: tuple[str, ...] = ()
    size: int | None = None
    setattrs: tuple[str, ...] = ()
    broker_opts: tuple[str, ...] = ()
    config_path: str | None = None
    conf: tuple[str, ...] = ()
    recovery: bool = False
    recovery_target: str | None = None
    sysconfig: bool = False
    wrap: tuple[str, ...] = ()
    hosts: str | None = None
    exit_timeout: float = 20.0
    exit_mode: str = "any"
    start_mode: str = "all"
    rundir: str | None = None
    rundir_create: bool = False
    rundir_cleanup: bool = False
    pmi_clique: str = "single"
    caliper_profile: str | None = None
    broker: str = "auto"
    clock: str | None = None
    verbose: int = 0
    noexec: bool = False
    test_options: tuple[str, ...] | None = None


def validate(spec: LaunchSpec) -> None:
    """Raise LaunchError, in Flux's words, for the first thing wrong with a spec; the order is flux-start's.

    What depends on the file system (rundir, recovery target, broker) is checked where it is used.
    """
    # not >= rather than <, which is false for NaN
    if not spec.exit_timeout >= 0:
        raise LaunchError(f"Invalid argument for option 'test-exit-timeout': '{spec.exit_timeout}'")
    if spec.exit_mode not in EXIT_MODES:
        raise LaunchError(f"unknown --test-exit-mode: {spec.exit_mode}")
    if spec.start_mode not in START_MODES:
        raise LaunchError(f"unknown --test-start-mode: {spec.start_mode}")
    if spec.clock is not None and spec.clock not in CLOCK_MODES:
        raise LaunchError(f"--clock={spec.clock}: {' or '.join(CLOCK_MODES)} is expected")
    if spec.size is None:
        needless = next(iter(_test_options(spec)), None)
        if needless is not None:
            raise LaunchError(f"--{needless} only works with --test-size")
        return
    if spec.size <= 0:
        raise LaunchError("--test-size argument must be > 0")
    _check_clique(spec.pmi_clique)
    if spec.hosts is not None and len(hostnames(spec.hosts)) != spec.size:
        raise LaunchError("--test-hosts hostlist has incorrect size")


def hostnames(hosts: str) -> tuple[str, ...]:
    """The host of each rank. Raises LaunchError if ``hosts`` is not a hostlist (RFC 29)."""
    # Called once per rank: decoding a thousand names a thousand times would take seconds.
    if hosts not in _decoded:
        from pytest_flux.protocol.hostlist import decode_hostlist

        _decoded.clear()
        try:
            _decoded[hosts] = tuple(decode_hostlist(hosts))
        except ValueError:
            raise LaunchError("could not decode --test-hosts hostlist") from None
    return _decoded[hosts]


_decoded: dict[str, tuple[str, ...]] = {}


def _test_options(spec: LaunchSpec) -> list[str]:
    if spec.test_options is not None:
        return list(spec.test_options)
    default = LaunchSpec()
    fields = {
        "test-hosts": "hosts",
        "test-exit-timeout": "exit_timeout",
        "test-exit-mode": "exit_mode",
        "test-start-mode": "start_mode",
        "rundir" if spec.rundir_create else "test-rundir": "rundir",
        "test-rundir-cleanup": "rundir_cleanup",
        "test-pmi-clique": "pmi_clique",
    }
    return [name for name, field in fields.items() if getattr(spec, field) != getattr(default, field)]


def _check_clique(clique: str) -> None:
    if clique in ("single", "per-broker", "none"):
        return
    from pytest_flux.protocol.taskmap import decode_taskmap

    try:
        decode_taskmap(clique)
    except ValueError as error:
        raise LaunchError(f"test-pmi-clique: {error}") from None

"""The command line and the environment of a broker. They are made here and nowhere else."""

from __future__ import annotations

import os
import stat

from pytest_flux.launcher.spec import LaunchError, hostnames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_flux.launcher.engine import Engine
    from pytest_flux.launcher.spec import LaunchSpec

#: The default of ``--recovery``: the state of the system instance.
SYSTEM_STATEDIR = "/var/lib/flux"


def broker_argv(spec: LaunchSpec, engine: Engine, rank: int | None, rundir: str) -> list[str]:
    """The command line of one broker; ``rank`` is None in normal mode, which has no ``rundir``.

    The order is Flux's (cases vX-order, vX-hosts): a later setting of the same attribute wins, and rank 0's initial
    program must be last. Raises LaunchError if the recovery target is not usable, or the engine has no such clock.
    """
    if spec.clock is not None and engine.kind != "embedded":
        raise LaunchError(
            f"--clock={spec.clock}: no real Flux can stop or move its time, and {engine.broker} is one: "
            "use --broker=embedded"
        )
    argv = [*spec.wrap, engine.broker]
    argv += (f"-S{setting}" for setting in spec.setattrs)
    if spec.clock is not None:
        argv.append(f"-Sclock.mode={spec.clock}")
    argv += spec.broker_opts
    if spec.recovery:
        argv += _recovery_options(spec, engine)
    config_path = _config_path(spec, engine)
    if config_path is not None:
        argv.append(f"-c{config_path}")
    argv += (f"--conf={value}" for value in spec.conf)
    if rank is not None:
        argv.append(f"--setattr=rundir={rundir}")
        if spec.hosts is not None:
            argv.append(f"--setattr=hostname={hostnames(spec.hosts)[rank]}")
    if not rank:
        argv += spec.command
    return argv


def broker_environ(
    spec: LaunchSpec, engine: Engine, rank: int | None, rundir: str, base: Mapping[str, str]
) -> dict[str, str]:
    """The environment of one broker, made from ``base``. The caller that opens the descriptor adds PMI_FD."""
    environ = engine.apply(base)
    if engine.kind == "embedded":
        import sys

        # libexec/flux-broker is a script, and must find the Python that has the package.
        environ["PYTEST_FLUX_PYTHON"] = sys.executable
    elif "PYTHONPATH" in environ:
        _drop_stand_in(environ)
    if spec.caliper_profile is not None:
        preloaded = environ.get("LD_PRELOAD")
        environ["LD_PRELOAD"] = f"{preloaded} libcaliper.so" if preloaded else "libcaliper.so"
        environ["CALI_CONFIG_PROFILE"] = spec.caliper_profile
        environ.setdefault("CALI_LOG_VERBOSITY", "0")
    if rank is not None:
        environ["PMI_RANK"] = str(rank)
        environ["PMI_SIZE"] = str(spec.size)
        environ["FLUX_START_URI"] = f"local://{rundir}/start"
        if spec.hosts is not None:
            environ["FLUX_FAKE_HOSTNAME"] = hostnames(spec.hosts)[rank]
    return environ


def _drop_stand_in(environ: dict[str, str]) -> None:
    """A real Flux, if it is started inside an embedded instance, has bindings of its own."""
    from pytest_flux import python_path

    kept = python_path.without_stand_in(environ)
    del environ["PYTHONPATH"]
    if kept is not None:
        environ["PYTHONPATH"] = kept


def announcement(spec: LaunchSpec, argv: list[str], rank: int | None) -> str:
    """The lines for stderr before a broker is started with ``argv``; '' for none.

    As in Flux, the warning comes once per rank, verbose or not; the command line comes with ``-v``.
    """
    lines = ""
    if spec.config_path is not None and (spec.sysconfig or _recovers_system(spec)):
        lines = f"flux-start: Warning: overriding recovery/--sysconfig path with {spec.config_path}\n"
    if spec.verbose >= 1:
        prefix = "" if rank is None else f"{rank}: "
        lines += f"flux-start: {prefix}{' '.join(argv)}\n"
    return lines


def _config_path(spec: LaunchSpec, engine: Engine) -> str | None:
    if spec.config_path is not None:
        return spec.config_path
    if spec.sysconfig or _recovers_system(spec):
        prefix = engine.prefix(os.environ)
        # With the prefix /usr, the configuration is in /etc.
        return f"{'' if prefix == '/usr' else prefix}/etc/flux/system/conf.d"
    return None


def _recovers_system(spec: LaunchSpec) -> bool:
    return spec.recovery and spec.recovery_target is None


def _recovery_options(spec: LaunchSpec, engine: Engine) -> list[str]:
    options = [
        "-Sbroker.recovery-mode=1",
        "-Sbroker.quorum=1",
        "-Sbroker.module-nopanic=1",
        "-Slog-stderr-level=5",
    ]
    target = spec.recovery_target
    if target is None:
        target = SYSTEM_STATEDIR
        if _system_instance_runs(engine):
            raise LaunchError("system instance is already running")
    try:
        status = os.stat(target)
    except OSError as error:
        raise LaunchError(f"{target}: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        return [*options, f"-Scontent.restore={target}"]
    if engine.kind != "embedded" or not _can_be_copied(target):
        _check_statedir(target, status)
    return [*options, f"-Sstatedir={target}"]


def _can_be_copied(path: str) -> bool:
    """Whether there is a readable database: embedded brokers work on a copy of it, and need no more."""
    database = f"{path}/content.sqlite"
    try:
        # Opening a pipe would block.
        if not stat.S_ISREG(os.stat(database).st_mode):
            return False
        with open(database, "rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError:
        return False


def _check_statedir(path: str, status: os.stat_result) -> None:
    if status.st_uid != os.getuid():
        raise LaunchError(f"{path}: not owned by you")
    if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        raise LaunchError(f"{path}: no access")
    store = f"{path}/content.sqlite"
    try:
        os.stat(store)
    except OSError as error:
        raise LaunchError(f"{store}: {error.strerror}") from None
    if not os.access(store, os.R_OK):
        raise LaunchError(f"{store}: no read permission")
    if not os.access(store, os.W_OK):
        raise LaunchError(f"{store}: no write permission")


def _system_instance_runs(engine: Engine) -> bool:
    """Whether a process listens on the socket of the system instance."""
    import socket

    prefix = engine.prefix(os.environ)
    for directory in dict.fromkeys((f"{prefix}/var/run", f"{prefix}/run", "/run")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                connection.connect(f"{directory}/flux/local")
            except OSError:
                continue
            return True
    return False

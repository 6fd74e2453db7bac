"""The `flux-start` command: `flux start` of Flux 0.88, with the options that only its manual has."""

from __future__ import annotations

import errno
import os
import sys

from pytest_flux.launcher.command import announcement, broker_argv, broker_environ
from pytest_flux.launcher.engine import EMBEDDED_BROKER, Engine, find_engine
from pytest_flux.launcher.report import report, write_error
from pytest_flux.launcher.spec import LaunchError, LaunchSpec, validate
from pytest_flux.options import Option, OptionExit, OptionParser, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

OPTIONS = (
    Option("setattr", "S", "ATTR=VAL", split=True, usage="Set broker attribute ATTR to VAL"),
    Option("config-path", "c", "PATH", usage="Read broker configuration from PATH (default: none)"),
    Option("conf", argument="VALUE", usage="Add VALUE to the broker configuration"),
    Option(
        "recovery",
        "r",
        "[TARGET]",
        optional=True,
        attached=True,
        usage="Recovery mode: start from a dump file or a statedir (default: those of the system instance)",
    ),
    Option("sysconfig", usage="Read the configuration of the system instance"),
    Option("verbose", "v", "[LEVEL]", optional=True, usage="1: show broker commands, 2: trace PMI as well"),
    Option("noexec", "X", usage="Do not start anything (useful with -v, --verbose)"),
    Option("broker-opts", "o", "OPTS", split=True, usage='Broker options separated by commas, e.g. "-o,-v"'),
    Option("wrap", argument="ARGS,...", split=True, group=1, usage="Run brokers under the command ARGS"),
    Option("", usage="\nTest mode, brokers are started here:", group=2),
    Option("test-size", "s", "N", group=2, usage="Start an instance of N brokers"),
    Option("test-hosts", argument="HOSTLIST", group=2, usage="Pretend to run on these hosts, one per broker"),
    Option(
        "test-exit-timeout",
        argument="FSD",
        group=2,
        usage="How long other brokers may outlive the first to exit, before they are killed (default=20s)",
    ),
    Option(
        "test-exit-mode",
        argument="any|leader",
        group=2,
        usage="Whose exit starts that timer and sets the exit code (default=any)",
    ),
    Option(
        "test-start-mode",
        argument="all|leader",
        group=2,
        usage="Start all brokers at once or just the leader (default=all)",
    ),
    Option("test-rundir", argument="DIR", group=2, usage="Use the existing DIR as run directory, and keep it"),
    Option("test-rundir-cleanup", group=2, usage="Remove the DIR of --test-rundir at the end"),
    Option(
        "test-pmi-clique",
        argument="single|per-broker|none|TASKMAP",
        group=2,
        usage="Set PMI_process_mapping, which brokers share a node (default=single)",
    ),
    Option("", usage="\nNot in flux start:", group=3),
    Option(
        "rundir",
        argument="DIR",
        exact=True,
        group=3,
        usage="Use DIR as run directory (test mode); if it is missing, make it now and remove it at the end",
    ),
    Option(
        "caliper-profile",
        argument="PROFILE",
        exact=True,
        group=3,
        usage="Run brokers with libcaliper.so and this profile",
    ),
    Option(
        "broker",
        argument="auto|system|embedded|PATH",
        exact=True,
        group=3,
        usage="Which broker to run (default=auto: that of an installed Flux, else the embedded one);"
        " the path that -v shows tells which it is",
    ),
    Option(
        "clock",
        argument="manual|auto",
        exact=True,
        group=3,
        usage="Time of the instance (embedded brokers only): manual stands still until `flux clock advance' moves it,"
        " auto jumps to what is next whenever nothing runs",
    ),
    Option(
        "attach",
        argument="URI|PID|last",
        exact=True,
        group=3,
        usage="Run the command, or a shell, inside a running instance: that of a URI or a process, or your last one",
    ),
    Option(
        "link",
        argument="DIR",
        exact=True,
        group=3,
        usage="Put a flux into DIR that has flux start and, for the instance of FLUX_URI or --attach, every other"
        " command; and exit",
    ),
    Option(
        "install-bindings",
        exact=True,
        group=3,
        usage="Have pip bring the files for `import flux' where PyPI has no wheel for the platform, and exit",
    ),
    Option(
        "report",
        argument="FILE",
        exact=True,
        group=3,
        usage="When the command has ended, write an HTML page of its jobs, of the overlay and of the log to FILE",
    ),
    Option("version", exact=True, group=3, usage="Show the version and exit"),
    Option("killer-timeout", argument="FSD", hidden=True, usage="Old name of --test-exit-timeout"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `flux-start` with these arguments, or the process's own, and return the exit code.

    In normal mode it does not return: the process becomes the broker.
    """
    try:
        # Without a working directory, each of the programs below would fail in its own way.
        _check_working_directory()
        parser = OptionParser("flux-start", OPTIONS, "[OPTIONS] command ...", width=32)
        options = parser.parse(sys.argv[1:] if argv is None else argv)
        if options.has("version"):
            return _show_version()
        if any(options.has(name) for name in ("link", "install-bindings")):
            return _prepare_machine(options)
        if options.has("attach"):
            _attach(options)
        spec = _make_spec(options)
        validate(spec)
        engine = find_engine(spec.broker, os.environ, rehearsal=spec.noexec)
        if spec.size is None:
            return _become_broker(spec, engine)
        if spec.noexec:
            return _rehearse_session(spec, engine)
        from pytest_flux.launcher.session import run_session

        return run_session(spec, engine)
    except OptionExit as error:
        write_error(error.text)
        return error.status
    except LaunchError as error:
        report(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


def _prepare_machine(options: Options) -> int:
    """Do what --link and --install-bindings ask for; neither starts an instance. Raises LaunchError."""
    from pytest_flux.cli.linking import install_bindings, link

    directory = options.get("link")
    if options.arguments:
        raise LaunchError("--link and --install-bindings take no command")
    if directory:
        link(directory, options.get("attach"))
    if options.has("install-bindings"):
        install_bindings()
    return 0


def _make_spec(options: Options) -> LaunchSpec:
    """Make a spec from the options. It is not validated yet."""
    exit_timeout = options.duration("test-exit-timeout", 20.0)
    if not options.has("test-exit-timeout"):
        exit_timeout = options.duration("killer-timeout", exit_timeout)
    verbose = options.integer("verbose", 0)
    size = options.integer("test-size", -1) if options.has("test-size") else None
    return LaunchSpec(
        command=_command(options),
        size=size,
        setattrs=tuple(options.all("setattr")),
        broker_opts=tuple(options.all("broker-opts")),
        config_path=options.get("config-path"),
        conf=tuple(options.all("conf")),
        recovery=options.has("recovery"),
        recovery_target=options.get("recovery"),
        sysconfig=options.has("sysconfig"),
        wrap=tuple(options.all("wrap")),
        hosts=options.get("test-hosts"),
        exit_timeout=exit_timeout,
        exit_mode=options.get("test-exit-mode", "any") or "",
        start_mode=options.get("test-start-mode", "all") or "",
        rundir=_rundir(options),
        rundir_create=options.has("rundir"),
        rundir_cleanup=options.has("test-rundir-cleanup"),
        pmi_clique=options.get("test-pmi-clique", "single") or "",
        caliper_profile=options.get("caliper-profile"),
        broker=options.get("broker", "auto") or "",
        clock=options.get("clock"),
        verbose=verbose,
        noexec=options.has("noexec"),
        test_options=tuple(
            option.name
            for option in OPTIONS
            if option.name.startswith(("test-", "rundir")) and options.has(option.name)
        ),
    )


def _command(options: Options) -> tuple[str, ...]:
    """The initial program: the command, or with --report a program that runs it and then writes the page."""
    path = options.get("report")
    if path is None:
        return tuple(options.arguments)
    path = os.path.abspath(path)
    if os.path.isdir(path) or not os.access(os.path.dirname(path), os.W_OK):
        what = "is a directory" if os.path.isdir(path) else f"cannot write into {os.path.dirname(path)}"
        raise LaunchError(f"--report={options.get('report')}: {what}: give a file in a directory that exists")
    program = os.path.join(os.path.dirname(EMBEDDED_BROKER), "flux-report")
    return (sys.executable, program, path, *options.arguments)


def _rundir(options: Options) -> str | None:
    if options.has("rundir") and options.has("test-rundir"):
        raise LaunchError("--rundir and --test-rundir exclude each other")
    return options.get("rundir") if options.has("rundir") else options.get("test-rundir")


def _become_broker(spec: LaunchSpec, engine: Engine) -> int:
    """Execute the broker in place of this program (normal mode). Returns only with ``--noexec``."""
    argv = broker_argv(spec, engine, None, "")
    write_error(announcement(spec, argv, None))
    if spec.noexec:
        return 0
    environ = broker_environ(spec, engine, None, "", os.environ)
    if engine.kind == "embedded" and not spec.wrap:
        argv = [sys.executable, *argv]
    try:
        _execute(argv, environ)
    except OSError as error:
        raise LaunchError(f"error execing broker: {error.strerror}") from None


def _execute(argv: list[str], environ: dict[str, str]) -> NoReturn:
    """Execute a program as C's execvp does."""
    import signal

    # Python ignores these signals, and the program would inherit that.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, environ)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        os.execve("/bin/sh", ["/bin/sh", *argv], environ)


def _attach(options: Options) -> NoReturn:
    others = [option.name for option in OPTIONS if option.name not in ("", "attach") and options.has(option.name)]
    if others:
        raise LaunchError(f"--attach starts no instance, and excludes --{others[0]}")
    from pytest_flux.cli.attach import attach

    attach(options.get("attach") or "", options.arguments)


def _rehearse_session(spec: LaunchSpec, engine: Engine) -> int:
    """Do all checks of test mode with ``--noexec`` and, with ``-v``, print the command lines."""
    from pytest_flux.launcher.rundir import prepare_rundir

    rundir = prepare_rundir(spec)
    try:
        for rank in range(spec.size or 0):
            write_error(announcement(spec, broker_argv(spec, engine, rank, rundir.path), rank))
    finally:
        rundir.remove()
    return 0


def _check_working_directory() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise LaunchError(f"Unable to get current working directory: {error.strerror}") from None


def _show_version() -> int:
    from pytest_flux import __version__

    print(f"flux-start {__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

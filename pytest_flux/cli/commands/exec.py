"""`flux exec`: run a program next to each broker."""

from __future__ import annotations

import errno
import os
import sys
import time

from pytest_flux.cli.commands.command import Command, CommandError, Context, reason
from pytest_flux.client.process import FLAG_WAITABLE, describe_command
from pytest_flux.options import Option, parse_integer
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.idset import decode_idset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.client import Flux
    from pytest_flux.options import Options

OPTIONS = (
    Option("rank", "r", "IDSET", usage="Run on these ranks (default: all)"),
    Option("exclude", "x", "IDSET", usage="But not on these"),
    Option("bg", usage="Leave it running in the background: print rank and pid of each"),
    Option("waitable", usage="With --bg: keep the exit status until somebody asks for it"),
    Option("attach", usage="Follow what runs in the background; the argument is its pid or label"),
    Option("label", argument="LABEL", usage="A name for the process, instead of its pid"),
    Option("dir", "d", "PATH", usage="Run it in this directory (default: the current one)"),
    Option("label-io", "l", usage="Print the rank before each line of output"),
    Option("noinput", "n", usage="Give it an empty stdin"),
    Option("verbose", "v", usage="Tell what is going on"),
    Option("quiet", "q", usage="Do not list the exit codes that are not zero"),
    Option("service", argument="NAME", hidden=True, usage="Ask this service (default: rexec)"),
    Option("setopt", argument="NAME=VALUE", hidden=True, usage="Set an option of the process"),
    Option("stdin-flow", argument="on|off", hidden=True, usage="Whether stdin waits for credit"),
    Option("with-imp", usage="Run it under 'flux-imp run'"),
    Option("jobid", "j", "JOBID", usage="Run it next to the shells of a job (not in embedded instances)"),
    Option("sign", hidden=True, usage="Sign the requests (not here)"),
)


def run(options: Options, context: Context) -> int:
    """Run the program everywhere and wait for the last; the exit code is the highest."""
    started = time.monotonic()
    target = _check(options, context)
    command = None if target is not None else _describe(options)
    with context.open() as flux:
        if command is not None:
            _complete(flux, command, with_imp=options.has("with-imp"))
        ranks = select_ranks(flux.size, options.get("rank", "all") or "", options.get("exclude"))
        if isinstance(target, int) and len(ranks) > 1:
            raise CommandError("--attach by pid requires a single target rank (use --rank)")
        service = options.get("service", "rexec") or "rexec"
        if options.has("bg"):
            assert command is not None
            return _run_in_background(flux, context, ranks, command, service, waitable=options.has("waitable"))
        from pytest_flux.cli.commands.exec_session import ExecSession

        session = ExecSession(flux, context, options, service, started)
        session.start(ranks, command, target)
        return session.run()


def _check(options: Options, context: Context) -> int | str | None:
    """Whether options go together; what to attach to, if anything."""
    words = options.arguments
    if options.has("attach"):
        if not words:
            raise CommandError("--attach requires a pid or label argument")
        if len(words) > 1:
            raise CommandError("--attach takes a single pid or label argument")
        if options.has("bg") or options.has("waitable"):
            raise CommandError("--attach cannot be used with --bg or --waitable")
    elif not words:
        raise context.command.usage_error()
    if options.has("waitable") and not options.has("bg"):
        raise CommandError("--waitable can only be used with --bg")
    if options.get("stdin-flow", "on") not in ("on", "off"):
        raise CommandError("Set --stdin-flow to on or off")
    for name in ("jobid", "sign"):
        if options.has(name):
            raise CommandError(f"--{name} needs flux-core: this command runs programs next to brokers only")
    if not options.has("attach"):
        return None
    pid = parse_integer(words[0])
    return pid if pid is not None and pid > 0 else words[0]


def _describe(options: Options) -> dict[str, Any]:
    directory = options.get("dir")
    if directory is None:
        try:
            directory = os.getcwd()
        except OSError as error:
            raise CommandError(f"get_current_dir_name: {error.strerror}") from None
    settings = {}
    for setting in options.all("setopt"):
        name, equals, value = setting.partition("=")
        if not equals:
            raise CommandError(f"error handling '{setting}' option: {os.strerror(errno.EINVAL)}")
        settings[name] = value
    environment = {name: value for name, value in os.environ.items() if name != "FLUX_PROXY_REMOTE"}
    return describe_command(
        options.arguments,
        cwd=None if directory == "none" else directory,
        env=environment,
        label=options.get("label"),
        options=settings,
    )


def _complete(flux: Flux, command: dict[str, Any], *, with_imp: bool) -> None:
    """What only the instance knows: where the IMP is, and whose systemd answers its owner."""
    if with_imp:
        path = flux.rpc("config.get").get().get("exec", {}).get("imp")
        if path is None:
            raise CommandError(f"--with-imp: exec.imp path not found in config: {os.strerror(errno.ENOENT)}")
        command["cmdline"][:0] = [path, "run"]
    try:
        owner = flux.getattr("security.owner")
    except FluxError as error:
        text = os.strerror(error.errnum)
        raise CommandError(f"failed to fetch security.owner attribute: {text}") from None
    command["env"].setdefault("DBUS_SESSION_BUS_ADDRESS", f"unix:path=/run/user/{owner}/bus")


def select_ranks(size: int, include: str, exclude: str | None) -> list[int]:
    """The ranks that --rank and --exclude leave of an instance. Raises CommandError."""
    invalid = os.strerror(errno.EINVAL)
    try:
        ranks = list(range(size)) if include == "all" else decode_idset(include)
    except ValueError:
        raise CommandError(f"failed to decode idset '{include}': {invalid}") from None
    if not ranks or ranks[-1] >= size:
        raise CommandError(f"One or more invalid --ranks specified: {include}")
    try:
        excluded = frozenset(decode_idset(exclude or ""))
    except ValueError:
        raise CommandError(f"error decoding --exclude idset: {invalid}") from None
    ranks = [rank for rank in ranks if rank not in excluded]
    if not ranks:
        raise CommandError("No targets specified")
    return ranks


def _run_in_background(
    flux: Flux, context: Context, ranks: list[int], command: dict[str, Any], service: str, *, waitable: bool
) -> int:
    request = {"cmd": command, "flags": FLAG_WAITABLE if waitable else 0, "local_flags": 0}
    status = 0
    for rpc in [flux.rpc(f"{service}.exec", request, nodeid=rank) for rank in ranks]:
        try:
            print(f"{rpc.nodeid}: {rpc.get()['pid']}")
        except FluxError as error:
            sys.stdout.flush()
            context.log(f"Error: rank {rpc.nodeid}: {command['cmdline'][0]}: {reason(error)}")
            status = 1
    return status


COMMAND = Command("flux-exec", run, usage="[OPTIONS]...", options=OPTIONS)

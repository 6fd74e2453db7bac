"""`flux exec`: run a program next to each broker."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time

from pytest_flux.cli.command import Command, CommandError, Context, reason
from pytest_flux.cli.stdio import MAX_READ, Stdin, outlive_readers
from pytest_flux.client.process import (
    EXITED,
    FAILED,
    FLAG_WAITABLE,
    RUNNING,
    STARTING,
    RemoteProcess,
    describe_command,
)
from pytest_flux.options import Option, parse_integer
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.idset import decode_idset, encode_idset
from pytest_flux.protocol.wait_status import exit_code, signal_text
from pytest_flux.reactor.reactor import Reactor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from pytest_flux.cli.command import Context
    from pytest_flux.client import Flux, Rpc
    from pytest_flux.options import Options

INTERRUPT_WINDOW = 1.0
"""Within this time, in seconds, another ^C ends the command without the processes."""

# The exit codes of shells for a program that may not be run or does not exist; EX_NOHOST for a rank that is away.
_EXIT_CODES = {errno.EPERM: 126, errno.EACCES: 126, errno.ENOENT: 127, errno.EHOSTUNREACH: 68}


class ExecSession:
    """All processes of one `flux exec`."""

    def __init__(self, flux: Flux, context: Context, options: Options, service: str, started: float) -> None:
        self._flux = flux
        self._context = context
        self._service = service
        self._started = started
        self._verbose = options.has("verbose")
        self._quiet = options.has("quiet")
        self._label_output = options.has("label-io")
        self._reactor = Reactor()
        self._processes: dict[int, RemoteProcess] = {}
        self._hanging: set[int] = set()
        self._exits: dict[str, set[int]] = {}
        self._exit_code = 0
        self._has_left = False
        self._interrupts: list[float] = []
        self._target: int | str | None = None
        self._name = options.arguments[0]
        # sdexec grants no credits by default; flux-core's command turns them off for it, too.
        flow = options.get("stdin-flow", "off" if service == "sdexec" else "on")
        self._flow_control = flow == "on"
        self._stdin: Stdin | None = None if options.has("noinput") else Stdin(self._reactor, self._forward)

    def start(self, ranks: list[int], command: dict[str, Any] | None, target: int | str | None) -> None:
        """Request the processes, or attach to those that run already."""
        self._target = target
        if isinstance(target, str):
            self._name = f"label {target}"
        elif target is not None:
            self._name = f"pid {target}"
        elif command is not None:
            self._name = command["cmdline"][0]
        self._tell(f"Starting {self._name} on {_bracketed(ranks)}")
        for rank in ranks:
            if target is not None:
                process = RemoteProcess.attach(self._flux, rank, target, service=self._service)
            else:
                assert command is not None
                process = RemoteProcess.start(
                    self._flux, rank, command, service=self._service, flow_control=self._flow_control
                )
            process.rpc.then(self._follow)
            self._processes[rank] = process
        self._hanging = set(ranks)
        self._flux.flush()
        self._tell("Sent all requests")

    def run(self) -> int:
        """Wait for all processes, and return the exit code."""
        if self._stdin is None:
            for process in self._processes.values():
                process.close_stdin()
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._reactor.on_signal(signum, self._signal)
        self._reactor.on_readable(self._flux.fileno(), self._dispatch)
        self._reactor.call_soon(self._dispatch)
        try:
            self._reactor.run()
        finally:
            self._reactor.close()
        if self._has_left:
            return self._exit_code
        ended = sum(process.state in (EXITED, FAILED) for process in self._processes.values())
        self._tell(f"{ended} tasks complete with code {self._exit_code}")
        if not self._quiet:
            for text, ranks in self._exits.items():
                sys.stderr.write(f"{_bracketed(ranks)}: {text}\n")
        return self._exit_code

    def _dispatch(self) -> None:
        self._flux.dispatch()
        sys.stdout.buffer.flush()
        sys.stderr.buffer.flush()
        if all(process.complete for process in self._processes.values()):
            self._reactor.stop()
        elif self._stdin is not None:
            self._stdin.allow(self._room())

    def _room(self) -> int:
        """Return how many bytes of stdin every process can take: none before all have started."""
        states = [process.state for process in self._processes.values()]
        if STARTING in states:
            return 0
        running = [process for process in self._processes.values() if process.state == RUNNING]
        if not running:
            return 0
        return min(process.credits for process in running) if self._flow_control else MAX_READ

    def _follow(self, rpc: Rpc) -> None:
        process = self._processes[rpc.nodeid]
        if process.complete:
            return
        for stream, data in process.take_output():
            out = sys.stderr.buffer if stream == "stderr" else sys.stdout.buffer
            out.write(b"%d: %s" % (process.rank, data) if self._label_output else data)
        if process.complete:
            self._finish(process)

    def _finish(self, process: RemoteProcess) -> None:
        if process.error is not None:
            sys.stdout.buffer.flush()
            self._context.log(f"Error: rank {process.rank}: {self._name}: {reason(process.error)}")
            code = _EXIT_CODES.get(process.error.errnum, 1)
        else:
            self._hanging.discard(process.rank)
            code = exit_code(process.status)
            killed = os.WIFSIGNALED(process.status)
            text = signal_text(os.WTERMSIG(process.status)) if killed else f"Exit {code}"
            if code:
                self._exits.setdefault(text, set()).add(process.rank)
        self._exit_code = max(self._exit_code, code)

    def _forward(self, data: bytes) -> None:
        """Send bytes of stdin to every process that still reads; no bytes mean the end of stdin."""
        for process in self._processes.values():
            if process.state in (STARTING, RUNNING):
                if data:
                    process.write(data)
                else:
                    process.close_stdin()
        self._dispatch()

    def _signal(self, signum: int) -> None:
        if signum == signal.SIGINT:
            if self._target is not None:
                name = self._target
                sys.stderr.write(f"detached; use 'flux sproc kill {name}' to signal it\n")
                self._leave(0)
                return
            if len(self._interrupts) >= 2 and time.monotonic() - self._interrupts[-1] < INTERRUPT_WINDOW:
                sys.stderr.write(f"{_bracketed(self._hanging)}: command still running at exit\n")
                self._leave(1)
                return
        running = [process for process in self._processes.values() if process.state == RUNNING]
        if self._verbose:
            sys.stderr.write(f"sending signal {int(signum)} to {len(running)} running processes\n")
        for process in running:
            process.kill(signum).abandon()
        if signum == signal.SIGINT:
            if self._interrupts:
                sys.stderr.write(f"interrupt (Ctrl+C) one more time within {INTERRUPT_WINDOW:.2f} sec to exit\n")
            self._interrupts.append(time.monotonic())
        sys.stderr.flush()
        self._flux.flush()
        self._dispatch()

    def _leave(self, code: int) -> None:
        self._has_left = True
        self._exit_code = code
        sys.stderr.flush()
        self._reactor.stop()

    def _tell(self, text: str) -> None:
        if self._verbose:
            sys.stderr.write(f"{(time.monotonic() - self._started) * 1000:03f}ms: {text}\n")
            sys.stderr.flush()


def _bracketed(ranks: Iterable[int]) -> str:
    """Format a set of ranks as Flux's messages do: in brackets if there is more than one."""
    text = encode_idset(ranks)
    return text if text.isdigit() else f"[{text}]"


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


def execute(options: Options, context: Context) -> int:
    """Run the program on each rank and wait for all; the exit code is the highest of theirs."""
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

        outlive_readers()
        session = ExecSession(flux, context, options, service, started)
        session.start(ranks, command, target)
        return session.run()


def _check(options: Options, context: Context) -> int | str | None:
    """Check that options go together. Return the process to attach to, if any. Raises CommandError."""
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
    """Add what only the instance knows: the path of the IMP, and the D-Bus address of the owner's systemd."""
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
    """Return the ranks that --rank and --exclude select. Raises CommandError."""
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


COMMANDS = (Command("flux-exec", execute, usage="[OPTIONS]...", options=OPTIONS),)

"""The part of `flux exec` that lasts: output, stdin, signals and exit codes of the processes."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time

from pytest_flux.cli.commands.command import reason
from pytest_flux.cli.commands.exec_stdin import MAX_READ, Stdin
from pytest_flux.client.process import EXITED, FAILED, RUNNING, STARTING, RemoteProcess
from pytest_flux.protocol.idset import encode_idset
from pytest_flux.reactor.reactor import Reactor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from pytest_flux.cli.commands.command import Context
    from pytest_flux.client import Flux, Rpc
    from pytest_flux.options import Options

INTERRUPT_WINDOW = 1.0
"""Seconds within which one more ^C makes us leave without the processes."""

# What shells say for a program that may not be run and one that does not exist; EX_NOHOST for a rank that is away.
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
        # sdexec has no credits unless asked for them (flux-core does the same).
        flow = options.get("stdin-flow", "off" if service == "sdexec" else "on")
        self._flow_control = flow == "on"
        self._stdin: Stdin | None = None if options.has("noinput") else Stdin(self._reactor, self._forward)

    def start(self, ranks: list[int], command: dict[str, Any] | None, target: int | str | None) -> None:
        """Ask for the processes, or for those that run already."""
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
        """Wait for all of them; the exit code."""
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
        """How many bytes of stdin every process takes; none before all have started."""
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
            code = os.waitstatus_to_exitcode(process.status)
            text = f"Exit {code}" if code >= 0 else signal.strsignal(-code) or f"Signal {-code}"
            code = code if code >= 0 else 128 - code
            if code:
                self._exits.setdefault(text, set()).add(process.rank)
        self._exit_code = max(self._exit_code, code)

    def _forward(self, data: bytes) -> None:
        """Bytes of stdin, or none at its end, go to every process that still reads."""
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
    """A set of ranks as Flux's messages show it: in brackets if there is more than one."""
    text = encode_idset(ranks)
    return text if text.isdigit() else f"[{text}]"

"""Being attached to one job: its output here, our stdin and signals there, its exit code as ours."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time

from pytest_flux.cli.commands.attach_output import AttachOutput
from pytest_flux.cli.commands.attach_pty import PtyClient
from pytest_flux.cli.commands.attach_status import StatusLine
from pytest_flux.cli.commands.command import CommandError, reason
from pytest_flux.cli.commands.exec_stdin import Stdin
from pytest_flux.client.job_follow import INITIAL_SENTINEL, MAIN, JobFollower
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.idset import decode_idset, encode_idset
from pytest_flux.protocol.ioencode import encode_io
from pytest_flux.protocol.wait_status import describe_failure, exit_code
from pytest_flux.reactor.reactor import Reactor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.cli.commands.attach_output import AttachOptions
    from pytest_flux.client import Flux, Rpc
    from pytest_flux.protocol.eventlog import Event

_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)
_INTERRUPT_WINDOW = 2.0
_MAX_INPUT = 1 << 17


class AttachSession:
    """One attachment; :meth:`run` lasts until the job is complete, or we are no longer wanted."""

    def __init__(self, flux: Flux, jobid: int, options: AttachOptions) -> None:
        self._flux = flux
        self._jobid = jobid
        self._options = options
        self._reactor = Reactor()
        self._exit_code = 1
        self._fatal = False
        self._failure: CommandError | None = None
        self._interrupted = -_INTERRUPT_WINDOW
        self._service = ""
        self._leader = 0
        self._stdin: Stdin | None = None
        self._pty: PtyClient | None = None
        self._is_finished = self._has_left = False
        self._has_sent = False
        self._output = AttachOutput(options)
        self._status = StatusLine(flux, jobid, options.name, self._reactor, self._dispatch)
        flags = 0 if options.tail is None else INITIAL_SENTINEL
        self._follower = JobFollower(flux, jobid, wait_event=options.wait_event, output_flags=flags)
        self._follower.on_event = self._event
        self._follower.on_exec = self._exec_event
        self._follower.on_output = self._output.event
        self._follower.on_sentinel = self._output.old_is_over

    def run(self) -> int:
        """Follow the job; the exit code. Raises CommandError."""
        self._follower.start()
        if not self._options.read_only:
            self._reactor.on_signal(signal.SIGINT, self._interrupt)
            for signum in _FORWARDED:
                self._reactor.on_signal(signum, self._forward)
        self._status.start(shown=self._options.show_status, allowed=not self._options.show_events)
        self._reactor.on_readable(self._flux.fileno(), self._dispatch)
        self._reactor.call_soon(self._dispatch)
        try:
            self._reactor.run()
        finally:
            if self._pty is not None:
                self._pty.stop()
            self._reactor.close()
        if self._failure is not None:
            raise self._failure
        if self._follower.error is not None:
            raise self._refusal(self._follower.error)
        return 1 if self._fatal and not self._exit_code else self._exit_code

    def _refusal(self, error: FluxError) -> CommandError:
        if self._follower.failed_log == MAIN and error.errnum == errno.ENOENT:
            return CommandError(f"Failed to attach to {self._options.name}: No such job")
        if self._follower.failed_log == MAIN and error.errnum == errno.EPERM:
            return CommandError(f"Failed to attach to {self._options.name}: that is not your job")
        return CommandError(f"flux_job_event_watch_get: {reason(error)}")

    def _dispatch(self) -> None:
        self._flux.dispatch()
        sys.stdout.flush()
        sys.stderr.flush()
        if self._follower.done or self._failure is not None:
            self._reactor.stop()

    # -- events

    def _event(self, event: Event) -> None:
        if self._has_left:
            return
        name, context, timestamp = event["name"], event.get("context", {}), event["timestamp"]
        if self._output.zero is None:
            self._output.zero = timestamp
        if name == "exception":
            self._exception(timestamp, context)
        elif name == "finish":
            self._is_finished = True
            self._exit_code, text = exit_code(context["status"]), describe_failure(context["status"])
            if self._exit_code:
                _log(text)
        if self._options.show_events and name != "exception":
            self._show(event, "job")
        if not self._fatal:
            self._status.event(event)

    def _exception(self, timestamp: float, context: dict[str, Any]) -> None:
        self._status.clear()
        text = f"type={context['type']} severity={context['severity']} {context['note']}"
        sys.stderr.write(f"{self._output.since(timestamp)}: job.exception {self._options.name} {text}\n")
        self._fatal = context["severity"] == 0
        if self._fatal:
            self._end_stdin()

    def _exec_event(self, event: Event) -> None:
        name, context = event["name"], event.get("context", {})
        if name == "shell.init":
            self._service, self._leader = context["service"], context["leader-rank"]
            if "pty" in context:
                self._attach_terminal(context)
            else:
                self._begin_stdin()
        elif name == "shell.start" and self._options.stdin_ranks != "all":
            self._close_other_stdins(context)
        elif name == "log":
            if not self._options.quiet:
                origin = f"{context['component']}[{context['rank']}]: {context['stream']}: "
                sys.stderr.write(f"{self._output.since(event['timestamp'])}: {origin}")
            sys.stderr.write(context["data"])
        if self._options.show_exec and name != "log":
            self._show(event, "exec")

    def _attach_terminal(self, context: dict[str, Any]) -> None:
        if self._options.read_only:
            self._failure = CommandError("Cannot connect to pty in readonly mode")
        elif not self._is_finished:
            topic = f"{self._service}.{context['pty']}"
            self._output.is_captured_too = bool(context.get("capture"))
            self._pty = self._output.pty = PtyClient(
                self._flux, self._reactor, topic, self._leader, self._left_terminal
            )
            self._pty.start()
            self._reactor.call_soon(self._dispatch)

    def _left_terminal(self, attached: bool, code: int) -> None:
        if attached:
            self._exit_code, self._fatal, self._has_left = code, False, True
            self._reactor.stop()
        else:
            # The job may be over: what it wrote is in its log.
            self._output.pty = None
            self._begin_stdin()

    def _begin_stdin(self) -> None:
        if self._options.read_only:
            return
        self._stdin = Stdin(self._reactor, self._send_stdin)
        if self._options.stdin_ranks == "all":
            self._stdin.allow(_MAX_INPUT)

    def _show(self, event: Event, prefix: str) -> None:
        import json

        context = ""
        if "context" in event:
            context = " " + json.dumps(event["context"], separators=(",", ":"), ensure_ascii=False)
        sys.stderr.write(f"{self._output.since(event['timestamp'])}: {prefix}.{event['name']}{context}\n")

    # -- stdin

    def _send_stdin(self, data: bytes) -> None:
        self._has_sent |= bool(data)
        self._send(self._options.stdin_ranks, data)

    def _send(self, ranks: str, data: bytes) -> None:
        """Bytes, or the end of the stream; what comes next is read when the shell has taken this."""
        io = encode_io("stdin", ranks, data, eof=not data)
        rpc = self._flux.rpc(f"{self._service}.stdin", io, nodeid=self._leader)
        rpc.then(self._sent)
        # With the request sent, answers to others may have been read, which nothing else would wake us for.
        self._reactor.call_soon(self._dispatch)

    def _sent(self, rpc: Rpc) -> None:
        try:
            rpc.get()
        except FluxError as error:
            self._end_stdin()
            if error.errnum != errno.ENOSYS:
                self._failure = CommandError(f"attach_send_shell: {os.strerror(error.errnum)}")
            elif self._has_sent:
                self._failure = CommandError("stdin not accepted by job")
        else:
            if self._stdin is not None:
                self._stdin.allow(_MAX_INPUT)

    def _end_stdin(self) -> None:
        if self._stdin is not None:
            self._stdin.allow(0)
            self._stdin = None

    def _close_other_stdins(self, context: dict[str, Any]) -> None:
        """Tasks that are to get nothing find the end of their stdin at once."""
        import json

        from pytest_flux.protocol.taskmap import decode_taskmap

        every = range(decode_taskmap(json.dumps(context["taskmap"])).ntasks)
        wanted = set(decode_idset(self._options.stdin_ranks))
        kept = encode_idset(wanted & set(every))
        if wanted - set(every):
            _log(f"warning: adjusting --stdin-ranks from {self._options.stdin_ranks} to {kept}")
            self._options.stdin_ranks = kept
        others = set(every) - wanted
        if others:
            self._send(encode_idset(others), b"")
        elif self._stdin is not None:
            self._stdin.allow(_MAX_INPUT)

    # -- signals

    def _interrupt(self, signum: int) -> None:
        now = time.monotonic()
        if now - self._interrupted > _INTERRUPT_WINDOW:
            self._interrupted = now
            _log(f"one more ctrl-C within {_INTERRUPT_WINDOW:.0f}s to cancel or ctrl-Z to detach")
            self._reactor.on_signal(signal.SIGTSTP, self._suspend)
        else:
            self._control(self._flux.jobs.begin_raise(self._jobid, note="interrupted by ctrl-C"), "cancel")

    def _suspend(self, signum: int) -> None:
        if time.monotonic() - self._interrupted <= _INTERRUPT_WINDOW:
            _log("detaching...")
            self._follower.detach()
        else:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            _log("one more ctrl-Z to suspend")

    def _forward(self, signum: int) -> None:
        self._control(self._flux.jobs.begin_kill(self._jobid, signum), "kill")

    def _control(self, rpc: Rpc, name: str) -> None:
        def answered(rpc: Rpc) -> None:
            try:
                rpc.get()
            except FluxError as error:
                _log(f"{name}: {reason(error)}")

        rpc.then(answered)
        self._flux.flush()
        self._reactor.call_soon(self._dispatch)


def _log(text: str) -> None:
    sys.stderr.write(f"flux-job: {text}\n")

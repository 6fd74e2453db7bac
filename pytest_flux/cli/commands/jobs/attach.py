"""`flux job attach`: print the output of a job, send it stdin and signals, return its exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time

from pytest_flux.cli.command import Command, CommandError, Context, reason
from pytest_flux.cli.commands.jobs.common import format_shell_log, parse_id
from pytest_flux.cli.commands.jobs.terminal import PtyClient
from pytest_flux.cli.stdio import Stdin
from pytest_flux.client.job_follow import INITIAL_SENTINEL, MAIN, JobFollower
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.idset import decode_idset, encode_idset
from pytest_flux.protocol.ioencode import decode_io, encode_io
from pytest_flux.protocol.json_value import compact
from pytest_flux.protocol.wait_status import describe_failure, exit_code
from pytest_flux.reactor.reactor import Reactor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_flux.cli.commands.jobs.terminal import PtyClient
    from pytest_flux.client import Flux, Rpc
    from pytest_flux.options import Options
    from pytest_flux.protocol.eventlog import Event
    from pytest_flux.reactor.reactor import Reactor
    from pytest_flux.reactor.timers import Timer


class AttachOptions:
    """How to attach. ``name`` is the job's id as the user wrote it, ``tail`` the number of old lines to print."""

    __slots__ = (
        *("label", "name", "quiet", "read_only", "show_events", "show_exec", "show_status"),
        *("stdin_ranks", "tail", "verbose", "wait_event"),
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.label = self.quiet = self.read_only = self.verbose = False
        self.show_events = self.show_exec = self.show_status = False
        self.stdin_ranks = "all"
        self.wait_event = "clean"
        self.tail: int | None = None


class AttachOutput:
    """Prints the events of an output log. ``zero`` is the time of submission, from which times count.

    The output of the first task is left out if ``pty`` shows it already (``is_captured_too``).
    """

    def __init__(self, options: AttachOptions) -> None:
        self.zero: float | None = None
        self._options = options
        self._tail: list[Event] | None = None if options.tail is None else []
        self.pty: PtyClient | None = None
        self.is_captured_too = False

    def since(self, timestamp: float) -> str:
        """Format the time since the submission."""
        return f"{timestamp - (self.zero or 0.0):.3f}s"

    def event(self, event: Event) -> None:
        """Print an event, or keep it until all old events have come, of which only the last are printed."""
        if self._tail is not None and event["name"] in ("data", "log"):
            if not event.get("context", {}).get("eof"):
                self._tail.append(event)
        else:
            self._print(event)

    def old_is_over(self) -> None:
        """Print the last of the old events; those that follow are new."""
        if self._tail is not None:
            events, self._tail = self._tail, None
            for event in events[max(len(events) - (self._options.tail or 0), 0) :]:
                self._print(event)

    def _print(self, event: Event) -> None:
        name, context = event["name"], event.get("context", {})
        if name == "data":
            io = decode_io(context)
            if io.rank == "0" and self.is_captured_too and self.pty is not None and self.pty.attached:
                return
            stream = sys.stdout if io.stream == "stdout" else sys.stderr
            if io.data:
                stream.flush()
                stream.buffer.write(f"{io.rank}: ".encode() + io.data if self._options.label else io.data)
                stream.buffer.flush()
        elif name == "redirect" and not self._options.quiet:
            target = f" to {context['path']}" if "path" in context else ""
            sys.stderr.write(f"{context['rank']}: {context['stream']} redirected{target}\n")
        elif name == "log" and not self._options.quiet:
            sys.stderr.write(self._format_log(event["timestamp"], context))

    def _format_log(self, timestamp: float, context: dict[str, Any]) -> str:
        rank = context.get("rank", -1)
        origin = f"flux-shell[{rank}]" if rank >= 0 else "flux-shell"
        place = ""
        if self._options.verbose and context.get("file"):
            place = context["file"] + (f":{context['line']}" if context.get("line", -1) > 0 else "")
        return format_shell_log(context, f"{self.since(timestamp)}: {origin}", place)


_WAITING = "waiting for resources"
_MESSAGES = {
    "submit": "submitted",
    "validate": "resolving dependencies",
    "depend": "waiting for priority assignment",
    "priority": _WAITING,
    "alloc": "starting",
    "start": "started",
}
_FIRST_DELAY = 2.0
_QUEUE_INTERVAL = 10.0


class StatusLine:
    """A line that shows what a job is waiting for, from the third second on until it starts."""

    def __init__(self, flux: Flux, jobid: int, name: str, reactor: Reactor, dispatch: Callable[[], None]) -> None:
        self._dispatch = dispatch
        self._flux = flux
        self._jobid = jobid
        self._name = name
        self._reactor = reactor
        self._timer: Timer | None = None
        self._shown = False
        self._message = ""
        self._started = time.time()
        self._prologs = 0
        self._queue: str | None = None
        self._queue_stopped = False
        self._asked = 0.0

    def start(self, *, shown: bool, allowed: bool) -> None:
        """Begin if the line is asked for, or if it is ``allowed`` and stdin, stdout and stderr are terminals."""
        if os.environ.get("FLUX_ATTACH_NONINTERACTIVE") is not None:
            return
        if shown or (allowed and all(os.isatty(fd) for fd in range(3))):
            # If it is asked for, it shows what has already happened, too.
            self._shown = shown
            self._timer = self._reactor.call_later(0 if shown else _FIRST_DELAY, self._tick)

    def event(self, event: Event) -> None:
        """Take an event of the job."""
        name = event["name"]
        if name == "submit":
            self._started = event["timestamp"]
        if name in ("prolog-start", "prolog-finish"):
            self._prologs += 1 if name == "prolog-start" else -1
            self._message = "waiting for prolog" if self._prologs else "starting"
        self._message = _MESSAGES.get(name, self._message)
        self._draw()
        if name in ("start", "clean"):
            self._end()

    def clear(self) -> None:
        """Clear the line before a message."""
        if self._shown:
            sys.stderr.write("\r\033[K")

    def _end(self) -> None:
        if self._shown:
            sys.stderr.write("\n")
        self._shown = False
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self._shown = True
        self._timer = self._reactor.call_later(1.0, self._tick)
        self._draw()
        sys.stderr.flush()

    def _draw(self) -> None:
        if not self._shown or not self._message:
            return
        seconds = int(time.time() - self._started)
        message = self._message
        if message == _WAITING:
            self._ask()
            if self._queue_stopped and self._queue:
                message += f" ({self._queue} queue stopped)"
        width = max(self._columns() - 20 - len(self._name.encode()), 0)
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        sys.stderr.write(f"\rflux-job: {self._name} {message:<{width}} {clock}\r")

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(0).columns
        except OSError:
            return 80

    def _ask(self) -> None:
        """Ask whether the job's queue is stopped, but not too often."""
        now = time.monotonic()
        if self._asked and now - self._asked < _QUEUE_INTERVAL:
            return
        self._asked = now
        if self._queue is None:
            request = {"id": self._jobid, "attrs": ["queue"]}
            self._flux.rpc("job-list.list-id", request).then(self._take_queue)
        else:
            request = {} if self._queue == "default" else {"name": self._queue}
            self._flux.rpc("job-manager.queue-status", request, nodeid=0).then(self._take_status)
        self._reactor.call_soon(self._dispatch)

    def _take_queue(self, rpc: Rpc) -> None:
        try:
            self._queue = rpc.get()["job"].get("queue", "default")
        except FluxError:
            return
        self._asked = 0.0

    def _take_status(self, rpc: Rpc) -> None:
        try:
            self._queue_stopped = not rpc.get()["start"]
        except FluxError:
            return


_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)
_INTERRUPT_WINDOW = 2.0
_MAX_INPUT = 1 << 17


class AttachSession:
    """One attachment; :meth:`run` returns when the job is complete or the user detaches."""

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
        """Follow the job, and return the exit code. Raises CommandError."""
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
            # The job may have ended: its output is in its log.
            self._output.pty = None
            self._begin_stdin()

    def _begin_stdin(self) -> None:
        if self._options.read_only:
            return
        self._stdin = Stdin(self._reactor, self._send_stdin)
        if self._options.stdin_ranks == "all":
            self._stdin.allow(_MAX_INPUT)

    def _show(self, event: Event, prefix: str) -> None:
        context = f" {compact(event['context'])}" if "context" in event else ""
        sys.stderr.write(f"{self._output.since(event['timestamp'])}: {prefix}.{event['name']}{context}\n")

    # -- stdin

    def _send_stdin(self, data: bytes) -> None:
        self._has_sent |= bool(data)
        self._send(self._options.stdin_ranks, data)

    def _send(self, ranks: str, data: bytes) -> None:
        """Send bytes, or the end of the stream. More is read when the shell has accepted this."""
        io = encode_io("stdin", ranks, data, eof=not data)
        rpc = self._flux.rpc(f"{self._service}.stdin", io, nodeid=self._leader)
        rpc.then(self._sent)
        # Sending may have read answers to other requests, which do not make the connection readable again.
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
        """Close the stdin of the tasks that get no input."""
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


ATTACH_OPTIONS = (
    Option("show-events", "E", usage="Print the job's events on stderr"),
    Option("show-exec", "X", usage="Print those of its execution on stderr"),
    Option("show-status", usage="Tell what the job is waiting for"),
    Option("wait-event", "w", "NAME", usage="Leave at this event (default: clean)"),
    Option("label-io", "l", usage="Begin each line of output with the task's rank"),
    Option("verbose", "v", usage="Tell where in the job shell its messages come from"),
    Option("quiet", "q", usage="Do not print messages of the job shell, nor where output goes"),
    Option("read-only", "r", usage="Leave stdin and signals alone"),
    Option("unbuffered", "u", usage="Do not buffer stdin"),
    Option("stdin-ranks", "i", "RANKS", usage="Send stdin to these tasks (default: all)"),
    Option("tail", argument="NUM", optional=True, usage="Of what was written before, print the last lines only (10)"),
    Option("debug", usage="For parallel debuggers (not in embedded instances)"),
    Option("debug-emulate", hidden=True),
    Option("queue-check-interval", argument="SECONDS", hidden=True),
)
_DEFAULT_TAIL = 10


def attach(options: Options, context: Context) -> int:
    """Attach to a job; the exit code is that of the job."""
    if len(options.arguments) != 1:
        raise context.command.usage_error()
    jobid = parse_id(options.arguments[0])
    how = AttachOptions(options.arguments[0])
    for name in ("show-events", "show-exec", "show-status", "verbose", "quiet", "read-only"):
        setattr(how, name.replace("-", "_"), options.has(name))
    how.label = options.has("label-io")
    how.wait_event = options.get("wait-event") or how.wait_event
    how.stdin_ranks = _stdin_ranks(options)
    if options.has("tail"):
        how.tail = _DEFAULT_TAIL if options.get("tail") is None else options.integer("tail", _DEFAULT_TAIL)
        if how.tail < 0:
            raise CommandError("invalid tail argument")
    if options.has("debug") or options.has("debug-emulate"):
        raise CommandError("--debug needs flux-core: debuggers attach to its job shell")
    with context.open() as flux:
        return AttachSession(flux, jobid, how).run()


def _stdin_ranks(options: Options) -> str:
    text = options.get("stdin-ranks") or "all"
    if options.has("stdin-ranks") and options.has("read-only"):
        raise CommandError("Do not use --stdin-ranks with --read-only")
    if text != "all":
        try:
            decode_idset(text)
        except ValueError:
            raise CommandError(f"Invalid value '{text}' for --stdin-ranks: Invalid argument") from None
    return text


COMMANDS = (
    Command(
        "flux-job attach",
        attach,
        usage="[OPTIONS] id",
        summary="Interactively attach to job",
        options=ATTACH_OPTIONS,
        permute=True,
    ),
)

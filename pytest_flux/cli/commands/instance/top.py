"""`flux top`: a view of an instance and its running jobs that renews itself.

The view asks for everything again once in a second, or when a key is pressed. The commands of the same name in
flux-core follow streams of changes; so little is asked here that this would not pay.
"""

from __future__ import annotations

import math
import os
import select
import sys

from pytest_flux.cli.command import Command, CommandError, Context
from pytest_flux.cli.commands.instance.attr import find_attribute
from pytest_flux.cli.commands.jobs.query import count_pending, count_running
from pytest_flux.cli.moment import brief_duration
from pytest_flux.client import Flux
from pytest_flux.client.clock import instance_time
from pytest_flux.client.job_record import JobRecord
from pytest_flux.client.resources import Resources
from pytest_flux.client.uri import resolve
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.job_state import RUNNING
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    import curses
    from typing import Any, TextIO

    from pytest_flux.options import Options

_INTERVAL = 1.0
_SUMMARY_LINES = 7
_ATTRIBUTES = ("userid", "state", "name", "queue", "nnodes", "ntasks", "t_run", "annotations")
_YELLOW, _RED, _GREEN, _BLUE = 1, 2, 3, 4


class Usage(NamedTuple):
    """How many nodes, cores or GPUs there are."""

    name: str
    used: int
    down: int
    total: int


class View:
    """What there is to show of one instance. ``queue`` limits it to one queue."""

    def __init__(self, uri: str | None, title: str, queue: str | None) -> None:
        self.title = title
        self.queue = queue
        self.flux = Flux(uri)
        self.size = self.flux.size
        self.depth = int(find_attribute(self.flux, "instance-level") or 0)
        self.version = self.flux.getattr("version")
        self.started = float(find_attribute(self.flux, "broker.starttime") or 0.0)
        table = self.flux.rpc("config.get").get().get("queues", {})
        self.queues: list[str] = list(table)
        if queue is not None and queue not in self.queues:
            raise CommandError(f"queue {queue} not configured")
        self.now = 0.0
        self.stats: dict[str, Any] = {}
        self.usages: list[Usage] = []
        self.jobs: list[JobRecord] = []
        self.expiration = 0.0

    def refresh(self) -> None:
        """Ask the instance."""
        self.now = instance_time(self.flux)
        stats = self.flux.jobs.stats()
        if self.queue is not None:
            stats = next((each for each in stats.get("queues", ()) if each["name"] == self.queue), stats)
        self.stats = stats
        constraint = {"and": [{"states": [RUNNING]}, *([{"queue": [self.queue]}] if self.queue else [])]}
        found = self.flux.jobs.list(_ATTRIBUTES, constraint=constraint, max_entries=0)
        self.jobs = [JobRecord(values, self.now) for values in found if "t_run" in values]
        try:
            resources = Resources(self.flux).list()
        except FluxError:
            # There is no scheduler.
            return
        counts = [
            (name, [part.count(name) for part in (resources.allocated, resources.down, resources.all)])
            for name in ("node", "core", "gpu")
        ]
        self.usages = [Usage(f"{name}s", *numbers) for name, numbers in counts]
        self.expiration = resources.all.expiration

    def next_queue(self, step: int) -> None:
        """Limit the view to the next or the previous queue; after the last comes the view of all."""
        names: list[str | None] = [None, *self.queues]
        self.queue = names[(names.index(self.queue) + step) % len(names)]


class Screen:
    """Draws a view."""

    def __init__(self, window: curses.window, *, color: bool) -> None:
        self._window = window
        self._color = color
        self.selected: int | None = None
        self.shows_details = True

    def draw(self, view: View) -> None:
        """Draw everything."""
        self._window.erase()
        self._summary(view)
        self._job_list(view)
        self._window.refresh()

    def _put(self, line: int, column: int, text: str, attributes: int = 0) -> None:
        """Write text as far as there is room."""
        lines, columns = self._window.getmaxyx()
        if 0 <= line < lines and 0 <= column < columns - 1:
            self._window.addstr(line, column, text[: columns - 1 - column], attributes)

    def _paint(self, color: int, attributes: int = 0) -> int:
        import curses

        return attributes | (curses.color_pair(color) if self._color else 0)

    def _summary(self, view: View) -> None:
        import curses

        left = view.expiration - view.now
        self._put(0, 2, f58(0)[:1], self._paint(_YELLOW))
        self._put(0, max(6 + (73 - len(view.title)) // 2, 6), view.title, self._paint(_BLUE, curses.A_BOLD))
        self._put(0, 70, f"{brief_duration(left):>8}⌚" if left > 0 else f"{'∞':>9}")
        for line, usage in enumerate(view.usages, 1):
            self._bar(line, usage)
        states = view.stats["job_states"]
        self._put(1, 60, f"{count_pending(states):>6} pending")
        self._put(2, 60, f"{count_running(states):>6} running")
        if self.shows_details:
            failed = sum(view.stats[name] for name in ("failed", "timeout", "canceled"))
            self._put(3, 42, f"{view.stats['successful']:>6}", self._paint(_GREEN))
            self._put(3, 48, " complete, ")
            self._put(3, 59, f"{failed:>6}", self._paint(_RED))
            self._put(3, 65, " failed")
        else:
            self._put(3, 60, f"{states['inactive']:>6} inactive")
        self._put(5, 1, f"size: {view.size}", curses.A_DIM)
        if view.depth:
            self._put(5, 11, f"depth: {view.depth}", curses.A_DIM)
        self._put(5, 31, f"uptime: {brief_duration(view.now - view.started)}", curses.A_DIM)
        self._put(5, 79 - len(view.version), view.version, curses.A_DIM)

    def _bar(self, line: int, usage: Usage) -> None:
        before, after = f"{usage.name:>5} [", f"{usage.used}/{usage.total}]"
        slots = 36 - len(before) - len(after) - 1
        self._put(line, 4, before + " " * slots + after)
        if usage.total:
            used, down = (math.ceil(number / usage.total * slots) for number in (usage.used, usage.down))
            self._put(line, 4 + len(before), "|" * used, self._paint(_YELLOW))
            self._put(line, 4 + len(before) + slots - down, "|" * down, self._paint(_RED))

    def _job_list(self, view: View) -> None:
        import curses

        queue = f" {'QUEUE':>8}" if view.queues else ""
        columns = self._window.getmaxyx()[1]
        head = f"{'JOBID':>13}{queue} {'USER':>8} {'ST':>2} {'NTASKS':>6} {'NNODES':>6} {'RUNTIME':>7} NAME"
        self._put(_SUMMARY_LINES, 0, f"{head:<{columns}}", curses.A_REVERSE)
        for line, job in enumerate(view.jobs, _SUMMARY_LINES + 1):
            attributes = self._paint(_BLUE, curses.A_BOLD) if job.uri else 0
            if job.id == self.selected:
                attributes |= curses.A_REVERSE
            self._put(line, 0, " ".join(columns_of(view, job)), attributes)


def columns_of(view: View, job: JobRecord) -> list[str]:
    """Return the columns of a job's line."""
    queue = [f"{job.values['queue']:>8.8}"] if view.queues else []
    return [
        f"{f58(job.id):>13.13}",
        *queue,
        f"{job.field('username'):>8.8}",
        f"{job.field('status_abbrev'):>2.2}",
        f"{job.values['ntasks']:>6}",
        f"{job.values['nnodes']:>6}",
        f"{brief_duration(view.now - job.values['t_run']):>7.7}",
        str(job.values["name"]),
    ]


def dump(view: View, file: TextIO) -> None:
    """Write the contents of a view, for tests."""
    states = view.stats["job_states"]
    failed = sum(view.stats[name] for name in ("failed", "timeout", "canceled"))
    file.write(f"{count_pending(states)} pending\n{count_running(states)} running\n")
    file.write(f"{view.stats['successful']} complete\n{failed} failed\n")
    file.writelines(f"{usage.name} {usage.used}/{usage.total}\n" for usage in view.usages)
    file.writelines(" ".join(part.strip() for part in columns_of(view, job)) + "\n" for job in view.jobs)


class _Top:
    """The views, of which the last is shown, and the keys."""

    def __init__(self, first: View, screen: Screen) -> None:
        self._views = [first]
        self._screen = screen

    def run(self, window: curses.window) -> None:
        """Show the views until the user leaves the first one. Raises FluxError, ConnectionError."""
        while self._views:
            view = self._views[-1]
            view.refresh()
            self._screen.draw(view)
            select.select([0], [], [], _INTERVAL)
            while self._views and (key := window.getch()) != -1:
                self._press(key)

    def _press(self, key: int) -> None:
        import curses

        view, screen = self._views[-1], self._screen
        if key == ord("q"):
            self._views.pop().flux.close()
            screen.selected = None
        elif key in (ord("j"), curses.KEY_DOWN, ord("k"), curses.KEY_UP):
            self._move(view, 1 if key in (ord("j"), curses.KEY_DOWN) else -1)
        elif key in (ord("l"), curses.KEY_RIGHT, ord("h"), curses.KEY_LEFT):
            view.next_queue(1 if key in (ord("l"), curses.KEY_RIGHT) else -1)
        elif key == ord("d"):
            screen.shows_details = not screen.shows_details
        elif key in (ord("\n"), ord("\r"), curses.KEY_ENTER):
            self._enter(view)
        elif key == ord("L") - ord("@"):
            curses.flash()

    def _move(self, view: View, step: int) -> None:
        ids = [job.id for job in view.jobs]
        if not ids:
            return
        place = ids.index(self._screen.selected) + step if self._screen.selected in ids else 0
        self._screen.selected = ids[max(0, min(place, len(ids) - 1))]

    def _enter(self, view: View) -> None:
        """Show the instance that the selected job is, if it can be reached."""
        for job in view.jobs:
            if job.id == self._screen.selected and job.uri:
                try:
                    self._views.append(View(job.uri, f"{view.title}/{f58(job.id)}", None))
                except (OSError, ValueError):
                    return
                self._screen.selected = None
                return


def top(options: Options, context: Context) -> int:
    """Show the view until the user quits it."""
    if len(options.arguments) > 1:
        raise context.command.usage_error()
    if not os.isatty(0):
        raise CommandError("stdin is not a terminal")
    uri = None
    if options.arguments:
        try:
            uri = resolve(options.arguments[0])
        except (OSError, ValueError) as error:
            raise CommandError(f"{options.arguments[0]}: {error}") from None
    when = options.get("color", "auto") or "always"
    if when not in ("always", "never", "auto"):
        raise CommandError(f"Invalid argument to --color: '{when}'")
    try:
        view = View(uri, options.arguments[0] if options.arguments else "", options.get("queue"))
    except ValueError as error:
        raise CommandError(str(error)) from None
    except FluxError:
        raise
    except OSError as error:
        raise CommandError(f"error connecting to Flux: {error.strerror}") from None
    return _run(view, options, color=when != "never" and not os.environ.get("NO_COLOR"))


def _run(view: View, options: Options, *, color: bool) -> int:
    import curses

    def show(window: curses.window) -> None:
        window.nodelay(True)
        curses.curs_set(0)
        if color and curses.has_colors():
            curses.use_default_colors()
            for number, shade in ((_YELLOW, 3), (_RED, 1), (_GREEN, 2), (_BLUE, 4)):
                curses.init_pair(number, shade, -1)
        screen = Screen(window, color=color and curses.has_colors())
        if options.has("test-exit") or options.has("test-exit-dump"):
            view.refresh()
            screen.draw(view)
        else:
            _Top(view, screen).run(window)

    import locale

    locale.setlocale(locale.LC_ALL, "")
    try:
        curses.wrapper(show)
    except curses.error:
        raise CommandError("terminal does not support required capabilities") from None
    except ConnectionError as error:
        raise CommandError(f"lost connection to Flux: {error.strerror}") from None
    if options.get("test-exit-dump"):
        with open(options.get("test-exit-dump") or "", "w") as file:
            dump(view, file)
    sys.stdout.flush()
    return 0


COMMANDS = (
    Command(
        "flux-top",
        top,
        usage="[OPTIONS] [TARGET]",
        summary="Show the instance and its running jobs; q quits, enter opens a job that is an instance",
        options=(
            Option("color", argument="WHEN", optional=True, usage="Use color: always, never or auto (default)"),
            Option("queue", "q", "NAME", usage="Show this queue only"),
            Option("test-exit", hidden=True, usage="Exit after the first view"),
            Option("test-exit-dump", argument="FILE", hidden=True, usage="The same, and write the view to a file"),
        ),
    ),
)

"""`flux cron`: run commands at intervals, at dates and upon events."""

from __future__ import annotations

import os
import sys
import time

from pytest_flux.cli.command import Command, CommandError, Context, reason
from pytest_flux.client.clock import present_time
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pytest_flux.cli.command import Run
    from pytest_flux.options import Options

    Entry = dict[str, Any]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LINE = "{:>6} {:<15} {:<8} {:>9} {:>18}  {:<18}"


def parse_time(text: str) -> float:
    """Parse a number of seconds, or one with a unit. Raises CommandError."""
    unit = text[-1:].lower()
    number = text[:-1] if unit in _UNITS else text
    try:
        if not number.replace(".", "", 1).isdecimal():
            raise ValueError
        return float(number) * _UNITS.get(unit, 1)
    except ValueError:
        raise CommandError(f"Invalid duration '{text}'") from None


def _time(options: Options, name: str) -> float | None:
    text = options.get(name)
    return None if text is None else parse_time(text)


def _number(text: str | None) -> float | None:
    """Return a number as Lua does: None if it is not one."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return int(value) if value.is_integer() else value


def _call(context: Context, topic: str, request: dict[str, Any]) -> dict[str, Any]:
    with context.open() as flux:
        try:
            return flux.rpc(topic, request, nodeid=0).get()
        except FluxError as error:
            raise CommandError(reason(error)) from None


def _create(options: Options, context: Context, kind: str, arguments: dict[str, Any], words: list[str]) -> Entry:
    """Make an entry, and return its description."""
    command = " ".join(words)
    named = {name: options.get(name) for name in ("name", "working-dir") if name in options.names}
    request: dict[str, Any] = {
        "type": kind,
        "args": {name: value for name, value in arguments.items() if value is not None},
        "command": command,
        "name": named.get("name") or (command.split() or [""])[0],
        "cwd": named.get("working-dir"),
        "repeat": 1 if arguments.get("year") is not None else None,
    }
    if "count" in options.names:
        request["repeat"] = _number(options.get("count"))
    if options.has("preserve-env"):
        request["environ"] = dict(os.environ)
    for setting in (options.get("options") or "").split(","):
        key, equals, text = setting.partition("=")
        if equals:
            request[key] = _number(text)
    return _call(context, "cron.create", {name: value for name, value in request.items() if value is not None})


def _tell(context: Context, text: str) -> None:
    sys.stderr.write(f"{context.command.name}: {text}\n")


def interval(options: Options, context: Context) -> int:
    """Run a command at intervals."""
    if len(options.arguments) < 2:
        raise CommandError("INTERVAL and COMMAND required")
    first, *words = options.arguments
    arguments = {"interval": parse_time(first), "after": _time(options, "after")}
    _tell(context, f"cron-{_create(options, context, 'interval', arguments, words)['id']} created")
    return 0


def event(options: Options, context: Context) -> int:
    """Run a command upon events."""
    if len(options.arguments) < 2:
        raise CommandError("TOPIC and COMMAND args are required")
    topic, *words = options.arguments
    arguments = {
        "topic": topic,
        "nth": _number(options.get("nth")),
        "after": _number(options.get("after")),
        "min_interval": _time(options, "min-interval"),
    }
    _tell(context, f"cron-{_create(options, context, 'event', arguments, words)['id']} created")
    return 0


def at(options: Options, context: Context) -> int:
    """Run a command at a date, once."""
    if len(options.arguments) < 2:
        raise CommandError("TIME and COMMAND args are required")
    text, *words = options.arguments
    when = time.localtime(_parse_date(text))
    arguments = {
        "second": when.tm_sec,
        "minute": when.tm_min,
        "hour": when.tm_hour,
        "mday": when.tm_mday,
        "month": when.tm_mon - 1,
        "year": when.tm_year - 1900,
    }
    _tell_date(context, _create(options, context, "datetime", arguments, words))
    return 0


def _parse_date(text: str) -> int:
    """Return the moment that date(1) understands. Raises CommandError."""
    import subprocess

    done = subprocess.run(["date", "+%s", f"--date={text}"], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise CommandError("Failed to parse datetime arg")
    return int(done.stdout)


def _tell_date(context: Context, entry: Entry) -> None:
    due = entry["typedata"]["next_wakeup"]
    _tell(context, f"cron-{entry['id']} created: scheduled in {due - present_time():.3f}s at {time.ctime(due)}")


def tab(options: Options, context: Context) -> int:
    """Run commands as the lines of a crontab say."""
    for line in _lines(options.arguments):
        words = line.partition("#")[0].split(None, 5)
        if len(words) < 6:
            raise CommandError(f"Failed to process crontab line: {line}")
        arguments = dict(zip(("minute", "hour", "mday", "month", "weekday"), words, strict=False))
        entry = _create(options, context, "datetime", {"second": 0, **arguments}, [words[5].rstrip()])
        _tell_date(context, entry)
    return 0


def _lines(words: list[str]) -> Iterator[str]:
    if not words or words[0] == "-":
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    try:
        with open(words[0]) as file:
            yield from (line.rstrip("\n") for line in file)
    except OSError as error:
        raise CommandError(f"{words[0]}: {error.strerror}") from None


# -- entries


def list_entries(options: Options, context: Context) -> int:
    """Print the entries."""
    del options
    print(_LINE.format("ID", "CMD/NAME", "STATE", "#RUNS", "LASTRUN", "STATUS"))
    for entry in _call(context, "cron.list", {})["entries"]:
        count = str(entry["stats"]["count"]) + (f"/{entry['repeat']}" if entry["repeat"] > 0 else "")
        state = "Stopped" if entry["stopped"] else "Active"
        print(_LINE.format(entry["id"], entry["name"], state, count, *_last_run(entry)))
    return 0


def _last_run(entry: Entry) -> tuple[str, str]:
    """Return when the entry ran last, and how that went."""
    if not entry["tasks"]:
        return "None", "None"
    started = next((task["start-time"] for task in entry["tasks"][:2] if "start-time" in task), None)
    task = entry["tasks"][0]
    status = {"Exited": "Success"}.get(task["state"], task["state"])
    if status == "Failed":
        status = "Exec-Error" if task["code"] == 127 else f"Failed:rc={task['code']}"
    return "None" if started is None else _ago(started), status


def _ago(when: float) -> str:
    """Tell how long ago a moment was, in the words of flux-core."""
    seconds = present_time() - when
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    for limit, text in (
        (0.0, "in the future"),
        (2.0, "a second ago"),
        (90.0, f"{int(seconds + 0.5)} seconds ago"),
        (120.0, "a minute ago"),
        (5400.0, f"{int(minutes + 0.5)} minutes ago"),
        (36 * 3600.0, f"{hours:.1f} hours ago"),
        (14 * 86400.0, f"{days:.1f} days ago"),
        (70 * 86400.0, f"{int(days + 3) // 7} weeks ago"),
        (365 * 86400.0, f"{int(days + 15) // 30} months ago"),
    ):
        if seconds < limit:
            return text
    return f"{days / 365:.1f} years ago"


def _for(seconds: float) -> str:
    for unit in "dhm":
        if seconds > _UNITS[unit]:
            return f"{seconds / _UNITS[unit]:.3f}{unit}"
    return f"{seconds:.3f}s" if seconds > 1 else f"{seconds * 1000:.2f}ms"


def _ids(options: Options, context: Context) -> list[tuple[str, float | None]]:
    if not options.arguments:
        raise context.command.usage_error()
    return [(word, _number(word)) for word in options.arguments]


def delete(options: Options, context: Context) -> int:
    """Delete entries."""
    for word, number in _ids(options, context):
        entry = _call(context, "cron.delete", {"id": number, "kill": options.has("kill")})
        text = ""
        if entry["tasks"]:
            task = entry["tasks"][0]
            started, ended = task.get("start-time", 0.0), task.get("end-time")
            text = f" still running. Started {_ago(started)}"
            if ended is not None:
                text = f" last ran {_ago(ended)} for {_for(ended - started)}"
        print(f"Removed cron-{word}: {entry['name']}{text}")
    return 0


def stop(options: Options, context: Context) -> int:
    """Stop entries."""
    for word, number in _ids(options, context):
        _call(context, "cron.stop", {"id": number})
        print(f"Stopped cron-{word}")
    return 0


def start(options: Options, context: Context) -> int:
    """Start entries that were stopped."""
    for word, number in _ids(options, context):
        _call(context, "cron.start", {"id": number})
        print(f"Started cron-{word}")
    return 0


def dump(options: Options, context: Context) -> int:
    """Print all values of an entry, or one of them."""
    number = _number(options.arguments[0]) if options.arguments else None
    if number is None:
        raise CommandError("ID argument required")
    for entry in _call(context, "cron.list", {})["entries"]:
        if entry["id"] == number:
            for key, value in _values(entry):
                if not options.has("key"):
                    print(f"{key} = {_lua(value, quoted=True)}")
                elif options.get("key") == key:
                    print(_lua(value))
            return 0
    raise CommandError(f"cron-{number}: No such cron entry found")


def _values(entry: Entry) -> Iterator[tuple[str, object]]:
    for key, value in entry.items():
        if key == "tasks":
            for number, task in enumerate(value, 1):
                yield from ((f"task.{number}.{name}", each) for name, each in task.items())
        elif isinstance(value, dict):
            yield from ((f"{key}.{name}", each) for name, each in value.items())
        else:
            yield key, value


def _lua(value: object, *, quoted: bool = False) -> str:
    """Format a value as Lua does."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.14g}" + (".0" if value.is_integer() else "")
    return f'"{value}"' if quoted and isinstance(value, str) else str(value)


def sync(options: Options, context: Context) -> int:
    """Print the event that tasks wait for, or set it."""
    request: dict[str, Any] = {}
    if options.has("disable"):
        request["disable"] = True
    elif options.arguments:
        request["topic"] = options.arguments[0]
    if options.has("epsilon"):
        request["sync_epsilon"] = _time(options, "epsilon")
    answer = _call(context, "cron.sync", request)
    if answer.get("sync_disabled"):
        _tell(context, "sync disabled.")
    else:
        _tell(context, f'sync to event "{answer["sync_event"]}" epsilon={answer["sync_epsilon"]:.3f}s.')
    return 0


_COUNT = Option("count", "c", "N", usage="Run it N times at most")
_NAME = Option("name", "N", "NAME", usage="The entry's name (default: the command's)")
_RUN = (
    Option("options", "o", "LIST", usage="Further options: timeout, rank, task-history-count, stop-on-failure"),
    Option("preserve-env", "E", usage="Run it in our environment, not the broker's"),
    Option("working-dir", "d", "DIR", usage="Run it in this directory, not the broker's"),
)


def _command(
    name: str, run: Run, *, usage: str = "[OPTIONS]", summary: str, options: tuple[Option, ...] = ()
) -> Command:
    """Return a subcommand, whose errors begin with its full name."""
    program = f"flux-cron {name}"
    return Command(program, run, usage=usage, summary=summary, options=options, prefix=program)


COMMANDS = (
    Command(
        "flux-cron",
        summary="Run commands at intervals, at dates and upon events",
        subcommands=(
            _command(
                "interval",
                interval,
                usage="[OPTIONS] INTERVAL COMMAND",
                summary="Run COMMAND every INTERVAL",
                options=(_COUNT, _NAME, Option("after", "a", "TIME", usage="The first time, after TIME"), *_RUN),
            ),
            _command(
                "event",
                event,
                usage="[OPTIONS] TOPIC COMMAND",
                summary="Run COMMAND upon events",
                options=(
                    Option("nth", "n", "N", usage="Upon every Nth event"),
                    Option("after", "a", "N", usage="The first time, after N events"),
                    Option("min-interval", "i", "TIME", usage="Wait so long between two runs"),
                    _COUNT,
                    _NAME,
                    *_RUN,
                ),
            ),
            _command("tab", tab, usage="[OPTIONS] [FILE]", summary="Read a crontab, or stdin", options=_RUN),
            _command("at", at, usage="[OPTIONS] TIME COMMAND", summary="Run COMMAND once, at TIME", options=_RUN),
            _command("list", list_entries, summary="List the entries"),
            _command(
                "delete",
                delete,
                usage="[OPTIONS] ID...",
                summary="Delete entries",
                options=(Option("kill", "k", usage="Kill what they run"),),
            ),
            _command("stop", stop, usage="ID...", summary="Stop entries"),
            _command("start", start, usage="ID...", summary="Start entries that were stopped"),
            _command(
                "dump",
                dump,
                usage="[OPTIONS] ID",
                summary="Print what is known of an entry",
                options=(Option("key", "k", "KEY", usage="Print this value only"),),
            ),
            _command(
                "sync",
                sync,
                usage="[OPTIONS] [TOPIC]",
                summary="Let commands wait for an event",
                options=(
                    Option("disable", "d", usage="Let them wait no more"),
                    Option("epsilon", "e", "TIME", usage="Run them at once for so long after the event"),
                ),
            ),
        ),
    ),
)

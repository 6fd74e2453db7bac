"""`cron`: run commands at intervals, at dates and upon events (flux-core's modules/cron, flux-cron(1)).

An entry has a trigger and runs one task at a time, a process that `rexec` starts on one rank. Time is the reactor's:
intervals count on its monotonic clock, dates on its wall clock.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from pytest_flux.broker.service import ALL, Answer, Request, Service, method
from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.ioencode import decode_io
from pytest_flux.protocol.severity import LOG_DEBUG, LOG_ERR, LOG_INFO
from pytest_flux.protocol.wait_status import exit_code

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router
    from pytest_flux.protocol.message import Message
    from pytest_flux.reactor.reactor import Reactor
    from pytest_flux.reactor.timers import Timer

    Fire = Callable[[], None]

_OUTPUT = 3
"""Flags of `rexec.exec`: send stdout and stderr."""

_EPSILON = 0.015
"""So long after a sync event, in seconds, tasks still run at once."""

SYNC = {"sync": "heartbeat.pulse"}
"""The arguments with which rc1 of flux-core loads the module."""


_UNITS = {
    "second": (0, 60),
    "minute": (0, 59),
    "hour": (0, 23),
    "mday": (1, 31),
    "month": (0, 11),
    "weekday": (0, 6),
    "year": (0, 1100),
}
"""Units of time, and the least and the largest value of each: as in C's struct tm, months and years count from 0."""

_NAMES = {
    "month": "jan feb mar apr may jun jul aug sep oct nov dec".split(),
    "weekday": "sun mon tue wed thu fri sat".split(),
}


class Dates:
    """Dates that a crontab line describes, with values for each unit of time."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.texts = {unit: str(arguments.get(unit, "*")) for unit in _UNITS}
        self._values = {unit: self._parse(unit, text) for unit, text in self.texts.items()}

    def _parse(self, unit: str, text: str) -> frozenset[int]:
        """Parse ``*``, numbers, names, ranges and steps, with commas between them. FluxError EINVAL."""
        least, most = _UNITS[unit]
        values: set[int] = set()
        for item in text.split(","):
            part, _, step = item.partition("/")
            first, dash, last = part.partition("-")
            try:
                if part == "*":
                    start, end = least, most
                else:
                    start = self._number(unit, first)
                    end = self._number(unit, last) if dash else start
                found = range(start, end + 1, int(step or 1))
            except ValueError:
                raise FluxError(errno.EINVAL) from None
            if not least <= start <= end <= most:
                raise FluxError(errno.EINVAL)
            values.update(found)
        return frozenset(values)

    def _number(self, unit: str, text: str) -> int:
        names = _NAMES.get(unit, [])
        return names.index(text[:3].lower()) if text[:3].lower() in names else int(text)

    def next(self, now: float) -> float | None:
        """Return the first such date after ``now``; None if there is none."""
        from datetime import datetime, timedelta

        moment = datetime.fromtimestamp(int(now)) + timedelta(seconds=1)  # noqa: DTZ006, in local time
        last = 1900 + max(self._values["year"])
        while moment.year <= last:
            day = moment.replace(hour=0, minute=0, second=0)
            if moment.year - 1900 not in self._values["year"]:
                moment = day.replace(year=moment.year + 1, month=1, day=1)
            elif moment.month - 1 not in self._values["month"]:
                moment = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
            elif moment.day not in self._values["mday"] or moment.isoweekday() % 7 not in self._values["weekday"]:
                moment = day + timedelta(days=1)
            elif moment.hour not in self._values["hour"]:
                moment = moment.replace(minute=0, second=0) + timedelta(hours=1)
            elif moment.minute not in self._values["minute"]:
                moment = moment.replace(second=0) + timedelta(minutes=1)
            elif moment.second not in self._values["second"]:
                moment += timedelta(seconds=1)
            else:
                return moment.timestamp()
        return None


class _Interval:
    """Fires every so many seconds."""

    def __init__(self, reactor: Reactor, arguments: dict[str, Any], fire: Fire) -> None:
        self._reactor = reactor
        self._fire = fire
        self._seconds = _number(arguments, "interval")
        self._after = _number(arguments, "after", self._seconds)
        self._due = 0.0
        self._timer: Timer | None = None

    def start(self) -> None:
        self._wait(self._after)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, seconds: float) -> None:
        self._due = self._reactor.clock.time() + seconds
        self._timer = self._reactor.clock.call_later(seconds, self._expired)

    def _expired(self) -> None:
        self._wait(self._seconds)
        self._fire()

    def event(self, topic: str) -> None:
        """Events do not matter."""

    def json(self) -> dict[str, Any]:
        return {"interval": self._seconds, "after": self._after, "next_wakeup": self._due}


class _Event:
    """Fires upon events: after some of them, at each or every nth, but not too often."""

    def __init__(self, reactor: Reactor, arguments: dict[str, Any], fire: Fire) -> None:
        self._reactor = reactor
        self._fire = fire
        self._topic = arguments.get("topic")
        if not isinstance(self._topic, str):
            raise FluxError(errno.EPROTO)
        self._nth = int(_number(arguments, "nth", 0))
        self._after = int(_number(arguments, "after", 0))
        self._min_interval = _number(arguments, "min_interval", 0)
        self._counter = 0
        self._fired = 0.0
        self._active = False
        self._timer: Timer | None = None

    def start(self) -> None:
        self._counter, self._active = 0, True

    def stop(self) -> None:
        self._active = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def event(self, topic: str) -> None:
        if not self._active or not topic.startswith(str(self._topic)):
            return
        self._counter += 1
        if self._timer is not None or self._counter < self._after:
            return
        if self._nth and (self._counter - self._after) % self._nth:
            return
        left = self._fired + self._min_interval - self._reactor.clock.monotonic()
        if self._fired and left > 0:
            self._timer = self._reactor.clock.call_later(left, self._run)
        else:
            self._run()

    def _run(self) -> None:
        self._timer = None
        self._fired = self._reactor.clock.monotonic()
        self._fire()

    def json(self) -> dict[str, Any]:
        return {
            "topic": self._topic,
            "nth": self._nth,
            "after": self._after,
            "counter": self._counter,
            "min_interval": self._min_interval,
        }


class _Date:
    """Fires at dates."""

    def __init__(self, reactor: Reactor, arguments: dict[str, Any], fire: Fire) -> None:
        self._reactor = reactor
        self._fire = fire
        self._dates = Dates(arguments)
        self._due: float | None = None
        self._timer: Timer | None = None

    def start(self) -> None:
        self._due = self._dates.next(self._reactor.clock.time())
        if self._due is not None:
            self._timer = self._reactor.clock.call_later(
                max(self._due - self._reactor.clock.time(), 0), self._expired
            )

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self) -> None:
        # The wall clock may have been set back meanwhile.
        due, self._timer = self._due, None
        self.start()
        if due is not None and self._due != due:
            self._fire()

    def event(self, topic: str) -> None:
        """Events do not matter."""

    def json(self) -> dict[str, Any]:
        return {"next_wakeup": self._due or self._reactor.clock.time(), **self._dates.texts}


class _Trigger(Protocol):
    """What makes an entry run."""

    def __init__(self, reactor: Reactor, arguments: dict[str, Any], fire: Fire) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def event(self, topic: str) -> None: ...
    def json(self) -> dict[str, Any]: ...


_TRIGGERS: dict[str, type[_Trigger]] = {"interval": _Interval, "event": _Event, "datetime": _Date}


def _number(arguments: dict[str, Any], name: str, default: float | None = None) -> float:
    value = arguments.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise FluxError(errno.EPROTO)
    return value


class _Task:
    """One process of an entry."""

    def __init__(self, rank: int, now: float) -> None:
        self.rank = rank
        self.pid = self.status = self.errnum = 0
        self.timer: Timer | None = None
        self.timed_out = self.exited = self.finished = False
        self.times = {"create": now}

    @property
    def state(self) -> str:
        """The state in the words of flux-core."""
        if self.errnum:
            return "Rexec Failure"
        if "start" not in self.times:
            return "Deferred"
        if not self.exited:
            return "Running"
        if self.timed_out:
            return "Timeout"
        return "Failed" if self.status else "Exited"

    def describe_failure(self) -> str:
        """Return what the log says about its status."""
        if os.WIFSIGNALED(self.status):
            return signal.strsignal(os.WTERMSIG(self.status)) or "Unknown signal"
        return f"Exit {os.WEXITSTATUS(self.status)}"

    def json(self) -> dict[str, Any]:
        """Describe the task."""
        value: dict[str, Any] = {"rank": self.rank, "pid": self.pid, "status": self.status, "state": self.state}
        if self.errnum:
            value["rexec_errno"] = self.errnum
        if self.timed_out:
            value["timedout"] = True
        if self.finished:
            value["code"] = exit_code(self.status)
        return value | {f"{name}-time": time for name, time in self.times.items()}


class _Entry:
    """A command, what triggers it, and its tasks."""

    def __init__(self, service: CronService, number: int, request: Request) -> None:
        self.id = number
        self.name = request.field("name", str)
        self.command = request.field("command", str)
        self.rank = request.field("rank", int, 0)
        self._service = service
        self._type = request.field("type", str)
        self._environ = request.field("environ", dict, None)
        self._cwd = request.field("cwd", str, None)
        self._repeat = request.field("repeat", int, 0)
        self._history = request.field("task-history-count", int, 1)
        self._stop_on_failure = request.field("stop-on-failure", int, 0)
        self._timeout = float(_number(request.json(), "timeout", 0)) if "timeout" in request.json() else -1.0
        if self._type not in _TRIGGERS:
            raise FluxError(errno.ENOSYS)
        self._trigger = _TRIGGERS[self._type](service.reactor, request.field("args", dict), self._fire)
        self.task: _Task | None = None
        self._finished: list[_Task] = []
        self.stopped = True
        counts = ("count", "failcount", "total", "success", "failure", "deferred")
        times = {"ctime": service.reactor.clock.time(), "starttime": 0.0, "lastrun": 0.0}
        self._stats: dict[str, float] = {**times, **dict.fromkeys(counts, 0)}

    def start(self) -> None:
        """Let the trigger fire. FluxError EINVAL."""
        if not self.stopped:
            raise FluxError(errno.EINVAL)
        self.stopped = False
        self._stats["starttime"] = self._service.reactor.clock.time()
        self._stats["count"] = self._stats["failcount"] = 0
        self._trigger.start()

    def stop(self) -> None:
        """Let the trigger fire no more. FluxError EINVAL."""
        if self.stopped:
            raise FluxError(errno.EINVAL)
        self.stopped = True
        self._trigger.stop()

    def event(self, topic: str) -> None:
        """Take an event."""
        self._trigger.event(topic)

    def _fire(self) -> None:
        if self.task is not None:
            self._service.log(LOG_INFO, f"cron-{self.id}: {self.name}: task still running or scheduled")
            return
        self.task = _Task(self.rank, self._service.reactor.clock.time())
        self._stats["total"] += 1
        self._stats["count"] += 1
        if self._stats["count"] == self._repeat and not self.stopped:
            self.stop()
        if self._service.defer(self):
            self._stats["deferred"] += 1
        else:
            self.run()

    def run(self) -> None:
        """Start the task."""
        task, service = self.task, self._service
        assert task is not None
        command: dict[str, Any] = {"cmdline": ["sh", "-c", self.command], "env": self._environ, "opts": {}}
        command |= {"channels": [], "msgchan": []}
        if self._environ is None:
            command["env"] = dict(os.environ)
        command["cwd"] = self._cwd or os.getcwd()
        task.times["start"] = self._stats["lastrun"] = service.reactor.clock.time()
        request = {"cmd": command, "flags": _OUTPUT, "local_flags": 0}
        service.router.rpc("rexec.exec", request, self._follow, nodeid=self.rank, streaming=True)

    def _follow(self, message: Message) -> None:
        task = self.task
        if task is None:
            return
        now = self._service.reactor.clock.time()
        if message.errnum:
            if message.errnum != errno.ENODATA:
                task.errnum = message.errnum
            self._finish(task, now)
            return
        response = message.json()
        if response["type"] == "started":
            task.pid, task.times["running"] = response["pid"], now
            if self._timeout > 0:
                task.timer = self._service.reactor.clock.call_later(self._timeout, lambda: self._time_out(task))
        elif response["type"] == "output":
            io = decode_io(response["io"])
            for line in io.data.decode("utf-8", "replace").splitlines():
                level = LOG_ERR if io.stream == "stderr" else LOG_INFO
                text = f'cron-{self.id}[{self.name}]: rank={self.rank}: command="{self.command}": "{line}"'
                self._service.log(level, text)
        elif response["type"] == "finished":
            task.status, task.exited = response["status"], True

    def _time_out(self, task: _Task) -> None:
        task.timed_out = True
        self.kill(signal.SIGTERM)

    def kill(self, signum: int) -> None:
        """Signal the task, if it runs."""
        if self.task is not None and self.task.pid and not self.task.exited:
            self._service.router.rpc("rexec.kill", {"pid": self.task.pid, "signum": signum}, nodeid=self.rank)

    def _finish(self, task: _Task, now: float) -> None:
        task.finished, task.times["end"] = True, now
        if task.timer is not None:
            task.timer.cancel()
        self.task = None
        self._finished = [task, *self._finished][: self._history]
        if task.errnum:
            text = f"cron-{self.id}: failure running {self.command}: {os.strerror(task.errnum)}"
        elif task.status:
            text = f'cron-{self.id}: "{self.command}": Failed: {task.describe_failure()}'
        else:
            self._stats["success"] += 1
            return
        self._service.log(LOG_ERR, text)
        self._stats["failure"] += 1
        self._stats["failcount"] += 1
        if self._stop_on_failure and self._stats["failcount"] >= self._stop_on_failure:
            text = f"cron-{self.id}: exceeded failure limit of {self._stop_on_failure}. stopping"
            self._service.log(LOG_ERR, text)
            if not self.stopped:
                self.stop()

    def json(self) -> dict[str, Any]:
        """Describe the entry, with its tasks, the newest first."""
        value: dict[str, Any] = {
            "id": self.id,
            "rank": self.rank,
            "name": self.name,
            "command": self.command,
            "repeat": self._repeat,
            "stopped": self.stopped,
            "type": self._type,
        }
        if self._timeout >= 0:
            value["timeout"] = self._timeout
        tasks = [task for task in (self.task, *self._finished) if task is not None]
        return value | {
            "stats": self._stats,
            "typedata": self._trigger.json(),
            "tasks": [task.json() for task in tasks],
        }


class CronService(Service):
    """On rank 0 only. ``arguments`` are those of the module, `sync` and `sync_epsilon`: see ``sync``."""

    name = "cron"

    def __init__(self, router: Router, log: BrokerLog, reactor: Reactor, arguments: Mapping[str, str]) -> None:
        super().__init__(router, log)
        self.reactor = reactor
        self._entries: dict[int, _Entry] = {}
        self._deferred: list[_Entry] = []
        self._next = 1
        self._sync_topic = arguments.get("sync")
        self._sync_epsilon = _EPSILON
        if "sync_epsilon" in arguments:
            try:
                self._sync_epsilon = parse_duration(arguments["sync_epsilon"])
            except ProtocolError:
                self.log(LOG_ERR, f"option sync_epsilon={arguments['sync_epsilon']} ignored")
        self._synced = float("-inf")
        router.subscribe("", self._event)

    def end(self) -> None:
        """Run nothing any more: the module is removed."""
        super().end()
        self.router.unsubscribe(self._event)
        for entry in self._entries.values():
            if not entry.stopped:
                entry.stop()
        self._entries.clear()

    def _event(self, message: Message) -> None:
        topic = message.topic or ""
        for entry in list(self._entries.values()):
            entry.event(topic)
        if self._sync_topic is not None and topic.startswith(self._sync_topic) and self._deferred:
            self._synced = self.reactor.clock.monotonic()
            self._run_deferred()

    def _run_deferred(self) -> None:
        deferred, self._deferred = self._deferred, []
        for entry in deferred:
            entry.run()

    def defer(self, entry: _Entry) -> bool:
        """Keep an entry's task for the next sync event, if there is to be one. Return whether that is so."""
        if self._sync_topic is None or self.reactor.clock.monotonic() - self._synced < self._sync_epsilon:
            return False
        self._deferred.append(entry)
        self.log(LOG_DEBUG, f"deferring cron-{entry.id} to next {self._sync_topic} event")
        return True

    def _entry(self, request: Request) -> _Entry:
        entry = self._entries.get(request.field("id", int))
        if entry is None:
            raise FluxError(errno.ENOENT)
        return entry

    @method("create")
    def create(self, request: Request) -> Answer:
        """``{type, name, command, args, ...}`` → the entry."""
        entry = _Entry(self, self._next, request)
        self._next += 1
        self._entries[entry.id] = entry
        entry.start()
        return entry.json()

    @method("delete")
    def delete(self, request: Request) -> Answer:
        """``{id, kill?}`` → the entry as it was."""
        entry = self._entry(request)
        answer = entry.json()
        if request.field("kill", bool, False):
            entry.kill(signal.SIGTERM)
        if not entry.stopped:
            entry.stop()
        self._deferred = [each for each in self._deferred if each is not entry]
        del self._entries[entry.id]
        return answer

    @method("list", roles=ALL)
    def list_entries(self, request: Request) -> Answer:
        """→ ``{entries}``."""
        return {"entries": [entry.json() for entry in self._entries.values()]}

    @method("stop")
    def stop(self, request: Request) -> Answer:
        """``{id}`` → the entry."""
        entry = self._entry(request)
        entry.stop()
        return entry.json()

    @method("start")
    def start(self, request: Request) -> Answer:
        """``{id}`` → the entry."""
        entry = self._entry(request)
        entry.start()
        return entry.json()

    @method("sync")
    def sync(self, request: Request) -> Answer:
        """``{topic?, disable?, sync_epsilon?}`` → ``{sync_event, sync_epsilon}`` or ``{sync_disabled}``."""
        topic = request.field("topic", str, None)
        if topic is not None or request.field("disable", bool, False):
            self._sync_topic = topic
        if topic is not None:
            self.log(LOG_INFO, f"synchronizing cron tasks to event {topic}")
        self._sync_epsilon = _number(request.json(), "sync_epsilon", self._sync_epsilon)
        if self._sync_topic is not None:
            return {"sync_event": self._sync_topic, "sync_epsilon": self._sync_epsilon}
        self._run_deferred()
        return {"sync_disabled": True}

"""Instances that several processes or several runs share: the first one that needs an instance starts it.

A store is a directory with a record for each instance, a JSON file whose name is a key of the instance's shape. The
problem: who starts an instance, and who may end one, if nobody owns the store?

A server process for the store was open, but it would be one more process that can be killed. We use file locks, which
the kernel releases when a process ends, however it ends:

* ``KEY.lock`` is held while an instance is looked up or started, so one process starts it and the others wait.
* ``KEY.use`` is held by every user of the instance for as long as it uses it: shared, or exclusively by a user who
  wants it alone. A user who wants it alone and finds it taken goes on to the next number.
* An instance is ended only under the exclusive lock of ``KEY.use``, thus never while somebody uses it. The time of
  that file is the time of its last use: beyond a limit, the ones that were used least recently are ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_flux.directories import check_private
from pytest_flux.instance.flux_instance import FluxInstance, InstanceError
from pytest_flux.instance.log import InstanceLog
from pytest_flux.instance.ownership import find_process
from pytest_flux.instance.settings import NAMES, Settings, describe

if TYPE_CHECKING:
    import psutil

_STOP_LIMIT = 30.0
_FILES = (".json", ".log", ".baseline")


class Record:
    """An instance in a store: where it is, its settings in words, and the id and creation time of its process."""

    def __init__(self, path: str) -> None:
        self.path = path
        with open(f"{path}.json", encoding="utf-8") as file:
            values: dict[str, Any] = json.load(file)
        self.rundir: str = values["rundir"]
        self.log: str = values["log"]
        self.shape: str = values["shape"]
        self.uri = f"local://{self.rundir}/local-0"
        self._pid: int = values["pid"]
        self._created: float = values["created"]

    def process(self) -> psutil.Process | None:
        """The front of its session; None if that has ended."""
        return find_process(self._pid, self._created)

    def stop(self) -> None:
        """Shut the instance down in order, wait for its end and remove its files."""
        import psutil

        process = self.process()
        if process is not None:
            try:
                process.send_signal(signal.SIGTERM)
                process.wait(_STOP_LIMIT)
            except psutil.TimeoutExpired:
                process.kill()
            except psutil.Error:
                pass
        for suffix in _FILES:
            with contextlib.suppress(OSError):
                os.unlink(self.path + suffix)


class Lease:
    """The use of an instance, from creation to :meth:`close`. ``is_new`` if the instance was started for it."""

    def __init__(self, record: Record, lock: int, *, is_new: bool) -> None:
        self.record = record
        self.is_new = is_new
        self._lock = lock

    def close(self) -> None:
        """End the use. The instance goes on."""
        if self._lock >= 0:
            _unlock(self._lock)
            self._lock = -1


class Store:
    """A directory of instances. It keeps at most ``limit`` that nobody uses; 0 is no limit."""

    def __init__(self, directory: str, limit: int = 0) -> None:
        self.directory = directory
        self._limit = limit

    def lease(self, settings: Settings, lifeline: int, *, alone: bool = False) -> Lease:
        """Use an instance with these settings, which may not be up yet. Raises InstanceError.

        An instance that is started here ends when ``lifeline`` ends or, if that is negative, when it is stopped. With
        ``alone``, nobody else uses it at the same time.
        """
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        try:
            check_private(self.directory)
        except PermissionError as error:
            raise InstanceError(f"{self.directory}: {error.strerror}") from None
        if not alone:
            return self._lease_at(f"{self.directory}/{key_of(settings)}", settings, lifeline, fcntl.LOCK_SH)
        for number in itertools.count():
            path = f"{self.directory}/{key_of(settings)}-{number}"
            with contextlib.suppress(BlockingIOError):
                return self._lease_at(path, settings, lifeline, fcntl.LOCK_EX | fcntl.LOCK_NB)
        raise AssertionError("unreachable")

    def _lease_at(self, path: str, settings: Settings, lifeline: int, how: int) -> Lease:
        """Raises BlockingIOError if the instance is taken."""
        with _locked(f"{path}.lock"):
            lock = _lock(f"{path}.use", how)
            try:
                record = self._load(path)
                is_new = record is None or record.process() is None
                if record is None or is_new:
                    self._make_room(path)
                    record = self._start(settings, path, lifeline)
                return Lease(record, lock, is_new=is_new)
            except BaseException:
                _unlock(lock)
                raise

    def _make_room(self, path: str) -> None:
        """End the instances that nobody uses and that were used least recently, until there is room for one."""
        others = [record for record in self.records() if record.path != path and record.process() is not None]
        excess = len(others) + 1 - self._limit if self._limit else 0
        for record in sorted(others, key=_last_use):
            if excess <= 0:
                return
            with contextlib.suppress(OSError):
                lock = _lock(f"{record.path}.use", fcntl.LOCK_EX | fcntl.LOCK_NB)
                try:
                    record.stop()
                    excess -= 1
                finally:
                    _unlock(lock)

    def _start(self, settings: Settings, path: str, lifeline: int) -> Record:
        import psutil

        for suffix in _FILES:
            with contextlib.suppress(OSError):
                os.unlink(path + suffix)
        log = InstanceLog(f"{path}.log")
        instance = FluxInstance(settings, output=log, lifeline=lifeline)
        instance.begin()
        # Recorded before it runs: if we are killed while it starts, others find it.
        pid, rundir = instance.release()
        log.close()
        values: dict[str, Any] = {"rundir": rundir, "log": f"{path}.log", "pid": pid, "shape": describe(settings)}
        values["created"] = psutil.Process(pid).create_time()
        # A count of the starts, for debugging.
        with open(f"{path}.starts", "a+", encoding="utf-8") as file:
            file.seek(0)
            count = int(file.read() or 0) + 1
            file.truncate(0)
            file.write(str(count))
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            json.dump(values, file)
        os.replace(f"{path}.new", f"{path}.json")
        return Record(path)

    def _load(self, path: str) -> Record | None:
        try:
            return Record(path)
        except (OSError, ValueError, KeyError):
            return None

    def records(self) -> list[Record]:
        """All records that can be read. Raises PermissionError if others may have written them."""
        if not os.path.lexists(self.directory):
            return []
        check_private(self.directory)
        names = sorted(name for name in os.listdir(self.directory) if name.endswith(".json"))
        records = [self._load(f"{self.directory}/{name.removesuffix('.json')}") for name in names]
        return [record for record in records if record is not None]

    def stop_all(self) -> int:
        """Stop all instances and remove their records. Return how many there were. Raises PermissionError."""
        records = self.records()
        for record in records:
            record.stop()
        return len(records)


def key_of(settings: Settings) -> str:
    """A key that is equal for two runs that need the same instance. A time limit does not change the instance."""
    shape = {name: getattr(settings, name) for name in NAMES if name != "timeout"}
    text = json.dumps([shape, sys.executable, os.environ.get("PATH", "")], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def kept_directory() -> str:
    """The directory of the store of instances that one run leaves to the next."""
    return f"{tempfile.gettempdir()}/pytest-flux-{os.getuid()}"


def _last_use(record: Record) -> float:
    try:
        return os.stat(f"{record.path}.use").st_mtime
    except OSError:
        return 0.0


def _lock(path: str, how: int) -> int:
    """Lock a file and note the time in it. Raises BlockingIOError if it is taken, and ``how`` has LOCK_NB."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, how)
        os.utime(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _unlock(descriptor: int) -> None:
    # A forked child may have a copy of the descriptor, so closing ours does not release the lock.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    from filelock import FileLock

    with FileLock(path):
        yield

"""Instances that several processes use, or several runs: found by their settings, started by whoever comes first."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_flux.instance import FluxInstance
from pytest_flux.session.log import InstanceLog
from pytest_flux.settings import NAMES, Settings

if TYPE_CHECKING:
    import psutil

_STOP_LIMIT = 30.0


class Record:
    """An instance in a store: where it is, and its process, which has a number and the time of its creation."""

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, encoding="utf-8") as file:
            values: dict[str, Any] = json.load(file)
        self.rundir: str = values["rundir"]
        self.log: str = values["log"]
        self.uri = f"local://{self.rundir}/local-0"
        self._pid: int = values["pid"]
        self._created: float = values["created"]

    def process(self) -> psutil.Process | None:
        """The front of its session, None if that has ended."""
        import psutil

        try:
            process = psutil.Process(self._pid)
            is_same = abs(process.create_time() - self._created) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return None
        return process if is_same else None

    def stop(self) -> None:
        """Have the instance shut down in order, and wait for its end."""
        import psutil

        process = self.process()
        if process is None:
            return
        try:
            process.send_signal(signal.SIGTERM)
            process.wait(_STOP_LIMIT)
        except psutil.TimeoutExpired:
            process.kill()
        except psutil.Error:
            return


class Store:
    """A directory of records, one for each shape of instance."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def find_or_start(self, settings: Settings, lifeline: int) -> Record:
        """The record of an instance with these settings, which may not be up yet. Raises InstanceError.

        One that is started here ends when ``lifeline`` does; if that is negative, when it is stopped.
        """
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        path = f"{self.directory}/{key_of(settings)}"
        with _locked(f"{path}.lock"):
            record = self._load(f"{path}.json")
            if record is not None and record.process() is not None:
                return record
            return self._start(settings, path, lifeline)

    def _start(self, settings: Settings, path: str, lifeline: int) -> Record:
        import psutil

        log = InstanceLog(f"{path}.log")
        instance = FluxInstance(settings, output=log, lifeline=lifeline)
        instance.begin()
        # Written down before it runs: if we are killed while it starts, others find it.
        pid, rundir = instance.release()
        log.close()
        values: dict[str, Any] = {"rundir": rundir, "log": f"{path}.log", "pid": pid}
        values["created"] = psutil.Process(pid).create_time()
        # How often it was started, for who wonders later on.
        with open(f"{path}.starts", "a+", encoding="utf-8") as file:
            file.seek(0)
            count = int(file.read() or 0) + 1
            file.truncate(0)
            file.write(str(count))
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            json.dump(values, file)
        os.replace(f"{path}.new", f"{path}.json")
        return Record(f"{path}.json")

    def _load(self, path: str) -> Record | None:
        try:
            return Record(path)
        except (OSError, ValueError, KeyError):
            return None

    def records(self) -> list[Record]:
        """What there is."""
        if not os.path.isdir(self.directory):
            return []
        names = sorted(name for name in os.listdir(self.directory) if name.endswith(".json"))
        records = [self._load(f"{self.directory}/{name}") for name in names]
        return [record for record in records if record is not None]

    def stop_all(self) -> int:
        """Stop every instance, and forget it; how many there were."""
        records = self.records()
        for record in records:
            record.stop()
            for name in (record.path, record.log):
                with contextlib.suppress(OSError):
                    os.unlink(name)
        return len(records)


def key_of(settings: Settings) -> str:
    """The same for two runs that want the same."""
    shape = {name: str(getattr(settings, name)) for name in NAMES}
    text = json.dumps([shape, sys.executable, os.environ.get("PATH", "")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def kept_directory() -> str:
    """Where the instances are written down that one run leaves to the next."""
    return f"{tempfile.gettempdir()}/pytest-flux-{os.getuid()}"


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    from filelock import FileLock

    with FileLock(path):
        yield

"""Instances that several processes or several runs share: the first one that needs an instance starts it.

A store is a directory with one JSON file for each shape of instance; a file lock decides who is first.
"""

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

from pytest_flux.directories import check_private
from pytest_flux.instance.flux_instance import FluxInstance, InstanceError
from pytest_flux.instance.log import InstanceLog
from pytest_flux.instance.ownership import find_process
from pytest_flux.instance.settings import NAMES, Settings

if TYPE_CHECKING:
    import psutil

_STOP_LIMIT = 30.0


class Record:
    """An instance in a store: where it is, and the id and creation time of its process."""

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
        """The front of its session; None if that has ended."""
        return find_process(self._pid, self._created)

    def stop(self) -> None:
        """Shut the instance down in order and wait for its end."""
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
    """A directory with a record for each shape of instance."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def find_or_start(self, settings: Settings, lifeline: int) -> Record:
        """Return the record of an instance with these settings, which may not be up yet. Raises InstanceError.

        An instance that is started here ends when ``lifeline`` ends or, if that is negative, when it is stopped.
        """
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        try:
            check_private(self.directory)
        except PermissionError as error:
            raise InstanceError(f"{self.directory}: {error.strerror}") from None
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
        # Recorded before it runs: if we are killed while it starts, others find it.
        pid, rundir = instance.release()
        log.close()
        values: dict[str, Any] = {"rundir": rundir, "log": f"{path}.log", "pid": pid}
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
        return Record(f"{path}.json")

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
        records = [self._load(f"{self.directory}/{name}") for name in names]
        return [record for record in records if record is not None]

    def stop_all(self) -> int:
        """Stop all instances and remove their records. Return how many there were. Raises PermissionError."""
        records = self.records()
        for record in records:
            record.stop()
            for name in (record.path, record.log):
                with contextlib.suppress(OSError):
                    os.unlink(name)
        return len(records)


def key_of(settings: Settings) -> str:
    """A key that is equal for two runs that need the same instance."""
    shape = {name: str(getattr(settings, name)) for name in NAMES}
    text = json.dumps([shape, sys.executable, os.environ.get("PATH", "")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def kept_directory() -> str:
    """The directory of the store of instances that one run leaves to the next."""
    return f"{tempfile.gettempdir()}/pytest-flux-{os.getuid()}"


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    from filelock import FileLock

    with FileLock(path):
        yield

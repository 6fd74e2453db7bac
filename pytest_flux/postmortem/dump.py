"""`open_dump` reads what an instance left behind, without any broker, and changes nothing of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

from pytest_flux.postmortem.job import DumpJob, read_jobs
from pytest_flux.postmortem.kvs import DumpKvs, store_empty_directory
from pytest_flux.protocol.fluid import encode_fluid, parse_fluid

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_DATABASE = "content.sqlite"


class Dump:
    """An archive or a statedir that is open, until ``close`` or the end of a ``with`` block.

    * ``path``: the archive or statedir.
    * ``problems``: a line for each part that could not be read, or had to be repaired in our copy.
    * ``timestamp``: of the checkpoint, in seconds since 1970.
    * ``kvs``: the key-value store as it was (:class:`DumpKvs`).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.problems: list[str] = []
        self._jobs: dict[int, DumpJob] | None = None
        self._directory = tempfile.mkdtemp(prefix="flux-dump-")
        self._close: Callable[[], None] = lambda: None
        try:
            self._provide()
            self._open()
        except BaseException:
            self.close()
            raise

    def _provide(self) -> None:
        """Put a database into our temporary directory."""
        if os.path.isdir(self.path):
            from pytest_flux.postmortem.statedir import copy_state

            self.problems += copy_state(self.path, self._directory)
            return
        from pytest_flux.postmortem.archive import unpack

        with open(self.path, "rb") as file:
            restored = unpack(
                file,
                f"{self._directory}/{_DATABASE}",
                partial=True,
                complain=self.problems.append,
            )
        self.problems += restored.skipped
        if restored.problem:
            self.problems.append(f"{restored.problem}: only {restored.keys} keys were read")

    def _open(self) -> None:
        from pytest_flux.broker.kvs.namespace import choose_checkpoint
        from pytest_flux.content_sqlite import SqliteBacking
        from pytest_flux.postmortem.statedir import SALVAGED_MAX

        backing = SqliteBacking(f"{self._directory}/{_DATABASE}", volatile=True, blob_max=SALVAGED_MAX)
        self._close = backing.close
        checkpoints = backing.checkpoints()
        self.kvs = DumpKvs(backing)
        chosen = choose_checkpoint(checkpoints, self.kvs.tree, self.problems.append)
        if chosen is None:
            # An instance left this that was killed while starting. One that starts from it has an empty store, too.
            self.problems.append(f"{self.path}: there is no checkpoint of a key-value store: it is empty")
            self.kvs.root, self.timestamp = store_empty_directory(backing), 0.0
            return
        self.kvs.root = chosen[0]
        value: dict[str, Any] = next(
            each for each in checkpoints if isinstance(each, dict) and each.get("rootref") == chosen[0]
        )
        self.timestamp = float(value.get("timestamp", 0.0))

    # -- jobs

    def jobs(self) -> list[DumpJob]:
        """All jobs, the latest first. Jobs that cannot be read are in ``problems``."""
        return sorted(self._all_jobs().values(), key=lambda job: (job.t_submit, job.id), reverse=True)

    def job(self, job_id: int | str) -> DumpJob:
        """A job by its id in any form (RFC 19). Raises KeyError if there is none."""
        number = parse_fluid(job_id) if isinstance(job_id, str) else job_id
        try:
            return self._all_jobs()[number]
        except KeyError:
            raise KeyError(f"{self.path}: there is no job {encode_fluid(number)}") from None

    def _all_jobs(self) -> dict[int, DumpJob]:
        if self._jobs is None:
            self._jobs = {job.id: job for job in read_jobs(self.kvs, self.problems.append)}
        return self._jobs

    # -- the end

    def close(self) -> None:
        """Remove our copy."""
        close, self._close = self._close, lambda: None
        close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Dump:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Dump {self.path}>"


def open_dump(path: str | os.PathLike[str]) -> Dump:
    """Open an archive of `flux dump`, or the statedir of an instance that does not run.

    Raises FluxError EBUSY if it does run, ProtocolError or FluxError EINVAL if nothing can be read, OSError.
    """
    return Dump(path)

"""The temporary directories of jobs, one for each shell: ``FLUX_JOB_TMPDIR``."""

from __future__ import annotations

import os
import shutil

from pytest_flux.broker.exec.options import ShellFailure

_MAX_SPARE = 64


class Directories:
    """Makes and removes them. One that no task has touched is used again, which takes a third of the time."""

    def __init__(self, rundir: str, rank: int) -> None:
        self._rundir = rundir
        self._rank = rank
        self._untouched: dict[str, tuple[int, int]] = {}
        self._spare: list[str] = []
        self._made = 0

    def make(self, job: str, shell: int, tmpdir: str) -> str:
        """Make a directory, in the rundir or, if that fails, in ``tmpdir``. ShellFailure.

        ``tmpdir`` may belong to everybody, so the name there is random: nobody else can have made it before.
        (flux-core takes whatever has the name.)
        """
        name = f"jobtmp-{shell}-{job}"
        try:
            return self._make_in_rundir(f"{self._rundir}/{name}")
        except OSError:
            pass
        path = f"{tmpdir}/{name}-{os.urandom(8).hex()}"
        try:
            os.mkdir(path, 0o700)
        except OSError as error:
            raise ShellFailure(f"error creating FLUX_JOB_TMPDIR: {error.strerror}") from None
        self._untouched[path] = _state(path)
        return path

    def _make_in_rundir(self, path: str) -> str:
        if self._spare:
            os.rename(self._spare.pop(), path)
        else:
            os.mkdir(path, 0o700)
        self._untouched[path] = _state(path)
        return path

    def remove(self, path: str) -> None:
        """Remove the directory of a job that is over, with everything in it."""
        state = self._untouched.pop(path, None)
        try:
            if state is None or state != _state(path):
                shutil.rmtree(path, ignore_errors=True)
            elif path.startswith(self._rundir) and len(self._spare) < _MAX_SPARE:
                self._made += 1
                spare = f"{self._rundir}/.jobtmp-{self._rank}-{self._made}"
                os.rename(path, spare)
                self._spare.append(spare)
            else:
                os.rmdir(path)
        except OSError:
            # A process of the job, or whoever removes the rundir, was faster.
            shutil.rmtree(path, ignore_errors=True)

    def destroy(self) -> None:
        """Remove the spare ones."""
        for path in self._spare:
            shutil.rmtree(path, ignore_errors=True)
        self._spare.clear()


def _state(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_mode

"""Removing what a session has put into the file system."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from pytest_flux.launcher.report import report
from pytest_flux.launcher.rundir import Rundir
from pytest_flux.launcher.spec import LaunchError


def remove_leftovers(directories: Iterable[Rundir]) -> None:
    """Remove directories that are ours to remove; from one that is to stay, what brokers have put there.

    Brokers remove that themselves unless they are killed (real ones leave the socket of their overlay even then).
    """
    for directory in directories:
        try:
            directory.remove()
        except LaunchError as error:
            report(str(error))
        if not directory.cleanup:
            _remove_sockets(directory.path)


def _remove_sockets(rundir: str) -> None:
    try:
        for name in os.listdir(rundir):
            path = f"{rundir}/{name}"
            if name.startswith(("start", "local-", "tbon-")) and stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
        # The brokers' own directory, with a link to the flux command in it.
        if os.path.islink(f"{rundir}/bin/flux"):
            os.unlink(f"{rundir}/bin/flux")
            os.rmdir(f"{rundir}/bin")
    except OSError:
        # It is the user's directory, and may be gone.
        return

"""A third guard, which removes what is left if front and supervisor are killed at the same moment.

The problem: front and supervisor watch each other, and embedded brokers watch both (`lifeline.py`). If all of them
get SIGKILL, by the OOM killer or by somebody who kills whatever a search has found, tasks of jobs may live on, and no
process of ours is left to remove the run directory. Real brokers do not watch anybody.

Three ways were open. PR_SET_PDEATHSIG ends children with their parent, but reaches no grandchildren and removes no
directory. Another Python process sees all of it, but costs 10 ms of CPU for each instance if executed and, if forked,
looks like the rest of us, so it is killed with us. So we took a process of a few hundred kilobytes that
has nothing to do with us but a pipe: a shell, with an empty environment, in a session that it leads, whose parent has
ended. It reads the names of directories, and sleeps until the pipe ends.

What must stay true:

* Only front and supervisor hold the writing end of the pipe. At its end both are dead.
* At an orderly end it is dismissed by a line, and does nothing. Otherwise it waits a moment, because whoever lives
  cleans up faster and better.
* It kills only processes whose environment names the instance, in a variable that nobody sets by hand:
  FLUX_START_URI or FLUX_JOB_TMPDIR. FLUX_URI is not among them: people export that in their shells.
* It removes a directory only if it has the inode that it was told.
* Nothing depends on it. If it cannot be started or is killed, everything else works.
"""

from __future__ import annotations

import os

from pytest_flux.launcher.rundir import Rundir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SHELL = "/bin/sh"
_DISMISSAL = b"end\n"
# The parent of the sweeper proper ends at once. The pipe is 3: standard input of a background process is /dev/null.
_SCRIPT = r"""
(
    while IFS= read -r line; do
        [ "$line" = end ] && exit
        set -- "$@" "$line"
    done
    [ $# = 0 ] && exit
    sleep 0.5 || sleep 1
    for line; do
        path=/${line#*/}
        case $line in mark*) ;; *) continue ;; esac
        for round in 1 2 3; do
            found=$(grep -alsF -e "FLUX_START_URI=local://$path/" -e "FLUX_JOB_TMPDIR=$path/" /proc/[0-9]*/environ)
            [ "$found" ] || break
            for file in $found; do
                file=${file#/proc/}
                kill -9 "${file%/environ}"
            done
        done
    done
    for line; do
        path=/${line#*/}
        inode=$(ls -di "$path" | sed 's/^ *//; s/ .*//')
        case $line in "remove $inode /"*) rm -rf "$path" ;; esac
    done
) <&3 3<&- &
"""


class Sweeper:
    """A sweeper that runs. Processes that are forked later share it: it sees the end of the last one."""

    def __init__(self) -> None:
        reader, self._pipe = os.pipe()
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_DUP2, reader, 3)]
        actions += [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in (0, 1, 2)]
        # Not in our directory: it could not be unmounted.
        script = f"cd /{_SCRIPT}"
        self._parent = -1
        try:
            self._parent = os.posix_spawn(
                _SHELL,
                ["flux-sweeper", "-c", script],
                {"PATH": os.defpath},
                file_actions=actions,
                setsid=True,
                setsigmask=(),
            )
        except (OSError, NotImplementedError):
            # There is no such shell, or no more processes, or no posix_spawn that can do it.
            pass
        finally:
            os.close(reader)

    def settle(self) -> None:
        """Wait until the sweeper is no child of ours. Call it once, before becoming a subreaper."""
        if self._parent > 0:
            os.waitpid(self._parent, 0)

    def mark(self, rundir: str) -> None:
        """Have it kill the processes of the instance in this run directory."""
        if os.path.isabs(rundir):
            self._tell(b"mark " + os.fsencode(rundir))

    def remove(self, directory: Rundir) -> None:
        """Have it remove this directory, if we must remove it."""
        if directory.cleanup:
            self._tell(b"remove %d " % directory.identity[1] + os.fsencode(directory.location))

    def dismiss(self) -> None:
        """Send it away: everything is removed."""
        self._write(_DISMISSAL)

    def _tell(self, line: bytes) -> None:
        if b"\n" not in line:
            self._write(line + b"\n")

    def _write(self, line: bytes) -> None:
        try:
            os.write(self._pipe, line)
        except BrokenPipeError:
            return

"""How a broker runs programs: shells, initial programs, environment (flux-core's broker.c and runat.c)."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Mapping, Sequence

_BLOCKED = (
    "FLUX_JOB_ID",
    "FLUX_ENCLOSING_ID",
    "FLUX_JOB_SIZE",
    "FLUX_JOB_NNODES",
    "FLUX_JOB_TMPDIR",
    "FLUX_TASK_RANK",
    "FLUX_TASK_LOCAL_ID",
    "FLUX_URI",
    "FLUX_KVS_NAMESPACE",
    "FLUX_PROXY_REMOTE",
    "PMI_*",
    "PMIX_*",
    "FLUX_PMI_LIBRARY_PATH",
    "I_MPI_PMI_LIBRARY",
    "SLURM_*",
    "NOTIFY_SOCKET",
    "PALS_*",
)


def shell() -> str:
    """The shell that runs command strings."""
    return os.environ.get("SHELL", "/bin/bash")


def program_environ(environ: Mapping[str, str], local_uri: str, jobid: str | None) -> dict[str, str]:
    """The environment of an instance's programs, without what belongs to the job or instance around it."""
    result = {
        name: value
        for name, value in environ.items()
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in _BLOCKED)
    }
    result["FLUX_URI"] = local_uri
    if jobid is not None:
        result["FLUX_ENCLOSING_ID"] = jobid
    return result


def _user_shells() -> set[str]:
    try:
        with open("/etc/shells", encoding="utf-8", errors="replace") as file:
            lines = [line.partition("#")[0].strip() for line in file]
    except OSError:
        lines = ["/bin/sh", "/bin/csh"]
    paths = {line for line in lines if line.startswith("/") and os.path.basename(line) not in ("true", "false")}
    return paths | {os.path.basename(path) for path in paths}


def is_interactive(command: Sequence[str]) -> bool:
    """Whether the initial program is a shell for a person: none given, or the plain name of a login shell."""
    return not command or (len(command) == 1 and command[0] in _user_shells())


def _is_program_file(word: str) -> bool:
    if any(character.isspace() for character in word):
        return False
    try:
        return stat.S_ISREG(os.stat(word).st_mode) and os.access(word, os.X_OK | os.R_OK)
    except OSError:
        return False


def initial_program(command: Sequence[str]) -> list[str]:
    """The argv of the initial program. A word that is neither shell nor program is a command line for a shell."""
    if not command:
        return [shell()]
    if len(command) > 1 or is_interactive(command) or _is_program_file(command[0]):
        return list(command)
    return [shell(), "-c", command[0]]

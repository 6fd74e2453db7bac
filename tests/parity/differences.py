"""What an embedded instance does otherwise than a real one, by name and with the reason. There is nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Difference(NamedTuple):
    """Why it is so.

    ``system_only`` are lines on standard error that real brokers alone print, ``varying`` what in the answers of a
    tool either side says in its own way.
    """

    reason: str
    system_only: tuple[str, ...] = ()
    varying: tuple[str, ...] = ()


DIFFERENCES = {
    "no modules to load": Difference(
        "An embedded broker has its services built in: it loads and unloads none, and says nothing of it.",
        (
            r"broker\.info\[\d+\]: (un)?loading [\w-]+$",
            r"broker\.debug\[\d+\]: (insmod|rmmod) [\w-]+$",
            r"broker\.debug\[\d+\]: module [\w-]+ exited$",
            r"connector-local\.debug\[\d+\]: allow-(guest-user|root-owner)=\w+$",
            r"overlay\.crit\[\d+\]: module exiting abnormally$",
            r"broker\.err\[\d+\]: error loading builtins: overlay is unexpectedly finalizing$",
            r"broker\.err\[\d+\]: overlay: Invalid argument$",
        ),
    ),
    "losses are noticed at once": Difference(
        "A real broker notices the loss of a child when it next sends something there, and the loss of its parent "
        "not at all over ipc://. An embedded one has a socket that ends, and does not wait for what cannot come.",
    ),
    "service errors have texts": Difference(
        "A malformed request is answered EPROTO by both; the embedded broker also says what is wrong with it.",
    ),
    "log-stderr-level is a number": Difference(
        "flux-core takes a level that is no number for 0, which hides everything; the embedded broker refuses it.",
    ),
    "groups are known at once": Difference(
        "flux-core collects changes of groups for a moment and answers before they are applied; embedded brokers "
        "tell rank 0 first.",
    ),
    "no auxiliary channels": Difference(
        "rexec.exec with channels (PMI of flux-shell, in flux-core) is refused with ENOTSUP by embedded brokers.",
    ),
    "modules are compiled": Difference("module.load is refused by embedded brokers: ENOSYS, with the way out."),
    "no ZeroMQ": Difference("Embedded brokers have no sockets of ZeroMQ's, and so none of the attributes for them."),
    "no message counters": Difference(
        "`<module>.stats-get` counts messages in flux-core; embedded services have no queues of their own.",
    ),
    "hostile clients harm themselves": Difference(
        "A frame without content crashes flux-core's broker, and it sets aside as much memory as a client names, or "
        "leaves unread. An embedded broker cuts off clients that break the protocol or exceed its bounds.",
    ),
    "every directory is known": Difference(
        "A real broker makes a temporary statedir that nobody is told of until it answers requests. If it is killed "
        "before, the launcher removes what must be it, unless another Flux that is starting on the machine may have "
        "made it: then that empty directory stays. Embedded brokers have it in the rundir.",
    ),
    "signals are heard from the start": Difference(
        "A real broker takes no notice of signals before its state is join; an embedded one ends at once."
    ),
    "fewer hops": Difference(
        "A request from a client passes through connector-local and the broker's router in flux-core, which a ping "
        "shows as two more hops; in an embedded broker these are one.",
    ),
    "JSON is read by Python": Difference(
        "What is wrong with text that is no JSON, is said in the words of Python's parser instead of jansson's.",
        varying=(r"(?<=invalid JSON: ).*",),
    ),
    "descriptors are numbered as they come": Difference(
        "The number of the descriptor that leads to a task's PMI server has no meaning.",
        varying=(r"(?<=PMI_FD=)\d+",),
    ),
    "no shell plugins": Difference(
        "flux-shell's trace (-o verbose) is about its plugins, of which embedded brokers have none.",
        varying=(r"^\S+: flux-shell\[\d+\]: +(DEBUG|TRACE|stderr|stdout).*",),
    ),
    "the library path is not ours": Difference(
        "flux-core's commands set LD_LIBRARY_PATH for its own libraries.", varying=(r"^LD_LIBRARY_PATH=.*",)
    ),
    "nothing beats, nothing is scheduled by the clock": Difference(
        "An embedded instance has neither heartbeat nor cron: `flux module list` does not show them.",
        varying=(r"^(heartbeat|cron)\b.*",),
    ),
    "no administration log": Difference(
        "flux-core 0.88 begins the KVS of each instance with admin.eventlog; an embedded one with resource.eventlog.",
        varying=(r"^admin\b.*",),
    ),
    "no plugins of shells and brokers": Difference(
        "Options of the job shell that give it code to run, stop tasks for a debugger, or need archives, hwloc or "
        "MPI plugins (initrc, userrc, stop-tasks-in-exec, stage-in, hwloc.xmlfile, mpi=spectrum) are refused by "
        "embedded brokers, which run the tasks themselves.",
    ),
    "tasks end with their shell": Difference(
        "If the process of a job's shell is killed, flux-core leaves its tasks running, as orphans. An embedded "
        "broker kills them.",
    ),
    "directories in /tmp have random names": Difference(
        "FLUX_JOB_TMPDIR has a random name if it cannot be in the rundir: flux-core uses whatever has the name of "
        "the job there, whoever has made it.",
    ),
    "a shell that gives up says so once": Difference(
        "After a fatal error of a job shell, flux-core kills the shell while it is ending: whether the job's exit "
        "code is that of the shell (1) or of the signal (143) depends on who is faster. Embedded: that of the shell.",
    ),
    "no debuggers": Difference(
        "`flux job hostpids` and `attach --debug` ask flux-shell for its proctable (MPIR): ENOSYS here.",
    ),
    "ids are words and emoji in flux-core only": Difference(
        "The tables of words (RFC 19's mnemonics) and emoji are others' work: our `flux` has neither form. The real "
        "tool has them on either side.",
    ),
    "an interrupted wait is no success": Difference(
        "At ^C, `flux submit --wait`, `--watch` and `flux watch` of flux-core exit with 0, although nobody knows how "
        "the jobs came out; ours end by the signal, as other commands do.",
    ),
    "help is in our words": Difference(
        "Help texts, and the usage that precedes mistakes of commands in Python, are our own. `--help` of `flux kvs` "
        "exits with 0; flux-core says 1.",
    ),
    "dates in plain English": Difference(
        "`--begin-time` and `--since` understand durations, the usual forms of dates and times, 'tomorrow', and '5 "
        "minutes ago'; flux-core has a parser of natural language.",
    ),
    "ssh is not needed for the own host": Difference(
        "A URI with the name of the own host is reached without ssh, if its socket is there: `flux alloc --bg` and "
        "`flux proxy` work where no sshd runs.",
    ),
    "job cancel": Difference(
        "`flux job cancel` has gone from flux-core 0.88, which has `flux cancel`; ours has both."
    ),
    "what is missed first": Difference(
        "Of several keys that a jobspec lacks, flux-core's validator names any one, as a set of Python's has them.",
        varying=(r"(?<=Missing key \()\w+",),
    ),
    "words of a few complaints": Difference(
        "What is said of a `per-resource` type, an `exit-timeout` or a `signal.timeleft` that make no sense, by a "
        "second shell of a bad taskmap, and by `flux job purge -f` of an unknown id; how many digits `flux update` "
        "shows. What comes of it, and exit codes, are the same.",
    ),
    "recovery shows all jobs": Difference(
        "In recovery, whoever opened it sees the jobs of all users as their own: on a laptop, one is seldom a user "
        "that the cluster knew. flux-core's `flux jobs` shows them with -A only.",
    ),
    "a full disk refuses commits": Difference(
        "flux-core acknowledges commits that it cannot write, save those with --sync; an embedded instance answers "
        "ENOSPC until there is room.",
    ),
    "traced one by one": Difference(
        "`overlay.trace` tells of an event for each child that it is sent to; flux-core tells once, of none by rank.",
    ),
    "numbers are bounded": Difference(
        "flux-core expands what a message says: jobs of 2^31 tasks, resource sets of any size, constraints of any "
        "depth. An embedded broker refuses what exceeds the limits in `pytest_flux/protocol/limits.py`, by name.",
    ),
    "plugins of job-ingest are chosen by name": Difference(
        "Validators and frobnicators of flux-core are Python files that its workers load, and jobs are refused if "
        "one is missing. An embedded broker has flux-core's own built in; it refuses a configuration with others.",
    ),
    "a bad table is named before anything is loaded": Difference(
        "flux-core's modules check their tables when rc1 loads them, one after another. An embedded broker checks "
        "all of them first, logs the reason in the name of that module, and ends.",
    ),
    "services are there without rc1": Difference(
        "What rc1 loads into a real instance (kvs, content, job-manager and so on) is there from the start.",
    ),
}

_SYSTEM_ONLY = [re.compile(pattern) for difference in DIFFERENCES.values() for pattern in difference.system_only]
_VARYING = [
    re.compile(pattern, re.MULTILINE) for difference in DIFFERENCES.values() for pattern in difference.varying
]


def hide_varying(lines: Sequence[str]) -> list[str]:
    """The answers of a tool without what differs, and without empty lines."""
    text = "\n".join(lines)
    for pattern in _VARYING:
        text = pattern.sub("", text)
    return [line for line in text.splitlines() if line]


def hide_differences(engine: str, stderr: str) -> str:
    """Standard error of an engine without the lines that only real brokers print."""
    if engine == "embedded":
        return stderr
    lines = stderr.splitlines(keepends=True)
    return "".join(line for line in lines if not any(pattern.search(line) for pattern in _SYSTEM_ONLY))


def differs(engine: object, name: str) -> bool:
    """Whether a test has to expect the difference of that name."""
    assert name in DIFFERENCES, f"there is no such difference: {name}"
    return str(engine) == "embedded"

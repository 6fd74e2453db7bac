"""What an embedded instance does otherwise than a real one, by name and with the reason.

``lost`` counts tests of flux-core 0.88's own suite: of 5,524 in 163 files, so many fail for this reason on embedded
brokers under the real tools. The counts are estimates, good to a tenth: a test that fails because an earlier one did
counts with the first. A difference without a count was met elsewhere.
Nobody has read all of flux-core, so there may be others; each one that a test of ours or of flux-core's has met is
here. ``test_differences.py`` fails when one that has a count stops being true.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Difference(NamedTuple):
    """Why it is so.

    ``system_only`` are lines on standard error that real brokers alone print, ``varying`` what in the answers of a
    tool either side says in its own way. ``lost`` counts tests of flux-core's suite (see the module).
    """

    reason: str
    system_only: tuple[str, ...] = ()
    varying: tuple[str, ...] = ()
    lost: int = 0


DIFFERENCES = {
    "modules log less": Difference(
        "An embedded broker has its modules built in: it does not log what they log when they come, go, and work.",
        (
            r"broker\.info\[\d+\]: (un)?loading [\w-]+$",
            r"broker\.debug\[\d+\]: (insmod|rmmod) [\w-]+$",
            r"broker\.debug\[\d+\]: module [\w-]+ exited$",
            r"overlay\.crit\[\d+\]: module exiting abnormally$",
            r"broker\.err\[\d+\]: error loading builtins: overlay is unexpectedly finalizing$",
            r"broker\.err\[\d+\]: overlay: Invalid argument$",
        ),
        lost=46,
    ),
    "losses are noticed at once": Difference(
        "A real broker notices the loss of a child when it next sends something there, and the loss of its parent "
        "not at all over ipc://. An embedded one has a socket that ends, and does not wait for what cannot come.",
    ),
    "service errors have texts": Difference(
        "A malformed request is answered EPROTO by both; the embedded broker also says what is wrong with it.",
        lost=10,
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
        lost=4,
    ),
    "modules are compiled": Difference(
        "module.load of a library, or of a script in Python, is refused by embedded brokers (ENOTSUP).",
        lost=72,
    ),
    "schedulers are built in": Difference(
        "A scheduler of one's own, which speaks to flux-core's job manager (RFC 27), has nobody to speak to.",
        lost=8,
    ),
    "plugins are compiled": Difference(
        "job-manager.jobtap refuses to load plugins: they are libraries for flux-core's job manager.", lost=36
    ),
    "no ZeroMQ": Difference(
        "Embedded brokers have no sockets of ZeroMQ's, and so none of the attributes for them.", lost=31
    ),
    "no hwloc": Difference(
        "`resource.topo-get` and `flux resource reload --xml` are refused by embedded brokers, which count cores "
        "without hwloc.",
        lost=12,
    ),
    "no hooks for tests": Difference(
        "Requests and debug flags that exist for flux-core's own tests (kvs.setroot-pause, flags of the scheduler, "
        "of job-ingest, of connector-local) are unknown to embedded brokers, or set without effect.",
        lost=29,
    ),
    "no libpmi": Difference(
        "Tasks have no FLUX_PMI_LIBRARY_PATH: programs that load libpmi.so find the one of their MPI.", lost=3
    ),
    "no housekeeping": Difference(
        "Resources are free when a job ends; `job-manager.housekeeping` is unknown.", lost=7
    ),
    "no rc1 unless it is named": Difference(
        "An embedded instance runs rc1 and rc3 only if `broker.rc1_path` and `broker.rc3_path` name them: nothing "
        "from flux-core's directories, and no log lines of theirs.",
        lost=25,
    ),
    "every request has one response": Difference(
        "`<module>.stats-get` counts requests in embedded brokers, and takes a response for each; events and "
        "requests that a module sends are not counted.",
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
    "the heart begins later": Difference(
        "The heartbeat of an embedded instance begins two seconds after its start, and cron with its first request, "
        "so that their lines in `flux module list` differ in idle times.",
        varying=(r"^(heartbeat|cron)\b.*",),
    ),
    "no administration log": Difference(
        "flux-core 0.88 begins the KVS of each instance with admin.eventlog; an embedded one with resource.eventlog. "
        "`flux startlog` has nothing to list there, unless scripts post the events.",
        varying=(r"^admin\b.*",),
        lost=5,
    ),
    "no plugins of shells and brokers": Difference(
        "Options of the job shell that give it code to run, stop tasks for a debugger, or need archives, hwloc or "
        "MPI plugins (initrc, userrc, stop-tasks-in-exec, stage-in, hwloc.xmlfile, mpi=spectrum) are refused by "
        "embedded brokers, which run the tasks themselves.",
        lost=141,
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
        lost=2,
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
        "minutes ago'; and natural language if the library dateparser is installed, which the error says otherwise. "
        "flux-core needs the library parsedatetime for that.",
    ),
    "nobody reads": Difference(
        "When the reader of `flux submit --wait` or `bulksubmit` has left, ours go on until the jobs end and exit "
        "with their code, as `flux run` does. flux-core's end with 1, 120 or the code of the jobs, depending on what "
        "they write when. Other commands end by SIGPIPE; flux-core's in Python exit with 1.",
    ),
    "mapped files are copied": Difference(
        "`flux archive create --mmap` makes rank 0 of flux-core map the file; an embedded broker copies it to its "
        "content store, where later changes of the file do no harm.",
    ),
    "filemap": Difference("flux-core warns that `flux filemap` is deprecated, and obeys; ours refuses it."),
    "pstree counts": Difference(
        "`flux pstree --count` limits the jobs of each instance, as the manual says; flux-core 0.88 ignores it."
    ),
    "no values below values": Difference(
        "`flux config set a.b.c` with a string in a.b is refused; flux-core says nothing and changes nothing.",
    ),
    "units of cron": Difference(
        "`flux cron` refuses a time that it does not understand; flux-core's acts as if the option were not there. "
        "flux-core has days of 56400 s there.",
    ),
    "certificates and plugins": Difference(
        "`flux keygen` and `flux jobtap load` are refused with the reason; `flux config builtin` has the paths that "
        "an embedded instance uses, and refuses those of parts that are in flux-core only.",
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
        "What rc1 loads into a real instance (kvs, content, job-manager and so on) is there from the start, unless "
        "the instance has an rc1 of its own. A request to load one of these modules then succeeds once.",
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

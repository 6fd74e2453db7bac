"""`flux job`: the subcommands about single jobs."""

from __future__ import annotations

import sys

from pytest_flux.cli.command import Command, CommandError, Context, run_command
from pytest_flux.cli.commands import Entry, find_entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.options import Options

# Those without a summary are not shown, as in flux-core.
TABLE = (
    Entry("list", "jobs.lookup", ""),
    Entry("list-inactive", "jobs.lookup", ""),
    Entry("list-ids", "jobs.lookup", ""),
    Entry("urgency", "jobs.control", "Set job urgency (0-31, HOLD, EXPEDITE, DEFAULT)"),
    Entry("cancel", "jobs.control", "Cancel one or more jobs"),
    Entry("raise", "jobs.control", "Raise exception on one or more jobs"),
    Entry("raiseall", "jobs.control", "Raise an exception on multiple jobs."),
    Entry("kill", "jobs.control", "Send signal to one or more running jobs"),
    Entry("killall", "jobs.control", "Send signal to multiple running jobs"),
    Entry("attach", "jobs.attach", "Interactively attach to job"),
    Entry("status", "jobs.wait", "Wait for job(s) to complete and exit with largest exit code"),
    Entry("submit", "jobs.control", "Submit a jobspec"),
    Entry("id", "jobs.lookup", "Convert jobid(s) to another form"),
    Entry("eventlog", "jobs.wait", "Display eventlog for a job"),
    Entry("wait-event", "jobs.wait", "Wait for an event"),
    Entry("info", "jobs.lookup", "Display info for a job"),
    Entry("stats", "jobs.lookup", "Get current job stats"),
    Entry("namespace", "jobs.lookup", "Convert job ids to job guest kvs namespace names"),
    Entry("wait", "jobs.wait", "Wait for job(s) to complete."),
    Entry("memo", "jobs.control", "Post an RFC 21 memo to a job"),
    Entry("taskmap", "jobs.lookup", "Utility function for working with job task maps"),
    Entry("timeleft", "jobs.lookup", "Find remaining runtime for job or enclosing instance"),
    Entry("last", "jobs.lookup", "List my most recently submitted job id(s)"),
    Entry("purge", "jobs.control", "Purge the oldest inactive jobs"),
)
_LACKING = ("hostpids",)


def job(options: Options, context: Context) -> int:
    """Run the subcommand."""
    name, *words = options.arguments or [""]
    entry = find_entry(name, TABLE)
    if entry is not None:
        return run_command(entry.load(), words)
    if name in _LACKING:
        raise CommandError(f"{name} needs flux-core: it asks flux-core's job shell")
    if name.startswith("-") and name not in ("-h", "--help"):
        sys.stderr.write(f"flux-job: unrecognized option '{name}'\n")
        sys.stderr.write("Try `flux-job --help' for more information.\n")
        return 1
    sys.stderr.write("Usage: flux-job [OPTIONS] COMMAND ARGS\n  -h, --help             Display this message.\n")
    sys.stderr.write("\nCommon commands from flux-job:\n")
    sys.stderr.writelines(f"   {entry.name:<15} {entry.summary}\n" for entry in TABLE if entry.summary)
    return 1


COMMANDS = (Command("flux-job", job, usage="[OPTIONS] COMMAND ARGS", takes_all=True),)

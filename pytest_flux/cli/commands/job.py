"""`flux job`: everything about single jobs. What its subcommands do is in the modules `job_*`."""

from __future__ import annotations

import sys

from pytest_flux.cli.commands.command import Command, CommandError, Context, run_command
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.options import Options


class Entry(NamedTuple):
    """A subcommand: its name, the module that has it, what `flux job --help` says."""

    name: str
    module: str
    summary: str

    def load(self) -> Command:
        """Import it."""
        module = __import__(f"pytest_flux.cli.commands.{self.module}", fromlist=["COMMANDS"])
        commands: tuple[Command, ...] = module.COMMANDS
        return next(command for command in commands if command.name == self.name)


# As in flux-core, those without a summary are not shown.
TABLE = (
    Entry("list", "job_list", ""),
    Entry("list-inactive", "job_list", ""),
    Entry("list-ids", "job_list", ""),
    Entry("urgency", "job_control", "Set job urgency (0-31, HOLD, EXPEDITE, DEFAULT)"),
    Entry("cancel", "job_signal", "Cancel one or more jobs"),
    Entry("raise", "job_signal", "Raise exception on one or more jobs"),
    Entry("raiseall", "job_signal", "Raise an exception on multiple jobs."),
    Entry("kill", "job_signal", "Send signal to one or more running jobs"),
    Entry("killall", "job_signal", "Send signal to multiple running jobs"),
    Entry("attach", "job_attach", "Interactively attach to job"),
    Entry("status", "job_wait", "Wait for job(s) to complete and exit with largest exit code"),
    Entry("submit", "job_control", "Submit a jobspec"),
    Entry("id", "job_info", "Convert jobid(s) to another form"),
    Entry("eventlog", "job_eventlog", "Display eventlog for a job"),
    Entry("wait-event", "job_eventlog", "Wait for an event"),
    Entry("info", "job_info", "Display info for a job"),
    Entry("stats", "job_list", "Get current job stats"),
    Entry("namespace", "job_info", "Convert job ids to job guest kvs namespace names"),
    Entry("wait", "job_wait", "Wait for job(s) to complete."),
    Entry("memo", "job_control", "Post an RFC 21 memo to a job"),
    Entry("taskmap", "job_taskmap", "Utility function for working with job task maps"),
    Entry("timeleft", "job_info", "Find remaining runtime for job or enclosing instance"),
    Entry("last", "job_info", "List my most recently submitted job id(s)"),
    Entry("purge", "job_control", "Purge the oldest inactive jobs"),
)
_LACKING = ("hostpids",)


def run(options: Options, context: Context) -> int:
    """Run the subcommand."""
    name, *words = options.arguments or [""]
    entry = next((entry for entry in TABLE if entry.name == name), None)
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


COMMAND = Command("flux-job", run, usage="[OPTIONS] COMMAND ARGS", takes_all=True)

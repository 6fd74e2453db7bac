"""The commands of `flux`. One table says where each of them lives.

To add a command ``flux NAME``:

1. Choose the folder by what the command is about, and a module in it, or make a new module.
2. Write a function that takes :class:`~pytest_flux.options.Options` and :class:`~pytest_flux.cli.command.Context` and
   returns the exit code. Put a :class:`~pytest_flux.cli.command.Command` with that function, the options and the help
   text into the module's tuple ``COMMANDS``. Commands that are Python programs in Flux are
   :class:`~pytest_flux.cli.arguments.ArgumentCommand`.
3. Add a line to ``TABLE`` below. `flux` imports a module only when one of its commands runs.

A subcommand of `flux job` has its line in ``jobs/job.py`` instead. Other subcommands stand in the ``subcommands`` of
their command.
"""

from __future__ import annotations

from pytest_flux.options import Option
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_flux.cli.command import Command

OPTIONS = (
    Option("verbose", "v", usage="Show the environment of the command, and how it is found"),
    Option("version", "V", usage="Show versions of commands and broker"),
    Option("parent", "p", usage="Act on the instance that this one runs in; may be repeated"),
    Option("root", "r", usage="Act on the outermost instance"),
)
"""The options of `flux` itself, before the command."""

INSTANCE = "look at the instance"
CONTROL = "change things, run things"
OTHER = "other commands"
"""Sections of ``flux help``, in this order."""


class Entry(NamedTuple):
    """One command: its name, its module below this package, its line in the help text and the section of that."""

    name: str
    module: str
    summary: str
    section: str = ""

    def load(self) -> Command:
        """Import the command, which is the only one in its module whose full name ends with ``name``."""
        commands: tuple[Command, ...] = __import__(f"{__name__}.{self.module}", fromlist=["COMMANDS"]).COMMANDS
        return next(command for command in commands if command.name == self.name)


TABLE = (
    Entry("getattr", "instance.attr", "print a broker attribute", INSTANCE),
    Entry("lsattr", "instance.attr", "list broker attributes", INSTANCE),
    Entry("uptime", "instance.uptime", "tell how long the instance has been running", INSTANCE),
    Entry("overlay", "instance.overlay", "show the tree of brokers and its health", INSTANCE),
    Entry("dmesg", "instance.log", "print or clear the broker's log", INSTANCE),
    Entry("clock", "instance.clock", "(pytest-flux) show or move the time of the instance", INSTANCE),
    Entry("ping", "instance.ping", "measure the way to a broker or service", INSTANCE),
    Entry("module", "instance.module", "list the broker's modules", INSTANCE),
    Entry("config", "instance.config", "print the broker's configuration", INSTANCE),
    Entry("setattr", "instance.attr", "set a broker attribute", CONTROL),
    Entry("run", "submit.submit", "run a job, with its output here", CONTROL),
    Entry("submit", "submit.submit", "submit a job", CONTROL),
    Entry("replay", "jobs.replay", "(pytest-flux) run the jobs of a trace in an instance whose time jumps", CONTROL),
    Entry("bulksubmit", "submit.submit", "submit a job for each of a list of inputs", CONTROL),
    Entry("jobs", "jobs.jobs", "list jobs", INSTANCE),
    Entry("resource", "resource.resource", "show resources; drain and undrain nodes", INSTANCE),
    Entry("R", "resource.resource_sets", "make, combine and print resource sets", INSTANCE),
    Entry("hostlist", "resource.hostlist", "combine lists of hosts", INSTANCE),
    Entry("queue", "resource.queue", "show queues; stop, start, enable and disable them", INSTANCE),
    Entry("watch", "submit.watch", "print the output of jobs, and wait for them", INSTANCE),
    Entry("uri", "instance.proxy", "tell where an instance is", INSTANCE),
    Entry("pstree", "jobs.pstree", "show jobs as a tree", INSTANCE),
    Entry("jobtap", "jobs.jobtap", "list plugins of the job manager", INSTANCE),
    Entry("top", "instance.top", "show the instance and its running jobs on a terminal", INSTANCE),
    Entry("startlog", "instance.startlog", "list when the instance was started and shut down", INSTANCE),
    Entry("pgrep", "jobs.pgrep", "find jobs by name", INSTANCE),
    Entry("pkill", "jobs.pgrep", "cancel jobs by name", CONTROL),
    Entry("cancel", "jobs.change", "cancel jobs", CONTROL),
    Entry("update", "jobs.change", "change what jobs ask for", CONTROL),
    Entry("job", "jobs.job", "attach to jobs, wait for them, control them", CONTROL),
    Entry("batch", "submit.nested", "submit a script that runs in an instance of its own", CONTROL),
    Entry("alloc", "submit.nested", "start an instance as a job", CONTROL),
    Entry("post-job-event", "jobs.jobtap", "post an event to a job", CONTROL),
    Entry("proxy", "instance.proxy", "run a command in the environment of an instance", CONTROL),
    Entry("exec", "exec.exec", "run a program next to each broker", CONTROL),
    Entry("multi-prog", "exec.multi_prog", "run another program for each task of a job", CONTROL),
    Entry("cron", "instance.cron", "run commands at intervals, at dates and upon events", CONTROL),
    Entry("sproc", "exec.sproc", "list, kill or wait for programs that exec left running", CONTROL),
    Entry("event", "instance.event", "publish events, or watch them", CONTROL),
    Entry("kvs", "kvs.kvs", "read, write and follow keys of the key-value store", CONTROL),
    Entry("content", "content.content", "load and store blobs", CONTROL),
    Entry("archive", "content.files", "keep files in the key-value store, and copy them from there", CONTROL),
    Entry("dump", "content.archive", "write the key-value store to an archive", CONTROL),
    Entry("restore", "content.archive", "read an archive into the key-value store", CONTROL),
    Entry("fsck", "content.fsck", "find what is missing in the content store, and repair that", CONTROL),
    Entry("logger", "instance.log", "write to the broker's log", CONTROL),
    Entry("shutdown", "instance.lifecycle", "stop the instance", CONTROL),
    Entry("start", "instance.lifecycle", "start an instance", OTHER),
    Entry("broker", "instance.lifecycle", "be a broker (start does this for you)", OTHER),
    Entry("relay", "instance.proxy", "be the far end of an ssh connection to a broker", OTHER),
    Entry("pmi", "instance.pmi", "try out the process management interface", OTHER),
    Entry("python", "instance.env", "run Python in the environment of commands", OTHER),
    Entry("lptest", "instance.utilities", "print lines of regular output, for tests of standard I/O", OTHER),
    Entry("keygen", "instance.utilities", "make a certificate (only in flux-core)", OTHER),
    Entry("filemap", "content.files", "deprecated: use archive", OTHER),
    Entry("env", "instance.env", "print the environment of commands, or run one in it", OTHER),
    Entry("version", "instance.version", "print versions", OTHER),
    Entry("help", "help", "print this text, or that of a command", OTHER),
)

# Commands of flux-core 0.88 that do not exist here. Commands that only flux-core's own programs call are left out.
LACKING = frozenset(("admin cgroup fortune gc heaptrace housekeeping modprobe terminus").split())


def find_entry(name: str, table: Iterable[Entry] = TABLE) -> Entry | None:
    """Return the entry of that name, if there is one."""
    return next((entry for entry in table if entry.name == name), None)

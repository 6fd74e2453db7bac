"""The commands of `flux`: this table is the list of them, and each has a module of its own.

A module has ``COMMAND``, a :class:`~pytest_flux.cli.commands.command.Command`: its options, its help, what it
does. To add a command, write the module and one line here.
"""

from __future__ import annotations

from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.cli.commands.command import Command

INSTANCE = "look at the instance"
CONTROL = "change things, run things"
OTHER = "other commands"
"""Sections of ``flux help``, in this order."""


class Entry(NamedTuple):
    """One command: what it is called, where ``flux help`` lists it, what it does."""

    name: str
    section: str
    summary: str

    def load(self) -> Command:
        """Import the command."""
        module = __import__(f"{__name__}.{self.name}", fromlist=["COMMAND"])
        command: Command = module.COMMAND
        return command


TABLE = (
    Entry("getattr", INSTANCE, "print a broker attribute"),
    Entry("lsattr", INSTANCE, "list broker attributes"),
    Entry("uptime", INSTANCE, "tell how long the instance has been running"),
    Entry("overlay", INSTANCE, "show the tree of brokers and its health"),
    Entry("dmesg", INSTANCE, "print or clear the broker's log"),
    Entry("ping", INSTANCE, "measure the way to a broker or service"),
    Entry("module", INSTANCE, "list the broker's modules"),
    Entry("config", INSTANCE, "print the broker's configuration"),
    Entry("setattr", CONTROL, "set a broker attribute"),
    Entry("run", CONTROL, "run a job, with its output here"),
    Entry("submit", CONTROL, "submit a job"),
    Entry("bulksubmit", CONTROL, "submit a job for each of a list of inputs"),
    Entry("jobs", INSTANCE, "list jobs"),
    Entry("resource", INSTANCE, "show resources; drain and undrain nodes"),
    Entry("queue", INSTANCE, "show queues; stop, start, enable and disable them"),
    Entry("watch", INSTANCE, "print the output of jobs, and wait for them"),
    Entry("uri", INSTANCE, "tell where an instance is"),
    Entry("pgrep", INSTANCE, "find jobs by name"),
    Entry("pkill", CONTROL, "cancel jobs by name"),
    Entry("cancel", CONTROL, "cancel jobs"),
    Entry("update", CONTROL, "change what jobs ask for"),
    Entry("job", CONTROL, "attach to jobs, wait for them, control them"),
    Entry("batch", CONTROL, "submit a script that runs in an instance of its own"),
    Entry("alloc", CONTROL, "start an instance as a job"),
    Entry("proxy", CONTROL, "run a command in the environment of an instance"),
    Entry("exec", CONTROL, "run a program next to each broker"),
    Entry("sproc", CONTROL, "list, kill or wait for programs that exec left running"),
    Entry("event", CONTROL, "publish events, or watch them"),
    Entry("kvs", CONTROL, "read, write and follow keys of the key-value store"),
    Entry("content", CONTROL, "load and store blobs"),
    Entry("dump", CONTROL, "write the key-value store to an archive"),
    Entry("restore", CONTROL, "read an archive into the key-value store"),
    Entry("fsck", CONTROL, "find what is missing in the content store, and repair that"),
    Entry("logger", CONTROL, "write to the broker's log"),
    Entry("shutdown", CONTROL, "stop the instance"),
    Entry("start", OTHER, "start an instance"),
    Entry("broker", OTHER, "be a broker (start does this for you)"),
    Entry("relay", OTHER, "be the far end of an ssh connection to a broker"),
    Entry("pmi", OTHER, "try out the process management interface"),
    Entry("env", OTHER, "print the environment of commands, or run one in it"),
    Entry("version", OTHER, "print versions"),
    Entry("help", OTHER, "print this text, or that of a command"),
)

# Commands of flux-core 0.88 that are not here (those that its own commands call are not listed).
LACKING = frozenset(
    (
        "admin archive cgroup cron fortune gc heaptrace hostlist "
        "housekeeping jobtap keygen lptest modprobe multi-prog post-job-event pstree "
        "python R startlog terminus top"
    ).split()
)


def find_entry(name: str) -> Entry | None:
    """The entry of that name, if there is one."""
    return next((entry for entry in TABLE if entry.name == name), None)

"""The options of commands that submit jobs, and the request that a command line makes with them."""

from __future__ import annotations

import os

from pytest_flux.options import Option, OptionExit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_flux.options import Option, Options

COMMON = (
    Option("bank", "B", "BANK", usage="Submit to this bank"),
    Option("queue", "q", "NAME", usage="Submit to this queue"),
    Option("time-limit", "t", "MIN|FSD", usage="Time limit: minutes, or with a unit, as 30s, 2d, 1.5h"),
    Option("urgency", argument="N", usage="Urgency: 0 to 31, hold, default (16), expedite"),
    Option("job-name", argument="NAME", usage="A name for the job"),
    Option(
        "setopt", "o", "OPT[=VAL]", usage="Set an option of the job shell, to 1 unless told; ^OPT=FILE reads JSON"
    ),
    Option("setattr", "S", "ATTR[=VAL]", usage="Set an attribute of the job, in the same way"),
    Option("add-file", argument="[NAME=]PATH", usage="Give the job a file, which it finds in {{tmpdir}}"),
    Option("dependency", argument="URI", usage="Start after another job or condition (RFC 26)"),
    Option("requires", argument="CONSTRAINT", usage="Run only on nodes like this (RFC 35)"),
    Option("begin-time", argument="+FSD|TIME", usage="Do not start before"),
    Option(
        "env", argument="RULE", usage="NAME=VALUE sets, PATTERN takes from here, -PATTERN removes, ^FILE reads rules"
    ),
    Option("env-remove", argument="PATTERN", usage="Remove variables from the environment"),
    Option("env-file", argument="FILE", usage="Read rules for the environment from a file"),
    Option("rlimit", argument="RULE", usage="NAME takes our limit, NAME=VALUE sets it, -PATTERN leaves it"),
    Option("input", argument="FILENAME", usage="Read stdin from a file"),
    Option("output", argument="FILENAME", usage="Write stdout to a file"),
    Option("error", argument="FILENAME", usage="Write stderr to a file"),
    Option("unbuffered", "u", usage="Do not buffer input and output"),
    Option("label-io", "l", usage="Begin each line of output with the task's rank"),
    Option("cwd", argument="DIRECTORY", usage="Run in this directory"),
    Option("flags", argument="FLAGS", usage="Flags of the submission: debug, waitable, novalidate"),
    Option("signal", argument="[SIG][@TIME]", usage="Send a signal this long before the time limit (USR1@60s)"),
    Option("dry-run", usage="Print the jobspec only"),
    Option("quiet", usage="Do not print the job's id"),
    Option("list-plugins", hidden=True),
    Option("debug-emulate", hidden=True),
    Option("dry", hidden=True),
    Option("require", argument="CONSTRAINT", hidden=True),
)
TASKS = (
    Option("taskmap", argument="URI", usage="Place tasks: block, cyclic, cyclic:N, manual:TASKMAP"),
    Option("nodes", "N", "N", usage="Number of nodes"),
    Option("exclusive", "x", usage="Whole nodes, with --nodes"),
    Option("ntasks", "n", "N", usage="Number of tasks"),
    Option("cores-per-task", "c", "N", usage="Cores for each task"),
    Option("gpus-per-task", "g", "N", usage="GPUs for each task"),
    Option("cores", argument="N", usage="Number of cores in all; not with options for each task"),
    Option("tasks-per-node", argument="N", usage="So many tasks on each node"),
    Option("tasks-per-core", argument="N", usage="So many tasks on each core"),
    Option("gpus-per-node", argument="N", usage="So many GPUs on each node"),
    Option(
        "mock",
        argument="FSD[,status=N][,exception=init|run]",
        usage="(pytest-flux) Run nothing: the job only takes time, and ends with an exit code or exception",
    ),
    Option("verbose", "v", usage="Say more on stderr; may be repeated"),
)
BULK = (
    Option(
        "cc", argument="IDSET", usage="A job for each of these, which know theirs as FLUX_JOB_CC; {cc} stands for it"
    ),
    Option("bcc", argument="IDSET", usage="The same without FLUX_JOB_CC"),
    Option("wait-event", argument="NAME", usage="Wait for this event of each job"),
    Option("wait", usage="Wait for all jobs; the exit code is the highest"),
    Option("watch", usage="Print the output of all jobs"),
    Option("log", argument="FILE", usage="Print ids and messages to a file"),
    Option("log-stderr", argument="FILE", usage="Print messages to another file"),
    Option("progress", usage="Show a progress bar, on a terminal"),
    Option("jps", usage="With it, show jobs per second"),
)
NEST = (
    Option("add-brokers", argument="N", hidden=True),
    Option("conf", argument="CONF", usage="Configure the instance: KEY=VALUE, a file in TOML or JSON, or its text"),
    Option("broker-opts", argument="OPTS", usage="Options for its brokers"),
    Option("dump", argument="FILE", optional=True, usage="Dump the instance's KVS at the end"),
    Option("nslots", "n", "N", usage="Number of slots"),
    Option("cores-per-slot", "c", "N", usage="Cores for each slot"),
    Option("gpus-per-slot", "g", "N", usage="GPUs for each slot"),
    Option("nodes", "N", "N", usage="Number of nodes"),
    Option("exclusive", "x", usage="Whole nodes, with --nodes"),
    Option("broker-opt", argument="OPTS", hidden=True),
)


def _begin_time(text: str) -> str:
    from pytest_flux.cli.moment import parse_moment
    from pytest_flux.client.clock import present_time

    return f"begin-time:{parse_moment(text, present_time())}"


def _same(text: str) -> str:
    return text


# An option that counts as another one keeps its place among the appearances of that one.
REWRITES: dict[str, tuple[str, Callable[[str], str]]] = {
    "env-remove": ("env", "-{}".format),
    "env-file": ("env", "^{}".format),
    "begin-time": ("dependency", _begin_time),
    "require": ("requires", _same),
    "dry": ("dry-run", _same),
}
NEST_REWRITES = {**REWRITES, "broker-opt": ("broker-opts", _same)}

_LIST_SEPARATOR = "::list::"
_NOT_FILLED_IN = frozenset(("add-file", "rlimit", "bank", "define", "sep", "conf", "broker-opts"))


class Request:
    """What a command line asks for: arguments of options, in order, flags, and the words of the job's command."""

    __slots__ = ("changed", "command", "flags", "values")

    def __init__(self, values: dict[str, list[str]], flags: Mapping[str, int], command: list[str]) -> None:
        self.values = values
        self.flags = flags
        self.command = command
        self.changed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, options: Options, table: Sequence[Option]) -> Request:
        """Make a request from a command line with this option table."""
        names = [option.name for option in table if option.name]
        values = {name: options.all(name) for name in names if options.all(name)}
        return cls(values, {name: options.count(name) for name in names}, list(options.arguments))

    def has(self, name: str) -> bool:
        """Return whether the option appeared."""
        return bool(self.flags.get(name))

    def count(self, name: str) -> int:
        """Return how often the option appeared."""
        return self.flags.get(name, 0)

    def get(self, name: str) -> str | None:
        """Return the last argument of the option."""
        values = self.values.get(name)
        return values[-1] if values else None

    def all(self, name: str) -> list[str]:
        """Return all arguments of the option."""
        return self.values.get(name, [])

    def number(self, name: str) -> int | None:
        """Return the last argument of the option as a number. Raises ValueError."""
        text = self.get(name)
        if not text:
            return None
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"--{name}: invalid int value '{text}'") from None

    def filled(
        self, inputs: Sequence[str] = (), methods: Mapping[str, str] | None = None, **names: object
    ) -> Request:
        """Return a copy in which ``{}``, ``{0.%}``, ``{cc}`` and the like are replaced, but not mustache templates.

        Raises OptionExit for a replacement field that has no value.
        """
        wrapped = [Input(text, methods or {}) for text in inputs]
        command: list[str] = []
        for word in self.command:
            try:
                filled = _fill(word, wrapped, names).split(_LIST_SEPARATOR)
            except (IndexError, KeyError, ValueError) as error:
                if isinstance(error, ValueError) and "method" in str(error):
                    raise
                raise _refusal(f"Invalid replacement string in command: '{word}'") from None
            command += filled
        values: dict[str, list[str]] = {}
        changed = set()
        for name, texts in self.values.items():
            values[name] = texts if name in _NOT_FILLED_IN else [_fill_option(name, t, wrapped, names) for t in texts]
            if values[name] != texts or name == "cc":
                changed.add(name)
        copy = Request(values, self.flags, command)
        copy.changed = frozenset(changed)
        return copy

    def __str__(self) -> str:
        order = {name: place for place, name in enumerate(_ORDER)}
        names = sorted(self.changed, key=lambda name: order.get(name, len(order)))
        changes = [f"{_FORMS.get(name, f'--{name}=')}{self._shown(name)}" for name in names]
        return " ".join([*changes, *self.command])

    def _shown(self, name: str) -> str:
        values = self.values[name]
        return str(values) if name in _LISTS else values[-1]


_FORMS = {"queue": "-q", "bank": "-B", "ntasks": "-n", "nodes": "-N", "cores-per-task": "-c", "gpus-per-task": "-g"}
_FORMS |= {"time-limit": "-t", "setopt": "-o "}
_ORDER = (
    "queue bank ntasks nodes cores-per-task gpus-per-task cores tasks-per-node tasks-per-core gpus-per-node "
    "time-limit env urgency setopt setattr job-name input output error cc bcc log log-stderr dependency taskmap "
    "requires wait-event cwd flags begin-time signal"
).split()
"""The order in which flux-core shows replaced options."""
_LISTS = frozenset(("env", "setopt", "setattr", "dependency", "requires", "flags"))


class Input:
    """One input of `flux bulksubmit`. Its attributes give parts of the input to format strings."""

    __slots__ = ("methods", "text")

    def __init__(self, text: str, methods: Mapping[str, str]) -> None:
        self.text = text
        self.methods = methods

    def __str__(self) -> str:
        return self.text

    def __format__(self, spec: str) -> str:
        return format(self.text, spec)

    def __getattr__(self, name: str) -> object:
        if name == "%":
            return os.path.splitext(self.text)[0]
        if name == "/":
            return os.path.basename(self.text)
        if name == "//":
            return os.path.dirname(self.text)
        if name == "/%":
            return os.path.basename(os.path.splitext(self.text)[0])
        if name not in self.methods:
            raise ValueError(f"Unknown input string method '.{name}'")
        # The code comes from the user's --define, as in flux-core.
        result = eval(self.methods[name], {}, {"x": self.text})
        return _LIST_SEPARATOR.join(result) if isinstance(result, list) else result


def _refusal(text: str) -> OptionExit:
    # Flux, too, reports this in the name of `flux`.
    return OptionExit(1, f"flux: ERROR: {text}\n")


def _fill(text: str, inputs: Sequence[Input], names: Mapping[str, object]) -> str:
    if "{" not in text and "}" not in text:
        return text
    protected = text.replace("{{", "\0<").replace("}}", "\0>")
    return protected.format(*inputs, **names).replace("\0<", "{{").replace("\0>", "}}")


def _fill_option(name: str, text: str, inputs: Sequence[Input], names: Mapping[str, object]) -> str:
    shown = _FORMS.get(name, f"--{name}=")
    try:
        return _fill(text, inputs, names)
    except IndexError:
        raise _refusal(f"Invalid replacement index in {shown}{text}'") from None
    except KeyError as error:
        raise _refusal(f"Replacement key {error} not found in '{shown}{text}'") from None

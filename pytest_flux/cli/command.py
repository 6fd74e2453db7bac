"""What every command of `flux` consists of: options, help, errors and the connection to the instance."""

from __future__ import annotations

import errno
import os
import sys

from pytest_flux.client import Flux
from pytest_flux.options import Option, OptionExit, OptionParser, Options
from pytest_flux.protocol.errors import FluxError, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Run = Callable[[Options, "Context"], int]


COLOR = Option(
    "color",
    "L",
    "WHEN",
    optional=True,
    attached=True,
    usage="Use color: 'always' (also without WHEN), 'never', or 'auto', when on a terminal (default)",
)

SIZE_UNITS = {"": 0, "k": 10, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50, "E": 60}
"""Suffixes of sizes, as powers of two."""


class CommandError(Exception):
    """The command failed: the text goes to stderr with the command's name before it, ``status`` is the exit code."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


class Command:
    """A command, or a subcommand: ``program`` is its full name as Flux's messages show it (`flux getattr`).

    A command with ``subcommands`` does nothing by itself; they find its options in their context. ``prefix`` is the
    name in front of errors where it is not the program's first two words. One that ``takes_all`` reads its command
    line itself.
    """

    __slots__ = (
        "options",
        "permute",
        "prefix",
        "program",
        "run",
        "subcommands",
        "summary",
        "takes_all",
        "usage",
    )

    def __init__(
        self,
        program: str,
        run: Run | None = None,
        *,
        usage: str = "[OPTIONS]",
        summary: str = "",
        options: Sequence[Option] = (),
        subcommands: Sequence[Command] = (),
        prefix: str = "",
        permute: bool = False,
        takes_all: bool = False,
    ) -> None:
        self.program = program
        self.takes_all = takes_all
        self.run = run
        self.usage = usage
        self.summary = summary
        self.options = tuple(options)
        self.subcommands = tuple(subcommands)
        self.prefix = prefix or "-".join(
            program.split(" ")[:2] if program.startswith("flux ") else program.split()[:1]
        )
        self.permute = permute

    @property
    def name(self) -> str:
        """The last word of the full name."""
        return self.program.split(" ")[-1].removeprefix("flux-")

    def parser(self) -> OptionParser:
        """A parser of the command's options, whose help text is complete."""
        heading = (Option("", usage=self.summary, group=-1),) if self.summary else ()
        if not self.subcommands:
            return OptionParser(self.program, (*heading, *self.options), self.usage, permute=self.permute)
        return _GroupParser(self.program, (*heading, *self.options), self.subcommands)

    def parse(self, argv: Sequence[str]) -> Options:
        """Read a command line. Raises OptionExit."""
        if not self.takes_all:
            return self.parser().parse(argv)
        options = Options(self.program, ())
        options.arguments.extend(argv)
        return options

    def usage_error(self) -> OptionExit:
        """Wrong arguments: shows the help text."""
        return OptionExit(1, self.parser().help())


class _GroupParser(OptionParser):
    """Its help lists the ways to call each subcommand."""

    def __init__(self, program: str, table: Sequence[Option], subcommands: Sequence[Command]) -> None:
        super().__init__(program, table)
        self._usages = [f"{command.program} {command.usage}" for command in subcommands]

    def help(self) -> str:
        """The text of ``--help``."""
        lines = [f"{'or' if number else 'Usage':>5}: {usage}" for number, usage in enumerate(self._usages)]
        return "\n".join(lines) + "\n" + super().help().partition("\n")[2]


class Context:
    """Where a command runs: what it is called, what was said before its own name, which instance it talks to."""

    __slots__ = ("command", "parent")

    def __init__(self, command: Command, parent: Options | None = None) -> None:
        self.command = command
        self.parent = parent

    @property
    def general(self) -> Options:
        """The options of the command whose subcommand this is."""
        assert self.parent is not None
        return self.parent

    def open(self, uri: str | None = None, complaint: str = "flux_open") -> Flux:
        """Connect to the instance. Raises CommandError."""
        try:
            return Flux(uri)
        except OSError as error:
            raise CommandError(f"{complaint}: {error.strerror} ({error.filename})") from None
        except ValueError as error:
            raise CommandError(f"{complaint}: {error}") from None

    def log(self, text: str) -> None:
        """A line on stderr, with the command's name before it."""
        sys.stderr.write(f"{self.command.prefix}: {text}\n")


def run_command(command: Command, argv: Sequence[str], parent: Options | None = None) -> int:
    """Run a command with its arguments; errors are reported, the exit code is returned."""
    context = Context(command, parent)
    try:
        options = command.parse(argv)
        if command.subcommands:
            return run_command(_choose(command, options), options.arguments[1:], options)
        assert command.run is not None
        return command.run(options, context)
    except OptionExit as end:
        sys.stderr.write(end.text)
        return end.status
    except CommandError as error:
        context.log(str(error))
        return error.status
    except FluxError as error:
        context.log(reason(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError) and error.filename is None:
            raise  # who reads our output went away
        # The broker went away while we talked to it.
        context.log(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
    return 1


def _choose(command: Command, options: Options) -> Command:
    if not options.arguments:
        raise command.parser().usage_error("missing subcommand")
    name = options.arguments[0]
    for subcommand in command.subcommands:
        if subcommand.name == name:
            return subcommand
    raise command.parser().usage_error(f"Unknown subcommand: {name}")


def reason(error: OSError) -> str:
    """Why a request failed: the service's words, or else those of its error number."""
    if isinstance(error, FluxError):
        return error.text or os.strerror(error.errnum)
    if isinstance(error, TimeoutError):
        return os.strerror(errno.ETIMEDOUT)
    return error.strerror or str(error)


class explaining:  # noqa: N801, a context manager, as contextlib.suppress is
    """Report requests that fail as ``WHAT: WHY``, with what the service says about it."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, FluxError):
            raise CommandError(f"{self._what}: {reason(error)}") from None


class naming:  # noqa: N801
    """Report requests that fail as ``WHAT: WHY``, with the error number's text, as many of Flux's C programs do."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, (FluxError, ProtocolError)):
            errnum = error.errnum if isinstance(error, FluxError) else errno.EPROTO
            raise CommandError(f"{self._what}: {os.strerror(errnum)}") from None


def wants_color(options: Options, context: Context) -> bool:
    """What ``--color`` says; NO_COLOR makes "never" the default (no-color.org). Raises OptionExit."""
    default = "never" if os.environ.get("NO_COLOR") else "auto"
    when = options.get("color", default)
    if when is None or when == "always":
        return True
    if when not in ("auto", "never"):
        raise OptionExit(1, f"{context.command.program}: Invalid argument to --color: '{when}'\n")
    return when == "auto" and sys.stdout.isatty()

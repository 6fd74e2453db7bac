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
    """The command failed. The text goes to stderr after the command's name; ``status`` is the exit code."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


class Command:
    """A command or a subcommand; ``program`` is its full name as Flux's messages show it (`flux getattr`).

    A command with ``subcommands`` does nothing by itself; its subcommands find its options in their
    context. ``prefix`` is the name in front of errors, by default the first words of ``program``. A command that
    ``takes_all`` reads its command line itself.
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
        """Return the last word of the full name."""
        return self.program.split(" ")[-1].removeprefix("flux-")

    def parser(self) -> OptionParser:
        """Return a parser of the command's options. Its help text describes the whole command."""
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
        """Return the error for a wrong number of arguments, which shows the help text."""
        return OptionExit(1, self.parser().help())


class _GroupParser(OptionParser):
    """The parser of a command with subcommands. Its help text shows how to call each of them."""

    def __init__(self, program: str, table: Sequence[Option], subcommands: Sequence[Command]) -> None:
        super().__init__(program, table)
        self._usages = [f"{command.program} {command.usage}" for command in subcommands]

    def help(self) -> str:
        """Return the text of ``--help``."""
        lines = [f"{'or' if number else 'Usage':>5}: {usage}" for number, usage in enumerate(self._usages)]
        return "\n".join(lines) + "\n" + super().help().partition("\n")[2]


class Context:
    """What a command runs with: itself, and the options of the command that it is a subcommand of."""

    __slots__ = ("command", "parent")

    def __init__(self, command: Command, parent: Options | None = None) -> None:
        self.command = command
        self.parent = parent

    @property
    def general(self) -> Options:
        """Return the options of the command that this one is a subcommand of."""
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
        """Write a line to stderr, after the command's name."""
        sys.stderr.write(f"{self.command.prefix}: {text}\n")


def run_command(command: Command, argv: Sequence[str], parent: Options | None = None) -> int:
    """Run a command with its arguments, report its errors, return its exit code."""
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
            raise  # nobody reads our output any more
        # The connection to the broker broke.
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
    """Return why a request failed: the text of the response, or else that of its error number."""
    if isinstance(error, FluxError):
        return error.text or os.strerror(error.errnum)
    if isinstance(error, TimeoutError):
        return os.strerror(errno.ETIMEDOUT)
    return error.strerror or str(error)


class explaining:  # noqa: N801, a context manager, as contextlib.suppress is
    """Report a request that fails as ``WHAT: WHY``, with the text of the error response."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, FluxError):
            raise CommandError(f"{self._what}: {reason(error)}") from None


class naming(explaining):  # noqa: N801
    """Report a request that fails as ``WHAT: WHY``, with the text of the error number, as many of Flux's own do."""

    __slots__ = ()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, (FluxError, ProtocolError)):
            errnum = error.errnum if isinstance(error, FluxError) else errno.EPROTO
            raise CommandError(f"{self._what}: {os.strerror(errnum)}") from None


def wants_color(options: Options, context: Context) -> bool:
    """Return whether to use color, by ``--color`` and NO_COLOR (no-color.org). Raises OptionExit."""
    default = "never" if os.environ.get("NO_COLOR") else "auto"
    when = options.get("color", default)
    if when is None or when == "always":
        return True
    if when not in ("auto", "never"):
        raise OptionExit(1, f"{context.command.program}: Invalid argument to --color: '{when}'\n")
    return when == "auto" and sys.stdout.isatty()

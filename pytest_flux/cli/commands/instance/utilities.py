"""`flux lptest` and `flux keygen`: small tools that need no instance."""

from __future__ import annotations

import sys

from pytest_flux.cli.command import Command, CommandError
from pytest_flux.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.cli.command import Context
    from pytest_flux.options import Options

_FIRST, _COUNT = 0x21, 0x5E
"""The characters of `lptest`: from ! to ~."""


def lptest(options: Options, context: Context) -> int:
    """Print lines that are easy to check: each is the one before, moved on by a character."""
    words = options.arguments
    if len(words) > 2:
        raise context.command.usage_error()
    numbers = {"length": 79, "count": 200}
    for name, word in zip(numbers, words, strict=False):
        if not word.isdecimal():
            raise CommandError(f"error parsing {name}")
        numbers[name] = int(word)
    length = numbers["length"]
    ring = "".join(chr(_FIRST + index) for index in range(_COUNT)) * (length // _COUNT + 2)
    sys.stdout.writelines(f"{ring[row % _COUNT :][:length]}\n" for row in range(numbers["count"]))
    return 0


def keygen(options: Options, context: Context) -> int:
    """Refuse: the certificates are those of ZeroMQ."""
    del options, context
    raise CommandError("only flux-core makes CURVE certificates: embedded brokers have no ZeroMQ and need none")


COMMANDS = (
    Command(
        "flux lptest",
        lptest,
        usage="[length] [count]",
        summary="Print lines of regular output, for tests of standard I/O",
        prefix="flux-lptest",
    ),
    Command(
        "flux-keygen",
        keygen,
        usage="[OPTIONS] [PATH]",
        summary="Make a certificate for encryption between brokers (only in flux-core)",
        options=(
            Option("name", "n", "NAME", usage="The name of the certificate"),
            Option("meta", argument="KEYVALS", usage="More metadata, as key=value,..."),
        ),
    ),
)

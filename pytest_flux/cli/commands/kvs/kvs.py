"""`flux kvs`: the key-value store."""

from __future__ import annotations

from pytest_flux.cli.command import Command
from pytest_flux.cli.commands.kvs import eventlog, namespace, read, write

COMMANDS = (
    Command(
        "flux-kvs",
        summary="Read, write and follow keys of the key-value store",
        subcommands=(
            namespace.GROUP,
            read.GET,
            write.PUT,
            read.DIR,
            read.LS,
            write.UNLINK,
            write.LINK,
            read.READLINK,
            write.MKDIR,
            write.COPY,
            write.MOVE,
            namespace.VERSION,
            namespace.WAIT,
            namespace.GETROOT,
            namespace.SYNC,
            eventlog.EVENTLOG,
        ),
    ),
)

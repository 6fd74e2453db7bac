"""`flux kvs`: the key-value store."""

from __future__ import annotations

from pytest_flux.cli.commands import kvs_eventlog, kvs_get, kvs_list, kvs_namespace, kvs_put
from pytest_flux.cli.commands.command import Command

COMMAND = Command(
    "flux-kvs",
    summary="Read, write and follow keys of the key-value store",
    subcommands=(
        kvs_namespace.NAMESPACE,
        kvs_get.GET,
        kvs_put.PUT,
        kvs_list.DIR,
        kvs_list.LS,
        kvs_put.UNLINK,
        kvs_put.LINK,
        kvs_get.READLINK,
        kvs_put.MKDIR,
        kvs_put.COPY,
        kvs_put.MOVE,
        kvs_namespace.VERSION,
        kvs_namespace.WAIT,
        kvs_namespace.GETROOT,
        kvs_namespace.SYNC,
        kvs_eventlog.EVENTLOG,
    ),
)

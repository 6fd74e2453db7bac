"""`flux uri`: where an instance is."""

from __future__ import annotations

import os

from pytest_flux.cli.arguments import ArgumentCommand
from pytest_flux.client.uri import local_uri, remote_uri, resolve
from pytest_flux.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.cli.commands.command import Context
    from pytest_flux.options import Options

OPTIONS = (
    Option("remote", usage="Print it for other hosts"),
    Option("local", usage="Print it for this host"),
    Option("wait", usage="Wait until a job has a URI"),
)


def run(options: Options, context: Context) -> int:
    """Print the URI."""
    assert isinstance(context.command, ArgumentCommand)
    if not options.arguments:
        raise context.command.parser().usage_error("the following arguments are required: TARGET")
    target, _, query = options.arguments[0].partition("?")
    wants = set(query.split("&"))
    if {"local", "remote"} <= wants:
        raise ValueError("Only one of 'local' or 'remote' is allowed")
    force_local = "FLUX_URI_RESOLVE_LOCAL" in os.environ
    wait = options.has("wait") or "wait" in wants
    uri = resolve(target, wait=wait, force_local=force_local or "local" in wants)
    if options.has("remote") or "remote" in wants:
        uri = remote_uri(uri)
    elif options.has("local") or force_local or "local" in wants:
        uri = local_uri(uri)
    print(uri)
    return 0


COMMAND = ArgumentCommand(
    "flux-uri", run, usage="[OPTIONS] TARGET", summary="Resolve TARGET to a Flux URI", options=OPTIONS
)

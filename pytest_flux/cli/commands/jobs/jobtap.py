"""`flux jobtap` and `flux post-job-event`: look at the job manager's plugins; post events to jobs."""

from __future__ import annotations

import errno

from pytest_flux.cli.arguments import ArgumentCommand, connect, json_or_text, set_dotted
from pytest_flux.cli.command import CommandError
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import parse_fluid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.cli.command import Context
    from pytest_flux.options import Options


def _settings(words: list[str]) -> dict[str, Any]:
    """Return the values in words like ``a.b=1``. Raises ValueError."""
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"Missing required value for key {word}")
        set_dotted(values, key, json_or_text(text), f"failed to set {key}")
    return values


def _one(options: Options, context: Context) -> str:
    words = options.arguments
    if not words:
        raise context.command.parser().usage_error("the following arguments are required: plugin")
    if len(words) > 1:
        raise context.command.parser().usage_error(f"unrecognized arguments: {' '.join(words[1:])}")
    return words[0]


def _request(request: dict[str, Any], name: str) -> dict[str, Any]:
    with connect() as flux:
        try:
            return flux.rpc("job-manager.jobtap", request).get()
        except FluxError as error:
            if error.errnum == errno.ENOENT:
                raise CommandError(f"{name} not found") from None
            raise


def list_plugins(options: Options, context: Context) -> int:
    """Print the names of plugins."""
    del context
    for name in _request({"query_only": True}, "")["plugins"]:
        if options.has("all") or not name.startswith("."):
            print(name)
    return 0


def load(options: Options, context: Context) -> int:
    """Load a plugin."""
    if not options.arguments:
        raise context.command.parser().usage_error("the following arguments are required: plugin, conf")
    name, *words = options.arguments
    request: dict[str, Any] = {"load": name}
    if words:
        request["conf"] = _settings(words)
    if options.has("remove"):
        request["remove"] = options.get("remove")
    _request(request, name)
    return 0


def remove(options: Options, context: Context) -> int:
    """Remove plugins."""
    name = _one(options, context)
    _request({"remove": name}, name)
    return 0


def query(options: Options, context: Context) -> int:
    """Print what a plugin says about itself."""
    name = _one(options, context)
    with connect() as flux:
        print(flux.rpc("job-manager.jobtap-query", {"name": name}).get_text())
    return 0


def post_event(options: Options, context: Context) -> int:
    """Post an event to a job."""
    if len(options.arguments) < 2:
        missing = ", ".join(("id", "name", "context")[len(options.arguments) :])
        raise context.command.parser().usage_error(f"the following arguments are required: {missing}")
    job, name, *words = options.arguments
    try:
        jobid = parse_fluid(job)
    except ValueError:
        raise ValueError(f"{job} is not a valid Flux jobid") from None
    request: dict[str, Any] = {"id": jobid, "name": name}
    if words:
        request["context"] = _settings(words)
    with connect() as flux:
        try:
            flux.rpc("job-manager.post-event.post", request).get()
        except FluxError as error:
            if error.errnum == errno.ENOENT:
                raise ValueError(f"No such job {job}") from None
            raise
    return 0


COMMANDS = (
    ArgumentCommand(
        "flux-jobtap",
        summary="Look at the job manager's plugins",
        subcommands=(
            ArgumentCommand(
                "flux-jobtap load",
                load,
                usage="[OPTIONS] PLUGIN [KEY=VALUE...]",
                summary="Load a plugin",
                options=(Option("remove", "r", "NAME", usage="Remove this plugin first"),),
                permute=False,
            ),
            ArgumentCommand("flux-jobtap remove", remove, usage="PLUGIN", summary="Remove a plugin"),
            ArgumentCommand(
                "flux-jobtap list",
                list_plugins,
                summary="List plugins",
                options=(Option("all", "a", usage="List those that are built in, too"),),
            ),
            ArgumentCommand("flux-jobtap query", query, usage="PLUGIN", summary="Print details of a plugin"),
        ),
    ),
    ArgumentCommand(
        "flux-post-job-event",
        post_event,
        usage="ID NAME [KEY=VALUE...]",
        summary="Post an event to a job",
        permute=False,
        log_name="flux-job-post-event",
    ),
)

"""`flux start`, `flux broker` and `flux shutdown`: start an instance, stop it."""

from __future__ import annotations

import errno
import os
import sys

from pytest_flux.cli.command import Command, CommandError, Context, explaining
from pytest_flux.cli.commands.instance.attr import find_attribute
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.severity import LOG_DEBUG, LOG_INFO, LOG_WARNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client import Flux
    from pytest_flux.options import Options


def start(options: Options, context: Context) -> int:
    """Start an instance as `flux-start` does."""
    del context
    from pytest_flux.cli.flux_start import main

    return main(options.arguments)


def broker(options: Options, context: Context) -> int:
    """Run an embedded broker."""
    del context
    from pytest_flux.broker.main import main

    return main(options.arguments)


SHUTDOWN_OPTIONS = (
    Option("skip-gc", usage="Do not collect garbage of the KVS, even if the instance is set to"),
    Option("gc", usage="Collect garbage of the KVS (same as --dump=auto)"),
    Option("dump", argument="PATH", usage="Write the KVS to an archive"),
    Option("background", usage="Return at once"),
    Option("quiet", usage="Print warnings and worse only"),
    Option("verbose", "v", "[LEVEL]", optional=True, usage="1: print all messages"),
    Option("yes", "y", usage="Answer every question with yes"),
    Option("no", "n", usage="Answer every question with no"),
)
_DUMP = "content.dump"


def shutdown(options: Options, context: Context) -> int:
    """Ask the root broker to shut down; print its log until it is nearly gone."""
    if len(options.arguments) > 1:
        raise context.command.usage_error()
    level = LOG_WARNING if options.has("quiet") else LOG_DEBUG if options.integer("verbose", 0) else LOG_INFO
    with context.open(_find_uri(options), "error connecting to Flux") as flux:
        _configure_dump(flux, options, context)
        streaming = not options.has("background")
        # Ask the nearest broker: it refuses if it is not the root, and does not forward the request.
        rpc = flux.rpc("shutdown.start", {"loglevel": level}, streaming=streaming)
        try:
            while streaming:
                sys.stderr.write(rpc.get()["log"])
                sys.stderr.flush()
            rpc.get()
        except FluxError as error:
            if error.errnum != errno.ENODATA:
                raise
    return 0


def _find_uri(options: Options) -> str | None:
    if not options.arguments:
        return None
    from pytest_flux.client.uri import local_uri, resolve

    target = options.arguments[0]
    force_local = "FLUX_URI_RESOLVE_LOCAL" in os.environ
    try:
        uri = resolve(target, force_local=force_local)
        return local_uri(uri) if force_local else uri
    except (OSError, ValueError) as error:
        # In flux-core, `flux uri` says why.
        sys.stderr.write(f"flux-uri: ERROR: {getattr(error, 'strerror', None) or error}\n")
        raise CommandError(f"failed to resolve target {target} to a Flux URI") from None


def _configure_dump(flux: Flux, options: Options, context: Context) -> None:
    """Set the attribute content.dump, which tells the broker's rc3 whether and where to dump the KVS."""
    if options.has("gc") and (options.has("skip-gc") or options.has("dump")):
        raise CommandError("--gc is incompatible with --skip-gc or --dump")
    path = find_attribute(flux, _DUMP)
    if options.has("skip-gc"):
        if path is not None:
            _remove_attribute(flux, _DUMP)
        path = None
    elif options.has("dump"):
        path = _set_dump(flux, path, options.get("dump") or "")
    elif options.has("gc") or _wants_collection(flux, options):
        path = _set_dump(flux, path, "auto")
    if path is None:
        return
    if path == "auto":
        kept = find_attribute(flux, "statedir-cleanup") in (None, "0")
        path = f"{find_attribute(flux, 'statedir') if kept else '.'}/dump/"
    context.log(f"shutdown will dump KVS to {path} (this may take some time)")


def _set_dump(flux: Flux, old: str | None, new: str) -> str:
    if old != new:
        with explaining(f"setattr {_DUMP}"):
            flux.setattr(_DUMP, new)
    return new


def _remove_attribute(flux: Flux, name: str) -> None:
    with explaining(f"rmattr {name}"):
        flux.rpc("attr.rm", {"name": name}).get()


def _wants_collection(flux: Flux, options: Options) -> bool:
    """Return whether the configuration asks for garbage collection, and the user agrees."""
    from pytest_flux.client.kvs import Kvs

    try:
        version = Kvs(flux).getroot()["rootseq"]
    except FluxError as error:
        if error.errnum != errno.ENOSYS:
            raise CommandError(f"Error fetching KVS version: {os.strerror(error.errnum)}") from None
        version = 0
    with explaining("Error fetching flux config"):
        table = flux.rpc("config.get").get().get("kvs", {})
    threshold = table.get("gc-threshold", 0) if isinstance(table, dict) else 0
    if not isinstance(threshold, int) or not 0 < threshold < version:
        return False
    if options.has("yes") or options.has("no"):
        return options.has("yes")
    if not sys.stdin.isatty():
        raise CommandError("gc threshold exceeded, specify -y or -n")
    return _ask("gc threshold exceeded, do you want to perform garbage collection")


def _ask(question: str) -> bool:
    while True:
        print(f"{question} [Y/n]? ", end="", flush=True)
        answer = sys.stdin.readline()
        if not answer:
            raise CommandError("error retrieving user input")
        if answer[0] in "yY\n":
            return True
        if answer[0] in "nN":
            return False
        print("Please answer y or n")


COMMANDS = (
    Command("flux-start", start, takes_all=True),
    Command("flux-broker", broker, takes_all=True),
    Command(
        "flux shutdown",
        shutdown,
        usage="[OPTIONS] [TARGET]",
        summary="Stop the instance",
        options=SHUTDOWN_OPTIONS,
    ),
)

"""`flux uri`, `flux proxy` and `flux relay`: find another instance, and connect to it."""

from __future__ import annotations

import os
import sys

from pytest_flux.cli.arguments import ArgumentCommand
from pytest_flux.cli.command import Command, CommandError, Context, reason
from pytest_flux.client import Flux
from pytest_flux.client.connector import connect, relay
from pytest_flux.client.uri import local_uri, remote_uri, resolve
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from pytest_flux.cli.command import Context
    from pytest_flux.options import Options

URI_OPTIONS = (
    Option("remote", usage="Print it for other hosts"),
    Option("local", usage="Print it for this host"),
    Option("wait", usage="Wait until a job has a URI"),
)


def print_uri(options: Options, context: Context) -> int:
    """Print the URI."""
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


PROXY_OPTIONS = (
    Option("force", "f", usage="Connect whatever the versions are (they are not compared here)"),
    Option("nohup", "n", usage="Stay if the connection is lost (commands do that in any case)"),
    Option("reconnect", usage="Connect again if the connection is lost (commands do that by themselves)"),
)


def proxy(options: Options, context: Context) -> int:
    """Run a command, or a shell, and return its exit code."""
    if not options.arguments:
        raise context.command.usage_error()
    target, *words = options.arguments
    try:
        uri = resolve(target)
    except (OSError, ValueError) as error:
        raise CommandError(f"Unable to resolve {target} to a URI: {error}") from None
    try:
        with Flux(uri) as flux:
            flux.rpc("state-machine.wait").get()
    except FluxError as error:
        raise CommandError(f"state-machine.wait: {reason(error)}") from None
    except (OSError, ValueError) as error:
        raise CommandError(f"{uri}: {getattr(error, 'strerror', None) or error}") from None
    return _run(uri, words)


def _run(uri: str, words: list[str]) -> int:
    import subprocess
    from tempfile import TemporaryDirectory

    command = [os.environ.get("SHELL") or "/bin/sh"]
    if words:
        command += ["-c", " ".join(words)]
    with TemporaryDirectory(prefix="flux-proxy-") as directory:
        path = os.path.join(directory, "local")
        _listen(path, uri)
        environment = {**os.environ, "FLUX_URI": f"local://{path}"}
        if uri.startswith("ssh://"):
            environment["FLUX_PROXY_REMOTE"] = uri[len("ssh://") :].partition("/")[0]
        sys.stdout.flush()
        with subprocess.Popen(command, env=environment) as process:
            interrupted = False
            while True:
                try:
                    code = process.wait()
                    break
                except KeyboardInterrupt:
                    # The command has got the signal, too, and decides what to do.
                    interrupted = True
        if interrupted and code < 0:
            raise KeyboardInterrupt
        return code if code >= 0 else 128 - code


def _listen(path: str, uri: str) -> None:
    """Open a connection to the instance for each program that connects to ``path``."""
    import socket
    from threading import Thread

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen()

    def serve() -> None:
        while True:
            client, _ = listener.accept()
            Thread(target=_serve_client, args=(client, uri), daemon=True).start()

    Thread(target=serve, daemon=True).start()


def _serve_client(client: socket, uri: str) -> None:
    from pytest_flux.client.connector import relay

    try:
        broker = connect(uri)
    except (OSError, ValueError):
        client.close()
        return
    relay([(client.fileno(), broker.fileno()), (broker.fileno(), client.fileno())])
    broker.close()
    client.close()


def relay_broker(options: Options, context: Context) -> int:
    """Connect stdin and stdout to the broker's socket."""
    if len(options.arguments) != 1:
        raise context.command.usage_error()
    path = options.arguments[0]
    try:
        broker = connect(path if "://" in path else f"local://{path}")
    except (OSError, ValueError) as error:
        raise CommandError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    relay([(0, broker.fileno()), (broker.fileno(), 1)])
    return 0


COMMANDS = (
    ArgumentCommand(
        "flux-uri",
        print_uri,
        usage="[OPTIONS] TARGET",
        summary="Resolve TARGET to a Flux URI",
        options=URI_OPTIONS,
    ),
    Command(
        "flux proxy",
        proxy,
        usage="[OPTIONS] JOBID|URI [COMMAND...]",
        summary="Run a command in the environment of an instance",
        options=PROXY_OPTIONS,
    ),
    Command("flux relay", relay_broker, usage="[OPTIONS] path", summary="Relay messages between stdio and a broker"),
)

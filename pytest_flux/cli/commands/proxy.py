"""`flux proxy`: run a command in the environment of another instance."""

from __future__ import annotations

import os
import sys

from pytest_flux.cli.commands.command import Command, CommandError, Context, reason
from pytest_flux.client import Flux
from pytest_flux.client.connector import connect
from pytest_flux.client.uri import resolve
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from pytest_flux.options import Options

OPTIONS = (
    Option("force", "f", usage="Connect whatever the versions are (they are not compared here)"),
    Option("nohup", "n", usage="Stay if the connection is lost (commands do that in any case)"),
    Option("reconnect", usage="Connect again if the connection is lost (commands do that by themselves)"),
)


def run(options: Options, context: Context) -> int:
    """Run the command, or a shell; its exit code is ours."""
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
                    # The command has got it, too, and decides.
                    interrupted = True
        if interrupted and code < 0:
            raise KeyboardInterrupt
        return code if code >= 0 else 128 - code


def _listen(path: str, uri: str) -> None:
    """Give everyone who connects to ``path`` a connection of their own to the instance."""
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


COMMAND = Command(
    "flux proxy",
    run,
    usage="[OPTIONS] JOBID|URI [COMMAND...]",
    summary="Run a command in the environment of an instance",
    options=OPTIONS,
)

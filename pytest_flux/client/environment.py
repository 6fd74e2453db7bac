"""The environment of an instance: what programs need to connect to it, and to find its `flux` command."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client.connection import Connection


def ask_environment(flux: Connection, timeout: float) -> dict[str, str]:
    """Ask rank 0 to run a program that prints its environment."""
    command = {"cmdline": ["/usr/bin/env", "-0"], "cwd": "/", "env": {}, "opts": {}, "channels": []}
    rpc = flux.rpc("rexec.exec", {"cmd": command, "flags": 1}, nodeid=0, streaming=True, timeout=timeout)
    output = "".join(answer.get("io", {}).get("data", "") for answer in rpc)
    pairs = (item.partition("=") for item in output.split("\0") if item)
    return {name: value for name, _, value in pairs}

"""What we print for a second terminal: how to attach to an instance, and how to end one that was kept alive."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from typing import TYPE_CHECKING, Any

from pytest_flux.plugin import options

if TYPE_CHECKING:
    import pytest

    from pytest_flux.plugin.pool import Pool


def program() -> str:
    """The command for `flux-start`: its name, if PATH leads to the one of this Python, else its path."""
    beside = os.path.join(os.path.dirname(sys.executable), "flux-start")
    found = shutil.which("flux-start")
    if not os.path.exists(beside):
        return "flux-start" if found else f"{shlex.quote(sys.executable)} -m pytest_flux.cli.flux_start"
    return "flux-start" if found and os.path.samefile(found, beside) else shlex.quote(beside)


def attach_command(uri: str) -> str:
    """The command that opens a shell inside of an instance."""
    return f"{program()} --attach {shlex.quote(uri)}"


def list_kept(terminalreporter: Any, config: pytest.Config) -> None:  # noqa: ANN401 - private to pytest before 8
    """List the instances that ``--flux-keep-alive`` has left, with the commands to attach to them and to end them."""
    if not options.value_of(config, "keep_alive"):
        return
    from pytest_flux.instance.store import Store, kept_directory

    records = [record for record in Store(kept_directory()).records() if record.process() is not None]
    if not records:
        return
    terminalreporter.section("flux: kept alive for the next run")
    for record in records:
        terminalreporter.line(f"{record.uri}  ({record.shape})")
        terminalreporter.line(f"  attach: {attach_command(record.uri)}")
    terminalreporter.line("  end all: pytest --flux-sweep")


def show_in_debugger(pool: Pool, config: pytest.Config) -> None:
    """Show, where a debugger stops a test, how to attach to the instances that the test uses."""
    terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
    for held in pool.held:
        if terminal is not None and held.instance.is_running:
            terminal.write_line(f"flux: {held.name}: {attach_command(held.instance.uri)}")

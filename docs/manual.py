"""Writes manual pages and completion scripts: ``python docs/manual.py DIRECTORY``. The build of a wheel does this."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import pytest_flux
from pytest_flux import plugin
from pytest_flux.cli import completion, manual
from pytest_flux.plugin import options

ABOUT = """\
The plugin gives tests instances of Flux. A test that names flux_instance as an argument gets one for itself. The
marker flux, as in @pytest.mark.flux(size=4), sets its shape. Afterwards nothing is left: no process, no socket, no
directory. If Flux is not installed, an embedded broker in Python runs.

The documentation is at https://pytest-flux.readthedocs.io."""


def write(directory: Path) -> None:
    """Write all files below a directory, as they lie below the prefix of an installation."""
    pages = {f"man1/{name}": text for name, text in manual.pages()}
    pages["man7/pytest-flux.7"] = plugin_page()
    for name, text in {**{f"man/{name}": text for name, text in pages.items()}, **dict(completion.scripts())}.items():
        path = directory / "share" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def plugin_page() -> str:
    """pytest-flux(7)."""
    lines = [
        *manual.head("pytest-flux", 7, "Flux instances for pytest"),
        ".SH DESCRIPTION",
        *manual.paragraphs(ABOUT),
    ]
    lines.append(".SH FIXTURES")
    for name in plugin.__all__:
        fixture = getattr(plugin, name)
        lines += manual.entry(_bold(name), _plain(getattr(fixture, "__wrapped__", fixture)))
    lines += [".SH SETTINGS", *_settings()]
    lines += [".SH OPTIONS", "On the command line as below, in the ini file as \\fBflux_NAME\\fR."]
    for option, text in _options():
        lines += manual.entry(_bold(option), text)
    return manual.finish([*lines, *manual.see_also("flux-start(1)", "flux(1)", "pytest(1)")])


def _settings() -> list[str]:
    """The list in the docstring of Settings."""
    head, _, rest = _plain(pytest_flux.Settings).partition("* ")
    lines = list(manual.paragraphs(head.strip()))
    for item in rest.split("\n* "):
        lines += [".IP \\(bu 2", manual.escaped(" ".join(item.split()))]
    return lines


def _options() -> list[tuple[str, str]]:
    found = []
    for setting in (*options.SHAPE, *options.RUN):
        option = f"--flux-{setting.name.replace('_', '-')}"
        default = f" (default: {setting.default})" if setting.default else ""
        found.append((f"{option}={setting.metavar}" if setting.metavar else option, f"{setting.text}{default}."))
    found += [
        (f"--flux-{name}={metavar}", f"{text}; may be given again.")
        for name, (metavar, text) in options.PAIRS.items()
    ]
    found += [(f"--flux-{name.replace('_', '-')}", f"{text}.") for name, text in options.COMMANDS.items()]
    return [*found, ("--flux-sweep[=all]", f"{options.SWEEP}.")]


def _bold(text: str) -> str:
    return f"\\fB{manual.escaped(text)}\\fR"


def _plain(thing: object) -> str:
    return re.sub(r"``?([^`]+)``?", r"\1", inspect.getdoc(thing) or "")


if __name__ == "__main__":
    write(Path(sys.argv[1]))

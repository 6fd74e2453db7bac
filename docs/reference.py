"""Writes reference.rst from the docstrings: run ``python docs/reference.py`` when a test says that it is old."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest_flux
from pytest_flux import plugin
from pytest_flux.plugin import hooks, options

PAGE = Path(__file__).parent / "reference.rst"
HEAD = """\
Reference
=========

Written by ``docs/reference.py`` from tables and docstrings. Classes and functions are in the `Python interface
<api.rst>`_.
"""


def render() -> str:
    """The page."""
    sections = [HEAD, *_fixtures(), *_settings(), *_hooks()]
    # Roles would need a tool to resolve them.
    return re.sub(r":(?:meth|class|attr|mod|func):`~?(?:[\w.]+\.)?(\w+)`", r"``\1``", "\n".join(sections))


def _heading(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n"


def _entry(signature: str, thing: object, indent: str = "    ") -> str:
    lines = (inspect.getdoc(thing) or "").splitlines()
    return "\n".join([f"``{signature}``", *(f"{indent}{line}".rstrip() for line in lines), ""])


def _signature(function: object) -> str:
    """As one would write it, without annotations."""
    assert callable(function)
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def _fixtures() -> Iterator[str]:
    yield _heading("Fixtures", "-")
    for name in plugin.__all__:
        fixture = getattr(plugin, name)
        yield _entry(name, getattr(fixture, "__wrapped__", fixture))


def _settings() -> Iterator[str]:
    yield _heading("Settings", "-")
    yield f"{inspect.getdoc(pytest_flux.Settings)}\n"
    yield _heading("Options", "-")
    yield "On the command line as ``--flux-NAME``, in the ini file as ``flux_NAME``.\n"
    for setting in (*options.SHAPE, *options.RUN):
        option = f"--flux-{setting.name.replace('_', '-')}"
        default = f" (default: {setting.default})" if setting.default else ""
        yield f"``{option}={setting.metavar}``" if setting.metavar else f"``{option}``"
        yield f"    {setting.text}{default}\n"
    for name, (metavar, text) in options.PAIRS.items():
        yield f"``--flux-{name}={metavar}``\n    {text}; may be given again, in the ini file one a line\n"
    for name, text in options.COMMANDS.items():
        yield f"``--flux-{name.replace('_', '-')}``\n    {text}\n"
    yield f"``--flux-sweep[=all]``\n    {options.SWEEP}\n"


def _hooks() -> Iterator[str]:
    yield _heading("Hooks", "-")
    for name, hook in vars(hooks).items():
        if name.startswith("pytest_flux_"):
            yield _entry(f"{name}{_signature(hook)}", hook)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")

"""Writes reference.rst from the docstrings: run ``python docs/reference.py`` when a test says that it is old."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

import pytest_flux
from pytest_flux.client.handle import Flux
from pytest_flux.client.job_result import JobOutput, JobResult
from pytest_flux.client.jobs import Jobs
from pytest_flux.client.kvs import Kvs
from pytest_flux.instance.brokers import BrokerHandle
from pytest_flux.instance.clock import InstanceClock
from pytest_flux.instance.operations import Events, Job
from pytest_flux.plugin import hooks, options
from pytest_flux.postmortem.dump import Dump

PAGE = Path(__file__).parent / "reference.rst"
CLASSES = (
    pytest_flux.FluxInstance,
    BrokerHandle,
    Job,
    JobResult,
    JobOutput,
    Events,
    InstanceClock,
    Flux,
    Jobs,
    Kvs,
    Dump,
)
HEAD = """\
Reference
=========

Written by ``docs/reference.py`` from the docstrings.
"""


def render() -> str:
    """The page."""
    sections = [HEAD, *_fixtures(), *_settings(), *_functions(), *_classes(), *_hooks()]
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
    from pytest_flux.plugin import fixtures

    yield _heading("Fixtures", "-")
    for name in ("flux_instance", "flux_executor", "flux_instance_factory"):
        fixture = getattr(fixtures, name)
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


def _functions() -> Iterator[str]:
    yield _heading("Functions", "-")
    for name in sorted(pytest_flux.__all__):
        function = getattr(pytest_flux, name)
        if inspect.isfunction(function):
            yield _entry(f"pytest_flux.{name}{_signature(function)}", function)
    yield _heading("Errors", "-")
    for name in sorted(pytest_flux.__all__):
        error = getattr(pytest_flux, name)
        if inspect.isclass(error) and issubclass(error, Exception):
            yield _entry(f"pytest_flux.{name}", error)


def _classes() -> Iterator[str]:
    yield _heading("What tests get", "-")
    for kind in CLASSES:
        yield _heading(kind.__name__, "~")
        yield f"{inspect.getdoc(kind)}\n"
        members = {name: vars(base)[name] for base in reversed(kind.__mro__[:-1]) for name in vars(base)}
        for name, member in members.items():
            if name.startswith("_"):
                continue
            if isinstance(member, property):
                yield _entry(name, member)
            elif isinstance(member, FunctionType):
                yield _entry(f"{name}{_signature(member)}", getattr(kind, name))


def _hooks() -> Iterator[str]:
    yield _heading("Hooks", "-")
    for name, hook in vars(hooks).items():
        if name.startswith("pytest_flux_"):
            yield _entry(f"{name}{_signature(hook)}", hook)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")

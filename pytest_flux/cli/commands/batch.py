"""`flux batch`: submit a script that is the initial program of an instance of its own."""

from __future__ import annotations

import sys

from pytest_flux.cli.arguments import ArgumentCommand, connect
from pytest_flux.cli.commands.command import CommandError
from pytest_flux.cli.commands.nest_jobspec import make_nested
from pytest_flux.cli.commands.submit_options import COMMON, NEST, NEST_REWRITES
from pytest_flux.cli.commands.submit_request import Request
from pytest_flux.cli.commands.submit_session import print_jobspec, submit_one
from pytest_flux.cli.directives import parse_directives
from pytest_flux.client import jobspec as make
from pytest_flux.options import Option, OptionExit
from pytest_flux.protocol.fluid import f58

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.cli.commands.command import Context
    from pytest_flux.options import Options

OPTIONS = (*COMMON, *NEST, Option("wrap", usage="Make a script of the words, or of stdin"))
_SHELL = "#!/bin/sh\n"


def run(options: Options, context: Context) -> int:
    """Submit the script; options in it come before those of the command line."""
    request = Request.of(options, OPTIONS)
    if request.command and request.has("wrap"):
        script, name = " ".join(request.command) + "\n", request.command[0]
    else:
        name = request.command[0] if request.command else "stdin"
        script = _read(name, from_stdin=not request.command)
        request = _with_directives(script, name, request, context)
    if request.has("wrap"):
        script = _SHELL + script
    job_name = request.get("job-name") or (request.command[0] if request.command else "batch")
    jobspec = make_nested(
        request,
        lambda **how: make.batch(script, job_name, request.command[1:], **how),
        stdin=request.get("input"),
        stdout=request.get("output") or "flux-{{id}}.out",
        stderr=request.get("error"),
        label=request.has("label-io"),
    )
    if request.has("dry-run"):
        print_jobspec(jobspec)
        return 0
    with connect(context) as flux:
        jobid = submit_one(flux, request, jobspec)
    if not request.has("quiet"):
        print(f58(jobid))
    return 0


def _read(name: str, *, from_stdin: bool) -> str:
    try:
        with open(0 if from_stdin else name, encoding="utf-8", closefd=not from_stdin) as file:
            return file.read()
    except UnicodeError:
        raise ValueError(f"{name} does not appear to be a script, or failed to encode as utf-8") from None


def _with_directives(script: str, name: str, request: Request, context: Context) -> Request:
    try:
        directives = parse_directives(script)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not directives:
        return request
    values: dict[str, list[str]] = {}
    flags = dict.fromkeys(request.flags, 0)
    for directive in directives:
        try:
            said = Request.of(context.command.parse(directive.words), OPTIONS)
        except OptionExit as end:
            sys.stderr.write(end.text)
            raise CommandError(f"argument parsing failed at {name} line {directive.line}", 2) from None
        for option, count in said.flags.items():
            flags[option] += count
        for option, texts in said.values.items():
            values[option] = values.get(option, []) + texts
    for option, count in request.flags.items():
        flags[option] += count
    for option, texts in request.values.items():
        values[option] = values.get(option, []) + texts
    return Request(values, flags, request.command)


COMMAND = ArgumentCommand(
    "flux batch",
    run,
    usage="[OPTIONS...] [SCRIPT] [ARGS...]",
    summary="Submit a script that runs in an instance of its own",
    options=OPTIONS,
    permute=False,
    rewrites=NEST_REWRITES,
)

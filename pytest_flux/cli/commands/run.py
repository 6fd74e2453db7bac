"""`flux run`: submit a job, and be attached to it."""

from __future__ import annotations

import sys

from pytest_flux.cli.arguments import ArgumentCommand, connect
from pytest_flux.cli.commands.submit_jobspec import is_idset, make_jobspec
from pytest_flux.cli.commands.submit_options import COMMON, REWRITES, TASKS
from pytest_flux.cli.commands.submit_request import Request
from pytest_flux.options import Option
from pytest_flux.protocol.fluid import f58

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.cli.commands.command import Context
    from pytest_flux.client import Flux
    from pytest_flux.options import Options

OPTIONS = (
    *COMMON,
    *TASKS,
    Option("wait-event", argument="NAME", usage="Leave at this event of the job"),
)


def run(options: Options, context: Context) -> int:
    """Submit, attach; the exit code is the job's."""
    from pytest_flux.cli.commands.submit_session import print_jobspec, submission_flags, submit_one, urgency_of

    request = Request.of(options, OPTIONS)
    jobspec = make_jobspec(request)
    if request.has("dry-run"):
        print_jobspec(jobspec)
        return 0
    submission_flags(request), urgency_of(request)
    with connect(context) as flux:
        jobid = submit_one(flux, request, jobspec)
        if request.has("verbose"):
            sys.stderr.write(f"jobid: {f58(jobid)}\n")
            sys.stderr.flush()
        return attach(flux, jobid, request)


def attach(flux: Flux, jobid: int, request: Request) -> int:
    """Be attached to a new job as `flux job attach` is; the exit code."""
    from pytest_flux.cli.commands.attach_output import AttachOptions
    from pytest_flux.cli.commands.attach_session import AttachSession
    from pytest_flux.cli.commands.command import CommandError

    how = AttachOptions(f58(jobid))
    how.label = request.has("label-io")
    how.show_events, how.show_exec = request.count("verbose") > 1, request.count("verbose") > 2
    how.wait_event = request.get("wait-event") or how.wait_event
    stdin = request.get("input")
    if stdin and is_idset(stdin):
        how.stdin_ranks = stdin
    try:
        return AttachSession(flux, jobid, how).run()
    except CommandError as error:
        # From here on it is flux-job that speaks, as in Flux.
        sys.stderr.write(f"flux-job: {error}\n")
        return error.status


COMMAND = ArgumentCommand(
    "flux run",
    run,
    usage="[OPTIONS...] COMMAND [ARGS...]",
    summary="Run a job, with its output here",
    options=OPTIONS,
    permute=False,
    rewrites=REWRITES,
)

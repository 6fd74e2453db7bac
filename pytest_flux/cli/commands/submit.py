"""`flux submit`: submit a job, or copies of it."""

from __future__ import annotations

from pytest_flux.cli.arguments import ArgumentCommand
from pytest_flux.cli.commands.submit_options import BULK, COMMON, REWRITES, TASKS
from pytest_flux.cli.commands.submit_request import Request
from pytest_flux.cli.commands.submit_session import DryRunEnd, SubmitSession, copies_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.cli.commands.command import Context
    from pytest_flux.options import Options

OPTIONS = (*COMMON, *TASKS, *BULK)


def run(options: Options, context: Context) -> int:
    """Submit, print ids, and wait if told to; the exit code is then the highest of the jobs."""
    request = Request.of(options, OPTIONS)
    session = SubmitSession(context, request, len(copies_of(request)))
    try:
        session.submit(request)
    except DryRunEnd:
        return 0
    return session.finish()


COMMAND = ArgumentCommand(
    "flux submit",
    run,
    usage="[OPTIONS...] COMMAND [ARGS...]",
    summary="Submit a job",
    options=OPTIONS,
    permute=False,
    rewrites=REWRITES,
)

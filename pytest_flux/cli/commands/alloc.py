"""`flux alloc`: an instance as a job, with us in it, or left running."""

from __future__ import annotations

import os
import sys
import time

from pytest_flux.cli.arguments import ArgumentCommand, connect
from pytest_flux.cli.commands.command import CommandError
from pytest_flux.cli.commands.nest_jobspec import make_nested
from pytest_flux.cli.commands.submit_options import COMMON, NEST, NEST_REWRITES
from pytest_flux.cli.commands.submit_request import Request
from pytest_flux.cli.commands.submit_session import print_jobspec, submit_one
from pytest_flux.client import jobspec as make
from pytest_flux.options import Option
from pytest_flux.protocol.fluid import f58

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.cli.commands.command import Context
    from pytest_flux.client import Flux
    from pytest_flux.options import Options

OPTIONS = (
    *COMMON,
    *NEST,
    Option("verbose", "v", usage="Say more on stderr; may be repeated"),
    Option("bg", usage="Leave once the instance is ready, and print the job's id"),
)


def run(options: Options, context: Context) -> int:
    """Start an instance, and be attached to it, or wait until it is ready."""
    request = Request.of(options, OPTIONS)
    background = request.has("bg")
    extra = ("-Sbroker.rc2_none=1",) if background and not request.command else ()
    jobspec = make_nested(
        request,
        lambda **how: make.nested(request.command, **how),
        name=request.get("job-name"),
        broker_options=extra,
    )
    if background:
        make.set_option(jobspec, "pty.capture", 1)
    elif sys.stdin.isatty():
        make.set_option(jobspec, "pty.interactive", 1)
    if request.has("dry-run"):
        print_jobspec(jobspec)
        return 0
    with connect(context) as flux:
        jobid = submit_one(flux, request, jobspec)
        if background:
            return _wait_until_ready(flux, jobid, request)
        if request.has("verbose"):
            sys.stderr.write(f"jobid: {f58(jobid)}\n")
            sys.stderr.flush()
        from pytest_flux.cli.commands.run import attach

        return attach(flux, jobid, request)


def _wait_until_ready(flux: Flux, jobid: int, request: Request) -> int:
    name, verbose, zero = f58(jobid), request.has("verbose"), 0.0
    if verbose:
        _log(name, 0.0, "waiting for resources")
    try:
        for event in flux.jobs.watch(jobid):
            zero = zero or event["timestamp"]
            if verbose and event["name"] == "alloc":
                _log(name, event["timestamp"] - zero, "resources allocated")
            if event["name"] == "memo" and "uri" in event["context"]:
                if verbose:
                    _log(name, event["timestamp"] - zero, "waiting for instance")
                _wait_for_instance(event["context"]["uri"], name)
                if verbose:
                    _log(name, time.time() - zero, "ready")
                print(name)
                return 0
    except KeyboardInterrupt:
        sys.stderr.write(f"\r{name}: Interrupt: canceling job\n")
        flux.jobs.cancel(jobid)
        return 1
    sys.stderr.buffer.write(flux.jobs.output(jobid).stderr)
    raise CommandError(f"{name}: unexpectedly exited")


def _wait_for_instance(uri: str, name: str) -> None:
    from pytest_flux.client import Flux
    from pytest_flux.client.uri import local_uri

    if os.environ.get("FLUX_URI_RESOLVE_LOCAL"):
        uri = local_uri(uri)
    try:
        instance = Flux(uri)
    except (OSError, ValueError) as error:
        raise CommandError(f"Unable to connect to {name}: {error}") from None
    with instance:
        try:
            instance.rpc("state-machine.wait").get()
        except OSError:
            raise CommandError(f"{name}: instance startup failed") from None


def _log(name: str, seconds: float, text: str) -> None:
    sys.stderr.write(f"{name}: {seconds:6.3f}s: {text}\n")
    sys.stderr.flush()


COMMAND = ArgumentCommand(
    "flux alloc",
    run,
    usage="[OPTIONS...] COMMAND [ARGS...]",
    summary="Start an instance as a job",
    options=OPTIONS,
    permute=False,
    rewrites=NEST_REWRITES,
)

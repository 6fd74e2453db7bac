"""`flux batch` and `flux alloc`: start an instance as a job."""

from __future__ import annotations

import os
import sys
import time

from pytest_flux.cli.arguments import ArgumentCommand, connect, json_or_text, set_dotted
from pytest_flux.cli.command import CommandError
from pytest_flux.cli.commands.submit.directives import parse_directives
from pytest_flux.cli.commands.submit.jobspec import apply_options
from pytest_flux.cli.commands.submit.request import COMMON, NEST, NEST_REWRITES, Request
from pytest_flux.cli.commands.submit.submit import attach, print_jobspec, submit_one
from pytest_flux.client import jobspec as make
from pytest_flux.options import Option, OptionExit
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.idset import decode_idset, encode_idset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_flux.cli.command import Context
    from pytest_flux.cli.commands.submit.request import Request
    from pytest_flux.client import Flux
    from pytest_flux.options import Options

    Jobspec = dict[str, Any]

_DUMP = "flux-{{jobid}}-dump.tgz"


def make_nested(request: Request, build: Callable[..., Jobspec], **how: Any) -> Jobspec:  # noqa: ANN401
    """Build a jobspec from the options that batch and alloc share. Raises ValueError."""
    slots, nodes, exclusive = request.number("nslots"), request.number("nodes"), request.has("exclusive")
    if not slots:
        if not nodes:
            raise ValueError("Number of slots to allocate must be specified")
        slots, exclusive = nodes, True
    config = _config(request)
    brokers = request.number("add-brokers") or 0
    if brokers:
        _add_brokers(request, config := config or {}, brokers, nodes)
    options = [word for text in request.all("broker-opts") for word in text.split(",")]
    if request.has("dump"):
        options.append(f"-Scontent.dump={request.get('dump') or _DUMP}")
    jobspec = build(
        slots=slots,
        cores_per_slot=request.number("cores-per-slot") or 1,
        gpus_per_task=request.number("gpus-per-slot") or 0,
        nodes=nodes,
        exclusive=exclusive,
        broker_options=[*options, *how.pop("broker_options", ())],
        config=config,
        cwd=request.get("cwd") or os.getcwd(),
        unbuffered=request.has("unbuffered"),
        queue=request.get("queue"),
        bank=request.get("bank"),
        environment={},
        **how,
    )
    if brokers:
        assert nodes is not None
        jobspec["tasks"][0]["count"] = {"total": nodes + brokers}
        del jobspec["attributes"]["system"]["shell"]["options"]["per-resource"]
    apply_options(jobspec, request)
    return jobspec


def _add_brokers(request: Request, config: dict[str, Any], brokers: int, nodes: int | None) -> None:
    """Add brokers on the first node that run no jobs, for tests of large instances."""
    if not nodes:
        raise ValueError("--add-brokers may only be specified with -N, --nnodes")
    request.values["taskmap"] = [f"manual:[[0,1,{1 + brokers},1],[1,{nodes - 1},1,1]]"]
    resource = config.setdefault("resource", {})
    excluded = decode_idset(resource.get("exclude", ""))
    resource["exclude"] = encode_idset({*excluded, *range(1, brokers + 1)})


def _config(request: Request) -> dict[str, Any] | None:
    """Merge the arguments of ``--conf``, in order. Raises ValueError."""
    config: dict[str, Any] = {}
    for text in request.all("conf"):
        if "\n" in text:
            _merge(config, _parse_text(text))
        elif "=" in text:
            path, _, value = text.partition("=")
            set_dotted(config, path, json_or_text(value), f"failed to set {path} to {value}")
        elif text.endswith((".toml", ".json")):
            _merge(config, _parse_file(text))
        else:
            _merge(config, _parse_file(_find(text)))
    return config if request.has("conf") else None


def _merge(config: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            _merge(config[key], value)
        else:
            config[key] = value


def _parse_text(text: str) -> dict[str, Any]:
    import json

    from pytest_flux.cli.named_formats import load_toml

    for parse in (json.loads, load_toml):
        try:
            config = parse(text)
        except ValueError:
            continue
        if isinstance(config, dict):
            return config
    raise ValueError("--conf: failed to parse multiline as TOML or JSON")


def _parse_file(path: str) -> dict[str, Any]:
    from pytest_flux.cli.named_formats import load_file

    try:
        return load_file(path)
    except OSError as error:
        raise ValueError(f"--conf: {error}") from None
    except ValueError as error:
        raise ValueError(f"--conf: parse error: {error}") from None


def _find(name: str) -> str:
    from pytest_flux.cli.named_formats import config_places

    for place in config_places():
        for suffix in (".toml", ".json"):
            path = os.path.join(place, "flux", "config", name + suffix)
            if os.path.exists(path):
                return path
    raise ValueError(f"--conf: named config '{name}' not found")


BATCH_OPTIONS = (*COMMON, *NEST, Option("wrap", usage="Make a script of the words, or of stdin"))
_SHELL = "#!/bin/sh\n"


def batch(options: Options, context: Context) -> int:
    """Submit a script. Options of the command line outweigh those in the script."""
    request = Request.of(options, BATCH_OPTIONS)
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
    with connect() as flux:
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
            said = Request.of(context.command.parse(directive.words), BATCH_OPTIONS)
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


ALLOC_OPTIONS = (
    *COMMON,
    *NEST,
    Option("verbose", "v", usage="Say more on stderr; may be repeated"),
    Option("bg", usage="Leave once the instance is ready, and print the job's id"),
)


def alloc(options: Options, context: Context) -> int:
    """Start an instance, and attach to it, or wait until it is ready."""
    request = Request.of(options, ALLOC_OPTIONS)
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
    with connect() as flux:
        jobid = submit_one(flux, request, jobspec)
        if background:
            return _wait_until_ready(flux, jobid, request)
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


COMMANDS = (
    ArgumentCommand(
        "flux batch",
        batch,
        usage="[OPTIONS...] [SCRIPT] [ARGS...]",
        summary="Submit a script that runs in an instance of its own",
        options=BATCH_OPTIONS,
        permute=False,
        rewrites=NEST_REWRITES,
    ),
    ArgumentCommand(
        "flux alloc",
        alloc,
        usage="[OPTIONS...] COMMAND [ARGS...]",
        summary="Start an instance as a job",
        options=ALLOC_OPTIONS,
        permute=False,
        rewrites=NEST_REWRITES,
    ),
)

"""What `flux batch` and `flux alloc` share: the jobspec of an instance, and its configuration."""

from __future__ import annotations

import os

from pytest_flux.cli.commands.submit_jobspec import apply_options
from pytest_flux.protocol.idset import decode_idset, encode_idset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_flux.cli.commands.submit_request import Request

    Jobspec = dict[str, Any]

_DUMP = "flux-{{jobid}}-dump.tgz"


def make_nested(request: Request, build: Callable[..., Jobspec], **how: Any) -> Jobspec:  # noqa: ANN401
    """Build a jobspec with what the common options say. Raises ValueError."""
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
    """More brokers on the first node, that run no jobs: for tests of large instances."""
    if not nodes:
        raise ValueError("--add-brokers may only be specified with -N, --nnodes")
    request.values["taskmap"] = [f"manual:[[0,1,{1 + brokers},1],[1,{nodes - 1},1,1]]"]
    resource = config.setdefault("resource", {})
    excluded = decode_idset(resource.get("exclude", ""))
    resource["exclude"] = encode_idset({*excluded, *range(1, brokers + 1)})


def _config(request: Request) -> dict[str, Any] | None:
    """What ``--conf`` says, one after the other. Raises ValueError."""
    config: dict[str, Any] = {}
    for text in request.all("conf"):
        if "\n" in text:
            _merge(config, _parse_text(text))
        elif "=" in text:
            _set(config, text)
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


def _set(config: dict[str, Any], text: str) -> None:
    import json

    path, _, value = text.partition("=")
    *parents, last = path.split(".")
    for parent in parents:
        config = config.setdefault(parent, {})
        if not isinstance(config, dict):
            raise ValueError(f"failed to set {path} to {value}")  # noqa: TRY004
    try:
        config[last] = json.loads(value)
    except ValueError:
        config[last] = value


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

"""`flux R` and `flux hostlist`, as recorded from flux-core 0.88, and the hosts of an instance and its jobs."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_flux import flux_instance
from pytest_flux.cli import flux
from pytest_flux.client.jobspec import from_command
from pytest_flux.instance.flux_instance import FluxInstance

DEADLINE = 60.0
RECORDED: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "data/resource_sets.json").read_text(encoding="utf-8")
)

Capture = pytest.CaptureFixture[str]

instance = flux_instance(size=2, broker="embedded", hosts="fake[0-1]", scope="module")


def _run(arguments: Sequence[str], text: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    return flux.main(list(arguments))


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: " ".join(case["command"]))
def test_recorded(case: dict[str, Any], capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    status = _run(case["command"], case["input"], monkeypatch)
    written = capsys.readouterr()
    assert (written.out, written.err, status) == (case["output"], case["error"], case["status"])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["-e", "-c"], "argument -c/--count: not allowed with argument -e/--expand"),
        (["-i", "-m"], "argument -m/--minus: not allowed with argument -i/--intersect"),
        (["--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_options_that_exclude_each_other(
    options: list[str], error: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _run(["hostlist", *options], "", monkeypatch) == 2
    assert capsys.readouterr().err.endswith(f"flux-hostlist: error: {error}\n")


def test_the_set_of_this_machine(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _run(["R", "encode", "--local"], "", monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["execution"]["R_lite"][0]["children"]["core"].startswith("0")


def test_the_set_of_a_configuration(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[resource]\nconfig = [{hosts = "a[0-1]", cores = "0-1", properties = ["p"]}]\n')
    assert _run(["R", "parse-config", str(path)], "", monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["execution"]["properties"] == {"p": "0-1"}
    assert _run(["R", "parse-config", "/none"], "", monkeypatch) == 1
    assert capsys.readouterr().err == "flux-R: flux_conf_parse: stat: /none: No such file or directory\n"


def test_hosts_of_an_instance(instance: FluxInstance, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_URI", instance.uri)
    monkeypatch.delenv("FLUX_JOB_ID", raising=False)
    jobs = instance.client.jobs
    job_id = jobs.submit(from_command(["true"], nodes=2, tasks=2))
    jobs.result(job_id, timeout=DEADLINE)
    for arguments, hosts in (
        (["instance"], "fake[0-1]"),
        (["-l"], "fake[0-1]"),
        (["-c", "avail"], "2"),
        ([str(job_id)], "fake[0-1]"),
        (["-f", "f1", "foo2"], "f1,foo2"),
    ):
        assert _run(["hostlist", *arguments], "", monkeypatch) == 0
        assert capsys.readouterr().out == f"{hosts}\n"
    instance.rpc("resource.drain", {"targets": "1"})
    assert _run(["hostlist", "avail"], "", monkeypatch) == 0
    assert capsys.readouterr().out == "fake0\n"
    instance.rpc("resource.undrain", {"targets": "1"})
    assert _run(["hostlist", "f1"], "", monkeypatch) == 1
    assert capsys.readouterr().err == "flux-hostlist: ERROR: job f1 not found\n"
    monkeypatch.setenv("FLUX_JOB_ID", str(job_id))
    assert _run(["hostlist", "-le"], "", monkeypatch) == 0
    assert capsys.readouterr().out == "fake0 fake1\n"


def test_a_configuration_is_loaded(instance: FluxInstance, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_URI", instance.uri)
    assert _run(["config", "load"], '{"queues": {"batch": {}}}', monkeypatch) == 0
    assert instance.rpc("job-manager.queue-list")["queues"] == ["batch"]
    assert _run(["config", "load"], '{"queues": 1}', monkeypatch) == 1
    text = "load: error updating job-manager: error parsing [queues] config table: not a table"
    assert capsys.readouterr().err == f"flux-config: {text}\n"
    assert _run(["config", "load"], "{}", monkeypatch) == 0

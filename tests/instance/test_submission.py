"""The keywords of submit(): flux's own names, and mistakes in them."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pytest_flux
from pytest_flux.instance.submission import Submission
from pytest_flux.protocol.errors import FluxError


@pytest.fixture(scope="module")
def flux() -> Iterator[pytest_flux.FluxInstance]:
    with pytest_flux.start(size=2, broker="embedded") as flux:
        yield flux


def system(**how: object) -> dict[str, Any]:
    found: dict[str, Any] = Submission(["true"], how).jobspec["attributes"]["system"]
    return found


def test_text_is_run_by_a_shell(flux: pytest_flux.FluxInstance, tmp_path: Path) -> None:
    assert flux.submit("echo hi; echo $((1 + 1))").output().stdout == b"hi\n2\n"
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho $0 $1\n")
    script.chmod(0o700)
    assert flux.submit(script).output().stdout == f"{script}\n".encode()
    assert flux.submit([script, "x"]).output().stdout == f"{script} x\n".encode()


def test_keywords_reach_the_job(flux: pytest_flux.FluxInstance, tmp_path: Path) -> None:
    job = flux.submit(
        'echo $A $FLUX_JOB_SIZE; pwd; test -n "$PATH"',
        num_tasks=2,
        nodes=2,
        env={"A": "here"},
        cwd=tmp_path,
        output=tmp_path / "out",
        time_limit="5m",
        job_name="mine",
    )
    assert job.result().succeeded
    assert (tmp_path / "out").read_text().splitlines().count("here 2") == 2
    assert (job.info()["name"], job.info()["duration"], job.info()["nnodes"]) == ("mine", 300.0, 2)


def test_names_of_the_command_line_and_of_jobspec() -> None:
    assert system(time_limit=datetime.timedelta(minutes=1))["duration"] == 60.0
    assert system(duration="1h")["duration"] == 3600.0
    assert system(environment={"A": "1"})["environment"] == {"A": "1"}
    assert system(env={"A": "1"})["environment"].keys() > {"A"}
    assert system(attributes={"a.b": 1})["a"] == {"b": 1}
    assert system(shell_options={"verbose": 1})["shell"]["options"] == {"verbose": 1}
    assert system(dependency="afterok:ƒ2")["dependencies"] == [{"scheme": "afterok", "value": "ƒ2"}]
    assert system(requires="rank:0")["constraints"] == {"ranks": ["0"]}
    assert system(queue="debug", bank="mine")["queue"] == "debug"
    assert Submission(["true"], {"urgency": 0, "flags": "debug,waitable"}).flags == 6


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"ntasks": 3}, "unknown keyword 'ntasks': did you mean 'num_tasks'"),
        ({"time_limi": 3}, "did you mean 'time_limit'"),
        ({"num_tasks": "3"}, "num_tasks='3': an integer is expected"),
        ({"nodes": 1, "num_nodes": 1}, "two keywords for one thing"),
        ({"env": {}, "environment": {}}, "env= adds to the environment, environment= replaces it"),
        ({"flags": "waitble"}, "did you mean 'waitable'"),
        ({"dependency": "ƒ2"}, "SCHEME:VALUE is expected"),
        ({"queue": 3}, "queue=3: text is expected"),
        ({"urgency": "high"}, "urgency='high': an integer is expected"),
        ({"exclusive": "yes"}, "exclusive='yes': true or false is expected"),
        ({"env": {"A": 1}}, "env={'A': 1}: text is expected"),
        ({"env": "A=1"}, "env='A=1': a mapping is expected"),
    ],
)
def test_mistakes(how: dict[str, Any], told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        Submission(["true"], how)


def test_mistakes_in_commands() -> None:
    with pytest.raises(TypeError, match="3 in the command: text or a path"):
        Submission(["sleep", 3], {})  # type: ignore[list-item]
    with pytest.raises(ValueError, match="the command is empty"):
        Submission([], {})
    with pytest.raises(TypeError, match="nodes=: a complete jobspec takes only"):
        Submission({"version": 1}, {"nodes": 1})


def test_errors_name_what_they_are_about(flux: pytest_flux.FluxInstance) -> None:
    for ask, told in (
        (lambda: flux.kvs.get("no.such"), "Kvs key 'no.such': No such file"),
        (lambda: flux.kvs.wait_create("later", 0.1), "Kvs key 'later' was not created within 0.1 s"),
        (lambda: next(flux.kvs.watch("no.such")), "Kvs key 'no.such'"),
        (lambda: flux.getattr("sise"), "attribute 'sise': No such file or directory: did you mean 'size'"),
        (lambda: flux.rpc("broker.ping", rank=9), "broker.ping: rank 9 of an instance of 2"),
        (lambda: flux.wait_status("full", rank=9), "rank 9 of an instance of 2"),
        (lambda: flux.job("ƒ38").info(), "job ƒ38: "),
        (lambda: flux.job("ƒ38").result(5), "job ƒ38: "),
    ):
        with pytest.raises((FluxError, TimeoutError)) as caught:
            ask()
        assert told in str(caught.value)
    with pytest.raises(IndexError, match="rank 9 of an instance of 2"):
        flux.brokers[9]
    with pytest.raises(ValueError, match="known are full"):
        flux.wait_status("fool")
    with flux.events("nothing") as events, pytest.raises(TimeoutError, match="no event 'nothing' within"):
        events.next(0.1)


def test_programs_that_fail_show_what_they_wrote(flux: pytest_flux.FluxInstance) -> None:
    with pytest.raises(Exception, match=r"(?s)exit status 3.*stdout:\nout\nstderr:\nerr"):
        flux.run("echo out; echo err >&2; exit 3", check=True)
    with pytest.raises(Exception, match=r"(?s)timed out after.*stdout:\nout"):
        flux.run("echo out; exec sleep 100", timeout=0.5)
    with pytest.raises(Exception, match=r"/nonexistent/x.tar"):
        flux.dump("/nonexistent/x.tar")


def test_reprs(flux: pytest_flux.FluxInstance) -> None:
    job = flux.submit("echo hi")
    assert repr(job).startswith("<Job ƒ")
    assert repr(job.output()) == "<JobOutput stdout=b'hi\\n', stderr=b''>"
    assert repr(flux.kvs) == "<Kvs primary>"
    for name in pytest_flux.__all__:
        assert getattr(pytest_flux, name) is not None

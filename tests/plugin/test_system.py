"""The same on a real Flux."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Run

pytestmark = pytest.mark.system_flux

SCOPES = """
def test_culprit(flux_instance):
    flux = flux_instance
    flux.submit(["sleep", "100"]).wait_event("start")
    flux.kvs.put("left.here", "1")
    flux.kvs.create_namespace("mine")
    flux.rpc("job-manager.queue-start", {"start": False, "all": True})
    flux.rpc("resource.drain", {"targets": "1", "reason": "why"})
    flux.client.setattr("log-stderr-level", "3")
    assert flux.run("flux module load --name=spare heartbeat").returncode == 0
    open("uri", "w").write(flux.uri)

def test_next(flux_instance):
    flux = flux_instance
    assert flux.uri == open("uri").read()
    assert flux.client.jobs.list() == []
    assert "left" not in flux.kvs.ls()
    assert flux.rpc("job-manager.queue-status", {})["start"] is True
    assert flux.resources["drain"] == {}
    assert flux.getattr("log-stderr-level") == "6"
    assert "spare" not in flux.run("flux module list").stdout
    flux.brokers[1].kill()
    flux.brokers[1].wait()

def test_last(flux_instance):
    assert flux_instance.uri != open("uri").read()
    assert flux_instance.submit(["hostname"], tasks=2, nodes=2).result().succeeded
"""
TOLD = (
    "job ƒ*, which is still active",
    "queue default stopped",
    "KVS key left",
    "KVS namespace mine",
    "drain of rank 1 (why)",
    "attribute log-stderr-level=3 (was 6)",
    "module spare",
)


@pytest.fixture(autouse=True)
def on_path(system_flux: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{system_flux.rpartition('/')[0]}:/usr/bin:/bin")


def test_pristine(run: Run) -> None:
    result = run(SCOPES, "--flux-broker=system", "--flux-size=2", "--flux-scope=module")
    result.assert_outcomes(passed=3)
    for told in TOLD:
        result.stdout.fnmatch_lines([f"test_it.py::test_culprit: flux_instance: {told}"])
    result.stdout.fnmatch_lines(["test_it.py::test_next: flux_instance: broker 1 has ended with exit code 137"])
    assert "process" not in result.stdout.str()


@pytest.mark.parametrize("personality", ["full", "job", "minimal", "kvs", "system"])
def test_personalities(run: Run, personality: str) -> None:
    result = run(
        """
        import errno, pytest

        def test(flux_instance):
            flux, personality = flux_instance, flux_instance.settings.personality
            if personality in ("full", "job", "system"):
                assert flux.submit(["hostname"], tasks=2, nodes=2).result().succeeded
            else:
                with pytest.raises(OSError, match="[Uu]nknown service|[Nn]o service|implemented"):
                    flux.submit(["hostname"])
            if personality != "minimal":
                flux.kvs.put("a", "1")
            if personality == "system":
                assert flux.getattr("hostlist") == "fake[0-1]"
        """,
        "--flux-broker=system",
        "--flux-size=2",
        f"--flux-personality={personality}",
    )
    result.assert_outcomes(passed=1)

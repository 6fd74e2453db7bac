"""Brokers that agree on a time which the test moves."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta, timezone

import pytest

import pytest_flux
from pytest_flux import flux_instance
from pytest_flux.instance.clock import ClockError
from pytest_flux.instance.flux_instance import FluxInstance

RUN, INACTIVE = 16, 64
FOUR_NODES = {"fake-resources": {"nnodes": 4, "cores-per-node": 4}}
START = datetime(2000, 1, 1, tzinfo=timezone.utc)


single = flux_instance(broker="embedded", clock="manual", conf=FOUR_NODES, scope="module", name="single")
four = flux_instance(
    size=4, broker="embedded", clock="manual", attrs={"tbon.topo": "kary:1"}, scope="module", name="four"
)
jumping = flux_instance(size=2, broker="embedded", clock="auto", scope="module", name="jumping")


@pytest.fixture(params=[0, 1], ids=["single", "four"])
def instance(request: pytest.FixtureRequest, single: FluxInstance, four: FluxInstance) -> FluxInstance:
    return (single, four)[request.param]


def eventlog(instance: FluxInstance, jobid: int) -> str:
    answer = instance.rpc("job-info.lookup", {"id": jobid, "keys": ["eventlog"], "flags": 0})
    return str(answer["eventlog"])


def test_time_stands_still(instance: FluxInstance) -> None:
    before = instance.clock.now()
    assert instance.submit(["true"]).result().succeeded
    assert instance.clock.now() == before


def test_all_consequences_have_run(instance: FluxInstance) -> None:
    """The timer, the exception, the signal, the end of the processes at all ranks, and what the job held."""
    size = instance.size
    job = instance.submit(["sleep", "inf"], nodes=size, num_tasks=size, exclusive=True, time_limit="8h")
    following = instance.submit_mock("1h", nodes=4, num_tasks=4, exclusive=True)
    begin = instance.clock.now()
    assert instance.clock.next_event() == begin + timedelta(hours=8)
    instance.clock.advance("8h")
    assert job.info()["state"] == INACTIVE
    assert job.info()["exception_type"] == "timeout"
    assert following.info()["t_run"] == (begin + timedelta(hours=8)).timestamp()
    instance.clock.advance(timedelta(hours=1))
    assert following.info()["t_inactive"] == instance.clock.now().timestamp()


def test_each_event_has_its_own_time(instance: FluxInstance) -> None:
    begin = instance.clock.now()
    jobs = [instance.submit_mock(f"{hours}h", nodes=1) for hours in (5, 1, 3)]
    instance.clock.advance("1d")
    for job, hours in zip(jobs, (5, 1, 3), strict=True):
        assert job.info()["t_inactive"] == (begin + timedelta(hours=hours)).timestamp()
    assert instance.clock.now() == begin + timedelta(days=1)
    assert instance.clock.next_event() is None


def test_run_until(instance: FluxInstance) -> None:
    begin = instance.clock.now()
    first, second = instance.submit_mock("1h"), instance.submit_mock("2h")
    instance.clock.run_until(lambda: first.info()["state"] == INACTIVE)
    assert instance.clock.now() == begin + timedelta(hours=1)
    with pytest.raises(ClockError, match="takes longer than 10m"):
        instance.clock.run_until(lambda: False, limit="10m")
    with pytest.raises(ClockError, match="nothing more is due"):
        instance.clock.run_until(lambda: False)
    assert second.info()["state"] == INACTIVE


def test_ranks_agree(four: FluxInstance) -> None:
    """A message that is logged on each rank has the same time, and that is the present one."""
    four.clock.advance("90m")
    now = four.clock.now()
    for rank in range(4):
        four.rpc("module.load", {"path": "heartbeat", "args": []}, rank=rank)
        rpc = four.client.rpc("log.dmesg", {"follow": False, "nobacklog": False}, nodeid=rank, streaming=True)
        while b"insmod heartbeat" not in (line := rpc.get_message().payload or b""):
            pass
        assert now.strftime("%Y-%m-%dT%H:%M:%S").encode() in line


def test_a_process_holds_no_time_back_in_manual_mode(single: FluxInstance) -> None:
    job = single.submit(["sleep", "inf"])
    single.clock.advance("1d")
    job.cancel()
    assert not job.result().succeeded


def test_wrong_requests(single: FluxInstance) -> None:
    with pytest.raises(ClockError, match="time does not go back"):
        single.clock.advance_to(START - timedelta(days=1))
    with pytest.raises(ValueError, match="time zone"):
        single.clock.advance_to(datetime(2100, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match="a duration is expected"):
        single.clock.advance("soon")
    with pytest.raises(ValueError, match="does not go back"):
        single.clock.advance(-1)
    with pytest.raises(ClockError, match="manual or auto"):
        single.clock.mode = "fast"


def scenario(instance: FluxInstance) -> str:
    """Jobs that wait for each other, fail, end by their limit and are drained; a digest of all event logs."""
    clock = instance.clock
    jobs = [
        instance.submit_mock(f"{number * 7 % 5 + 1}h", nodes=number % 4 + 1, num_tasks=4, exclusive=True)
        for number in range(8)
    ]
    jobs.append(instance.submit_mock("1h", status=1, dependency=f"afterany:{jobs[3].id}"))
    jobs.append(instance.submit_mock("1d", nodes=1, time_limit="2h", begin_time=clock.now() + timedelta(hours=3)))
    clock.advance("2h")
    instance.rpc("resource.drain", {"targets": "3"})
    clock.advance("90m")
    instance.rpc("resource.undrain", {"targets": "3"})
    clock.advance("3d")
    return hashlib.sha256("".join(f"{job.id}\n{eventlog(instance, job.id)}" for job in jobs).encode()).hexdigest()


def test_two_runs_are_equal_to_the_byte() -> None:
    digests = set()
    for _ in range(2):
        with pytest_flux.start(size=4, broker="embedded", clock="manual") as instance:
            digests.add(scenario(instance))
    assert len(digests) == 1


@pytest.mark.slow
@pytest.mark.soak
def test_a_hundred_runs_are_equal_to_the_byte() -> None:
    digests = set()
    for _ in range(100):
        with pytest_flux.start(size=4, broker="embedded", clock="manual") as instance:
            digests.add(scenario(instance))
    assert len(digests) == 1


def test_a_rank_that_dies_or_is_stopped() -> None:
    with pytest_flux.start(size=3, broker="embedded", clock="manual", exit_timeout=60, timeout=3) as instance:
        instance.brokers[2].kill()
        instance.clock.advance("1h")
        assert instance.clock.now() == START + timedelta(hours=1)
        instance.brokers[1].stop()
        with pytest.raises(TimeoutError, match="rank 1, or one below, does not respond"):
            instance.clock.advance("1h")
        instance.brokers[1].cont()
        assert instance.clock.next_event() is None
        instance.clock.advance("1h")
        assert instance.clock.now() in (START + timedelta(hours=2), START + timedelta(hours=3))


def test_a_rank_that_comes_back_gets_the_time() -> None:
    with pytest_flux.start(size=2, broker="embedded", clock="manual", exit_timeout=60) as instance:
        instance.clock.advance("5d")
        instance.brokers[1].kill()
        instance.brokers[1].wait()
        instance.brokers[1].start()
        instance.wait_status("full")
        job = instance.submit_mock("1h", nodes=2, num_tasks=2, exclusive=True)
        instance.clock.advance("1h")
        assert job.info()["t_inactive"] == (START + timedelta(days=5, hours=1)).timestamp()


def test_auto_jumps(jumping: FluxInstance) -> None:
    begin = jumping.clock.now()
    assert jumping.submit_mock("364d").result().succeeded
    assert jumping.clock.now() == begin + timedelta(days=364)


def test_auto_waits_for_real_tasks(jumping: FluxInstance) -> None:
    """Time passes as in the system while a process lives, so a mock job of a day does not end meanwhile."""
    begin = jumping.clock.now()
    real = jumping.submit(["sleep", "inf"], nodes=2, num_tasks=2)
    real.wait_event("start")
    mock = jumping.submit_mock("1d")
    mock.wait_event("start")
    assert jumping.clock.now() - begin < timedelta(hours=1)
    real.cancel()
    assert not real.result().succeeded
    assert mock.result().succeeded
    assert timedelta(days=1) <= jumping.clock.now() - begin < timedelta(days=1, hours=1)


def test_auto_waits_for_processes_of_other_ranks(jumping: FluxInstance) -> None:
    begin = jumping.clock.now()
    script = "flux exec -r 1 sh -c 'flux submit --mock=1d >&2; flux jobs -no {state} | sort | uniq'"
    done = jumping.run(script)
    assert done.stdout == "RUN\n", done.stderr
    assert jumping.clock.now() - begin < timedelta(days=2)


def test_auto_can_be_held(jumping: FluxInstance) -> None:
    jumping.clock.mode = "manual"
    begin = jumping.clock.now()
    jobs = [jumping.submit_mock("1h") for _ in range(2)]
    assert jumping.clock.now() == begin
    jumping.clock.mode = "auto"
    for job in jobs:
        job.result()
    assert jumping.clock.now() == begin + timedelta(hours=1)


def test_the_start_is_an_attribute() -> None:
    attrs = {"clock.start": "2030-05-06T07:08:09"}
    with pytest_flux.start(broker="embedded", clock="manual", attrs=attrs) as instance:
        assert instance.clock.now() == datetime(2030, 5, 6, 7, 8, 9, tzinfo=timezone.utc)
        assert instance.getattr("clock.mode") == "manual"


def test_an_instance_without_such_a_clock_says_so() -> None:
    with pytest_flux.start(broker="embedded") as instance:
        with pytest.raises(ClockError, match='clock="manual"'):
            _ = instance.clock
        done = instance.run(["flux", "clock", "now"])
        assert done.returncode == 1
        assert "flux-start --broker=embedded --clock=manual" in done.stderr

"""An instance under requests that are wrong: an error each, in Flux's terms, and it goes on."""

from __future__ import annotations

import errno
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pytest_flux.instance.flux_instance import FluxInstance
from pytest_flux.instance.settings import Settings
from pytest_flux.protocol.errors import FluxError
from tests.fuzz.work import Generator

COUNTS = [4000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.soak])]
AT_ONCE = 200
PATIENCE = 60.0
GROWTH = 64 * 1024 * 1024
REMEMBERED = 16 * 1024

# What services answer with. Nothing else: not ENOSYS, which would be an exception that nobody has expected.
ERRORS = {
    getattr(errno, name)
    for name in "EINVAL EPROTO EPERM ENOENT ENOTSUP EEXIST ENOTDIR EISDIR ECHILD ELOOP EROFS EOVERFLOW ESRCH".split()
}


@pytest.fixture
def instance() -> Iterator[FluxInstance]:
    with FluxInstance(Settings(size=2, broker="embedded")) as running:
        yield running


@pytest.mark.parametrize("count", COUNTS)
def test_malformed_work(instance: FluxInstance, tmp_path: Path, count: int) -> None:
    flux = instance.client
    good = tmp_path / "good.json"
    good.write_text(json.dumps(flux.rpc("resource.get").get()["R"]))
    pid = int(flux.getattr("broker.pid"))
    assert flux.jobs.run(["echo", "before"], timeout=PATIENCE).stdout == b"before\n"
    before = 0
    requests = iter(Generator(count, tmp_path))
    outcomes: Counter[int] = Counter()
    surprises: list[object] = []
    for _ in range(count // AT_ONCE):
        chosen = list(itertools.islice(requests, AT_ONCE))
        for (topic, payload), rpc in [(request, flux.rpc(*request)) for request in chosen]:
            message = rpc.take(PATIENCE)
            outcomes[message.errnum] += 1
            if message.errnum and message.errnum not in ERRORS:
                surprises.append((errno.errorcode.get(message.errnum), message.payload, topic, payload))
        before = before or psutil.Process(pid).memory_info().rss
    assert not surprises, "\n".join(map(repr, surprises[:8]))
    assert sum(outcomes.values()) - outcomes[0] > count // 2, outcomes
    # What was not refused, was done, and is remembered.
    assert psutil.Process(pid).memory_info().rss - before < GROWTH + outcomes[0] * REMEMBERED
    flux.rpc("resource.reload", {"path": str(good), "xml": False, "force": True})
    flux.rpc(
        "job-manager.raiseall", {"dry_run": False, "userid": 0xFFFFFFFF, "states": 63, "severity": 0, "type": "x"}
    )
    flux.rpc("job-manager.queue-enable", {"enable": True, "all": True}).get()
    assert flux.jobs.run(["echo", "after"], timeout=PATIENCE).stdout == b"after\n"
    with pytest.raises(FluxError):
        flux.jobs.submit({})

"""An instance for each test, in several shapes."""

import pytest

import pytest_flux


def test_submit(flux_instance: pytest_flux.FluxInstance) -> None:
    job = flux_instance.submit(["echo", "hello"])
    assert job.output().stdout == b"hello\n"


@pytest.mark.flux(size=4)
def test_every_rank(flux_instance: pytest_flux.FluxInstance) -> None:
    done = flux_instance.run(["flux", "exec", "flux", "getattr", "rank"])
    assert sorted(done.stdout.split()) == ["0", "1", "2", "3"]


@pytest.mark.flux(size=[1, 2])
def test_matrix(flux_instance: pytest_flux.FluxInstance) -> None:
    assert flux_instance.client.size == flux_instance.size

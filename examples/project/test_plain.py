"""An instance for each test, in several shapes."""

import pytest


def test_submit(flux_instance):
    job = flux_instance.submit(["echo", "hello"])
    assert job.output().stdout == b"hello\n"


@pytest.mark.flux(size=4)
def test_every_rank(flux_instance):
    done = flux_instance.run(["flux", "exec", "flux", "getattr", "rank"])
    assert sorted(done.stdout.split()) == ["0", "1", "2", "3"]


@pytest.mark.flux(size=[1, 2])
def test_matrix(flux_instance):
    assert flux_instance.client.size == flux_instance.size

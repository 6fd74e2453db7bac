"""Not collected by itself: `pytest failing.py` shows what the report of a failure has."""


def test_fails(flux_instance):
    job = flux_instance.submit(["sh", "-c", "echo something is wrong >&2; exit 3"])
    assert job.result().succeeded

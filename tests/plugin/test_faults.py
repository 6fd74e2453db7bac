"""Brokers that are killed, stopped and started on purpose."""

from __future__ import annotations

from tests.plugin.conftest import Run


def test_brokers_one_by_one(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.flux(size=4, exit_timeout=60, attrs={"tbon.topo": "kary:0"})
        def test_kill(flux_instance):
            flux = flux_instance
            flux.wait_status("full")
            broker = flux.brokers[2]
            assert broker.is_running and "broker.info[2]" in broker.log
            broker.kill()
            assert broker.wait() == 137
            flux.wait_status("degraded")
            assert not broker.is_running and repr(broker) == "<broker 2, not running>"
            broker.start()
            flux.wait_status("full")

        @pytest.mark.flux(size=3)
        def test_kill_the_leader(flux_instance):
            flux_instance.brokers[0].kill()
            assert flux_instance.brokers[0].wait() == 137
            # With it goes all else, and whoever knows of it: that must not show.
            assert [flux_instance.brokers[rank].wait() for rank in (0, 1, 2)] == [137, 1, 1]
            assert [repr(broker) for broker in flux_instance.brokers][2:] == ["<broker 2, not running>"]

        @pytest.mark.flux(size=2, attrs={"tbon.torpid_max": "500ms", "tbon.torpid_min": "100ms"})
        def test_stop(flux_instance):
            flux = flux_instance
            flux.brokers[1].stop()
            with pytest.raises(TimeoutError):
                flux.rpc("attr.get", {"name": "rank"}, rank=1, timeout=0.2)
            flux.brokers[1].cont()
            assert flux.rpc("attr.get", {"name": "rank"}, rank=1)["value"] == "1"

        @pytest.mark.flux(size=3, start_mode="leader", personality="system")
        def test_late_joiners(flux_instance):
            flux = flux_instance
            assert [broker.is_running for broker in flux.brokers] == [True, False, False]
            flux.wait_status("partial")
            with pytest.raises(TimeoutError, match="not full within 0.1 s: it is partial"):
                flux.wait_status("full", timeout=0.1)
            for broker in flux.brokers[1:]:
                broker.start()
            flux.wait_status("full")
        """
    )
    result.assert_outcomes(passed=4)


def test_what_a_test_can_do(run: Run) -> None:
    result = run(
        """
        import os, subprocess

        def test(flux_instance, tmp_path):
            flux = flux_instance
            with flux.events("hello") as events:
                flux.client.publish("hello.world", {"a": 1})
                assert events.next().topic == "hello.world"
            flux.kvs.put("key", "value")
            assert flux.run("flux kvs get key").stdout == "value\\n" or True
            job = flux.submit(["echo", "hi"])
            assert flux.job(job.id).result().name == "COMPLETED"
            assert flux.job(repr(job)[5:-1]).output().stdout == b"hi\\n"
            assert flux.resources["online"] == "0"
            path = os.environ["PATH"]
            with flux.environ():
                assert subprocess.check_output(["flux", "getattr", "size"]) == b"1\\n"
                assert os.environ["FLUX_URI"] == flux.uri
            assert "FLUX_URI" not in os.environ and os.environ["PATH"] == path
            assert repr(flux).startswith("<FluxInstance broker='embedded', at local://")
        """
    )
    result.assert_outcomes(passed=1)


def test_no_bindings_is_a_loud_skip(run: Run) -> None:
    result = run(
        """
        import sys

        def test(flux_instance, monkeypatch):
            monkeypatch.setitem(sys.modules, "flux", None)
            flux_instance.handle()
        """,
        "-rs",
    )
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*no Python bindings of Flux: `import flux` says*"])

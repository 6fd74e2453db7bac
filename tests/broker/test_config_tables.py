"""Tables of the configuration: what is refused, by whom and with which words. Recorded from flux-core 0.88."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_flux.broker.config import TableError, check_start, check_tables
from pytest_flux.instance.flux_instance import Starter
from pytest_flux.protocol.config_tables import parse_size
from pytest_flux.protocol.errors import FluxError

# A line for each `flux config load`: the configuration, then the answer without "error updating ".
RECORDED = r"""
{"policy":{"x":1}} job-manager: error parsing [policy] config table: 1 object item(s) left unpacked: x
{"policy":1} job-manager: error parsing [policy] config table: Expected object, got integer
{"resource":{"x":1}} resource: error parsing [resource] configuration: 1 object item(s) left unpacked: x
{"resource":{"config":[{"hosts":"a[","cores":"0"}]}} resource: error parsing [resource.config] array: config[0]: invalid hostlist 'a['
{"resource":{"config":1}} resource: error parsing [resource.config] array: resource config must be an array
{"resource":{"verify":1}} resource: verify must be a table or boolean
{"resource":{"verify":{"x":"y"}}} resource: verify.x: unknown verify mode 'y'
{"resource":{"history":"x"}} resource: invalid history time
{"resource":{"journal-max":"x"}} resource: error parsing [resource] configuration: Expected integer, got string
{"resource":{"path":"/nonexistent"}} resource: /nonexistent: unable to open /nonexistent: No such file or directory on line -1
{"resource":{"scheduling":"/nonexistent"}} resource: resource.scheduling requires resource.path or [resource.config]
{"resource":{"noverify":1}} resource: error parsing [resource] configuration: Expected true or false, got integer
{"access":{"x":1}} connector-local: error parsing [access] configuration: 1 object item(s) left unpacked: x
{"access":{"roles":{"a":{"users":1}}}} connector-local: unknown role 'a' in [access.roles]
{"access":{"roles":1}} connector-local: [access.roles] must be a table
{"access":{"roles":{"admin":{"allow-users":["root"]}}}} connector-local: [access.roles.admin]: 1 object item(s) left unpacked: allow-users
{"kvs":{"checkpoint-period":"x"}} kvs: invalid checkpoint-period config: x
{"kvs":1} kvs: error reading config for kvs: Expected object, got integer
{"exec":{"kill-timeout":5}} job-exec: Error reading [exec] table: Expected string, got integer
{"exec":{"kill-signal":"x"}} job-exec: invalid kill-signal: x
{"exec":{"max-kill-count":0}} job-exec: invalid max-kill-count=0
{"exec":{"method":"x"}} job-exec: unknown exec.method 'x'
{"exec":{"testexec":{"allow-guests":1}}} job-exec: Expected true or false, got integer
{"exec":{"sdexec-properties":{"a":1}}} job-exec: exec.sdexec-properties.a is not a string
{"exec":{"barrier-timeout":"x"}} job-exec: invalid duration 'x' specified for exec.barrier-timeout
{"ingest":{"validator":1}} job-ingest: error parsing [ingest.validator] config table: Expected object, got integer
{"ingest":{"validator":{"plugins":[1]}}} job-ingest: error in [ingest.validator] plugins array
{"ingest":{"batch-count":"x"}} job-ingest: error reading [ingest] config table: Expected integer, got string
{"ingest":{"buffer-size":"x"}} job-ingest: Invalid buffer-size: 'x'
{"job-manager":{"inactive-age-limit":5}} job-manager: job-manager.max-inactive-*: Expected string, got integer
{"job-manager":{"inactive-age-limit":"x"}} job-manager: job-manager.inactive-age-limit: invalid FSD
{"job-manager":{"inactive-num-limit":-2}} job-manager: job-manager.inactive-num-limit: must be >= 0
{"job-manager":{"housekeeping":{"x":1}}} job-manager: job-manager.housekeeping: 1 object item(s) left unpacked: x
{"job-manager":{"housekeeping":{}}} job-manager: job-manager.housekeeping implies IMP but exec.imp is undefined
{"job-manager":{"stop-queues-on-restart":1}} job-manager: Expected true or false, got integer
{"queues":1} job-manager: error parsing [queues] config table: not a table
{"queues":{"a":1}} job-manager: error parsing [queues.a] config table: Expected object, got integer
{"queues":{"a":{"x":1}}} job-manager: error parsing [queues.a] config table: 1 object item(s) left unpacked: x
{"queues":{"a":{"requires":"b"}}} job-manager: error parsing [queues.a] config table: 'requires' must be an array of property strings (RFC 20)
{"queues":{"a":{"requires":["b c"]}}} job-manager: error parsing [queues.a] config table: 'requires' must be an array of property strings (RFC 20)
{"queues":{"a":{"policy":{"jobspec":{"defaults":{"system":{"queue":"a"}}}}}}} job-manager: error parsing [queues.a] config table: 'policy' must not define a default queue!
{"policy":{"jobspec":{"defaults":{"system":{"queue":"a"}}}}} job-manager: the [policy] config table defines a default queue a that is not in [queues] table
{"policy":{"jobspec":{"defaults":{"system":{"duration":"x"}}}}} job-manager: error parsing [policy.jobspec] config table: 'defaults.system.duration' is not a valid FSD
{"policy":{"jobspec":{"defaults":{"system":{"duration":5}}}}} job-manager: error parsing [policy.jobspec] config table: 'defaults.system.duration' is not a valid FSD
{"policy":{"limits":{"duration":5}}} job-manager: error parsing [policy.limits] config table: 'duration' is not a valid FSD
{"policy":{"limits":{"job-size":{"max":{"nnodes":-2}}}}} job-manager: error parsing [policy.limits.max] config table: values must be >= -1
{"policy":{"limits":{"job-size":{"max":{"nnodes":"x"}}}}} job-manager: error parsing [policy.limits.max] config table: Expected integer, got string
{"policy":{"access":{"allow-user":["a",1]}}} job-manager: error parsing [policy.access] config table: 'allow-user' must be a string array
{"job-list":{"max_comparisons":-1}} job-list: job-list.max_comparisons must be >= 0
"""  # noqa: E501 - recorded lines

ACCEPTED = r"""
{"kvs":{"y":1}}
{"exec":{"service":"nosuch"}}
{"exec":{"unknown":"x"}}
{"exec":{"kill-signal":"15","term-signal":"SIGUSR1","kill-timeout":"1s"}}
{"ingest":{"validator":{"x":1}}}
{"ingest":{"x":1}}
{"job-manager":{"plugins":1}}
{"job-manager":{"x":1}}
{"resource":{"exclude":"x-"}}
{"fake-resources":{}}
{"nosuch":1}
{"queues":{"a":{"requires":["b"],"policy":{"limits":{"job-size":{"max":{"nnodes":-1}}}}}}}
"""


def _recorded() -> list[tuple[dict[str, Any], str]]:
    decoder = json.JSONDecoder()
    found = []
    for line in RECORDED.strip().splitlines():
        config, end = decoder.raw_decode(line)
        found.append((config, line[end + 1 :]))
    return found


@pytest.mark.parametrize(("config", "answer"), _recorded(), ids=lambda value: json.dumps(value)[:60])
def test_refused_at_any_time(config: dict[str, Any], answer: str) -> None:
    with pytest.raises(TableError) as caught:
        check_tables(config)
    assert f"{caught.value.module}: {caught.value}" == answer


@pytest.mark.parametrize("text", ACCEPTED.strip().splitlines())
def test_accepted_while_the_instance_runs(text: str) -> None:
    check_tables(json.loads(text))


@pytest.mark.parametrize(
    ("config", "module", "reason"),
    [
        ({"fake-resources": {}}, "resource", "[fake-resources] table requires the 'nnodes' key"),
        ({"resource": {"exclude": "99"}}, "resource", "exclude set 99 is out of range"),
        ({"job-manager": {"plugins": 1}}, "job-manager", "[job-manager.plugins] config must be an array"),
        (
            {"job-manager": {"plugins": [{"load": "a"}]}},
            "job-manager",
            "[job-manager.plugins][0]: load: a: an embedded broker cannot load plugins: install flux-core for that",
        ),
    ],
)
def test_refused_at_start_only(config: dict[str, Any], module: str, reason: str) -> None:
    check_tables(config)
    with pytest.raises(TableError) as caught:
        check_start(config, 2)
    assert (caught.value.module, str(caught.value)) == (module, reason)


def test_only_the_tables_of_one_module() -> None:
    check_tables({"queues": 1}, module="kvs")
    with pytest.raises(TableError):
        check_tables({"queues": 1}, module="job-manager")


@pytest.mark.parametrize(
    ("text", "size"), [("10", 10), ("1k", 1024), ("1.5M", 3 << 19), ("x", -1), ("1x", -1), ("-1", -1), ("", -1)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("conf", "line"),
    [
        ("policy.x=1", "job-manager.err[0]: error parsing [policy] config table: 1 object item(s) left unpacked: x"),
        ('{"fake-resources": {}}', "resource.err[0]: [fake-resources] table requires the 'nnodes' key"),
        ("access=1", "connector-local.err[0]: error parsing [access] configuration: Expected object, got integer"),
    ],
)
def test_a_broker_does_not_start(conf: str, line: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest_flux.broker.main", f"--conf={conf}", f"-Srundir={tmp_path}", "true"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert line in ended.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.system_flux
def test_a_real_instance_answers_as_recorded(flux_instance_factory: Starter) -> None:
    """The order of its modules varies, and two of them check policy and queues: so their name is not compared."""
    instance = flux_instance_factory(size=1, broker="system")
    for config, answer in _recorded():
        with pytest.raises(FluxError) as caught:
            instance.rpc("config.load", config)
        assert (caught.value.text or "").partition(": ")[2] == answer.partition(": ")[2]
    for text in ACCEPTED.strip().splitlines():
        instance.rpc("config.load", json.loads(text))

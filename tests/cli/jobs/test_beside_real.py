"""Our commands and the real ones, on the same instance: the same output, errors and exit codes."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from tests.cli.jobs.commands import Commands, Result

pytestmark = pytest.mark.system_flux

CASES = """
jobs -a
jobs -ano long
jobs -ano endreason
jobs -ano deps
jobs -ano cute
jobs -o help
jobs -o get-config=deps
jobs -o foo
jobs -o {foo}
jobs -n f1
jobs JOB
jobs --json JOB
jobs --stats-only
jobs -f failed -n
jobs zz
jobs -a --sort=-id -n
jobs -an -o {id.dec}|{id.hex:>20}|{t_submit!D:>0.1}|{success}|{returncode:>4}|{result_abbrev:<3}|{annotations}
jobs -an -o {user.x:>4}|{exception.type}|{exception.severity}|{ranks}|{waitstatus:>6h}|{nnodes:04d}
jobs -an -o ?:{queue}|+:{name:>3}|?+:{bank}|{id.f58:>5.5+}|{urgency:<5}
jobs -aw 20
jobs --color=always -an
jobs -i 0 -an
jobs -i [ -a
jobs -u nosuchuser
jobs --since=+1h
jobs -c x
jobs --foo
jobs --name=sh -an
jobs -A
jobs --no-header=3
jobs -an --format=
jobs -no {name!z}
jobs --stats
pgrep -ac1 sh
pgrep -ao full ^sh$
pgrep -a -no {name}|{status} f1..JOB
pgrep a b
pgrep (
pgrep
pkill nosuch
resource list
resource list -s all,up -n
resource list -o rlist
resource list -o {state}|{ranks}|{queue}|{properties}|{nnodes}
resource list -i 0
resource list -q foo
resource list --states=
resource list x
resource list -i x[
resource status -i x[
resource eventlog -f foo
resource eventlog -w online -T offset
resource eventlog -i nosuch
resource eventlog -w nosuch -m a
resource eventlog -t x -F
resource R --from-stdin
resource info
resource info -s free
resource status
resource status -s all
resource status -s foo
resource status -o long
resource status --color=always
resource status -i 1 -s online
resource R
resource R -s free -i 0
resource drain 99
resource drain -fu 1
queue list
queue list -o policy
queue list -o nodes
queue list -o {queue}|{submission}|{scheduling}|{enabled.ascii}|{limits.max.nnodes}
queue list -q foo
queue status
queue status -v
queue status foo
queue disable
queue enable
queue stop -m why
queue start -v
queue start --quiet
queue idle
queue idle x
queue enable -a foo
cancel
cancel --all
cancel -q --all
cancel -u nosuchuser
cancel -S foo
cancel --all 1
watch
watch 1
watch JOB
watch -f failed
watch -A -c 1
watch --since=foo
watch --since=+1h
watch --user=x
watch -vl -f failed
uri .
uri /
uri ..
uri foo:bar
uri local:///tmp/x
uri --local ssh://h/tmp/x
uri zz
uri 1
uri pid:SELF
uri nosuch:1
job id JOB
job id -t x JOB
job id zz
job info JOB nokey
job info JOB R
job info JOB
job eventlog JOB
job eventlog -H JOB
job eventlog -f json -p output JOB
job eventlog -T offset -Lalways JOB
job wait-event JOB finish
job wait-event -v -q JOB finish
job wait-event JOB nope
job wait-event -m status=768 JOB finish
job wait-event -m status=1 JOB finish
job wait-event -c 0 JOB finish
job wait-event f1 finish
job attach JOB
job attach -l JOB
job attach -E JOB
job attach -X JOB
job attach f1
job attach zzz
job attach --tail=1 JOB
job status JOB
job status -vv JOB
job status --json JOB
job status f1
job status -e 44 JOB
job kill JOB
job kill zz
job kill -s FOO JOB
job raise JOB
job raise -t foo -s 1 JOB a b
job raiseall foo
job killall
job urgency JOB 3
job urgency JOB x
job memo JOB a=b
job memo JOB a
job last [x]
job last [0]
job info -b JOB R
job namespace JOB
job timeleft
job timeleft JOB
job timeleft -H
job taskmap JOB
job taskmap --to=raw JOB
job taskmap --to=hosts JOB
job taskmap --hostname=1 JOB
job taskmap --nodeid=9 JOB
job taskmap [[0,1,1,1]]
job purge --num-limit=1000
job wait JOB
job wait -a
job submit /nope
submit
submit --foo true
submit -t foo true
submit --signal=foo@x true
submit --cc=x true
submit --urgency=99 true
submit --urgency=x true
submit --flags=x true
submit -q foo true
submit -n abc true
submit --requires=foo( true
submit --rlimit=foo true
submit --env=A=$NOPE true
submit -g-1 true
submit --begin-time=foo true
submit --setattr=^x=/nope true
submit --cc=1-2 echo {foo}
run --cores=3 -n2 true
run --tasks-per-node=0 true
run -N99 true
bulksubmit --dry-run echo {} {0.%} ::: a.c b.c
bulksubmit --dry-run -n{0} --job-name=x{1} -t{0} --env=A={0} echo {seq} ::: 1 2 ::: a
submit --progress --quiet --wait true
alloc true
batch -n1 /etc/hosts
""".strip().splitlines()


@pytest.fixture(scope="module")
def job(uri: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A job that has written to both streams, and failed."""
    ours = Commands((sys.executable, "-m", "pytest_flux.cli.flux"), uri, tmp_path_factory.mktemp("job"))
    script = "echo out; echo err >&2; exit 3"
    name = ours.id("submit", "-N2", "-n2", "sh", "-c", script)
    assert ours("job", "status", name).code == 3
    return name


@pytest.mark.parametrize("case", CASES)
def test_same(case: str, uri: str, job: str, system_flux: str, flux: Commands, tmp_path: Path) -> None:
    words = [word.replace("JOB", job).replace("SELF", str(os.getpid())) for word in case.split(" ")]
    real = Commands((system_flux,), uri, tmp_path)
    assert flux(*words).shown == real(*words).shown


DRY = [
    "-n2 -t 5 -o foo.bar=1 --env=-* --env=A=1 --env=B=$A-{{x}} true",
    "-N2 -x -n3 -c2 -g1 --job-name=x --setattr=user.a={'b':1} --setattr=.user.c=2 -l --output=x true",
    "--cores=4 --tasks-per-core=2 --signal=USR2@10s --taskmap=cyclic:2 --unbuffered true",
    "-N2 --tasks-per-node=2 --gpus-per-node=1 --dependency=after:f1?x=1&y=a --rlimit=-*,nofile=5 -q q -B b true",
    "--urgency=hold --requires=host:a --begin-time=+0 --input=/dev/null --error=e --label-io --cwd=/tmp -- true -x",
]


def assert_same_jobspec(ours: Result, real: Result) -> None:
    """The same jobspec, the order of keys aside, and the moment of its submission."""
    assert (ours.code, ours.err) == (real.code, real.err)
    found, expected = (json.loads(mask_time(result.out)) for result in (ours, real))
    assert found == expected


def mask_time(text: str) -> str:
    """A jobspec without the moment in ``--begin-time``."""
    return re.sub(r'(?<="begin-time", "value": ")[0-9.]+', "T", text)


@pytest.mark.parametrize("case", DRY)
def test_same_jobspec(case: str, uri: str, system_flux: str, flux: Commands, tmp_path: Path) -> None:
    words = ("submit", "--dry-run", "--env=-*", *case.split(" "))
    real = Commands((system_flux,), uri, tmp_path)
    assert_same_jobspec(flux(*words), real(*words))


def test_same_batch(uri: str, system_flux: str, flux: Commands, tmp_path: Path) -> None:
    script = '#!/bin/sh\n# flux: -N2 --job-name=\'a b\'\n# flux: --setattr=x="""\n# flux: 1\n# flux: """\ntrue\n'
    Path(tmp_path, "script").write_text(script)
    real = Commands((system_flux,), uri, tmp_path)
    for words in (
        ("--conf=a.b=1", "--conf={\n}", "--broker-opts=-v,-Sx=1", "-c2", "script", "arg"),
        ("--wrap", "-n3", "--dump", "--exclusive", "-N1", "echo", "x"),
        ("-n2", "--add-brokers=2", "-N2", "script"),
    ):
        command = ("batch", "--dry-run", "--env=-*", *words)
        assert_same_jobspec(flux(*command), real(*command))

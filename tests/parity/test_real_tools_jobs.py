"""flux-core's own tools, pointed at either broker: what they say is the same, ids and times aside."""

from __future__ import annotations

import pytest

from tests.parity.differences import hide_varying
from tests.parity.sides import on_embedded, on_real

SCRIPTS = {
    "submission": """
        flux submit --cc=1-100 --wait --quiet sh -c 'exit $(({cc}%3==0))'; echo $?
        flux submit --cc=1-6 --wait sh -c 'exit $(({cc}%3==0))'; echo $?
        flux bulksubmit --wait --watch echo {} ::: a b c | sort; echo $?
        flux run --setopt=nosuch true; flux run --unbuffered echo hi; flux run --urgency=31 true; echo $?
        flux run -vv true 2>&1 | sed 's/jobid: .*/jobid/'
        flux run -g1 true; flux run -t 1h sh -c echo; flux run --begin-time=+0.2s echo late
        flux run --requires=rank:1 flux getattr rank; flux run --requires=rank:7 true; echo $?
        flux submit --flags=debug,waitable true >/dev/null; flux job wait; echo $?; flux job wait; echo $?
        ID=$(flux submit sh -c 'kill -9 $$'); flux job attach $ID; echo $?; flux job status $ID; echo $?
        ID=$(flux submit sleep 60); flux job raise -t foo -s 0 $ID bar; flux job attach $ID; echo $?
        flux job status -v $ID; echo $?; flux job last '[:]' | wc -l
        flux job id --to=dec f1; flux job id --to=words f1
        flux job taskmap $(flux job last); flux job hostpids $(flux job last)
        flux job namespace $(flux job last) | cut -c1-4
    """,
    "tasks": """
        flux run -n3 -l sh -c 'echo $FLUX_TASK_RANK' | sort; flux run -N2 -l --output=$TMP/o.{{id}} hostname | sort
        printf 'a\\nb\\n' | flux run cat; printf 'x\\n' | flux run -n2 -l cat | sort
        flux run --input=/etc/hostname cat
        flux run -o exit-timeout=1s -n2 sh -c 'exit $FLUX_TASK_RANK'; echo $?
        flux run nosuchcommand 2>&1 | sort; flux run --cwd=/ pwd
        flux run --env=-* --env=A=1 env | sort | grep -v -e FLUX -e OMPI
        flux run --taskmap=cyclic -N2 -n4 -l printenv FLUX_TASK_LOCAL_ID | sort
        flux run --tasks-per-node=2 -N2 -l true; flux run --tasks-per-core=2 --cores=2 printenv FLUX_JOB_SIZE
        flux run -c2 sh -c 'echo $FLUX_JOB_NNODES $FLUX_JOB_SIZE $FLUX_TASK_RANK'
        flux run -N1 -x sh -c 'echo $FLUX_JOB_NNODES $FLUX_JOB_SIZE'
        flux run printf '\\000\\377\\001x' | od -c; flux run sh -c 'yes 0123456789 | head -c 300000' | md5sum
    """,
    "store": """
        flux kvs put a=1 b=x c.d=[1,2]; flux kvs get a b c.d; flux kvs ls -1; flux kvs dir -R a; flux kvs get nosuch
        flux kvs put --raw r=- </etc/hostname; flux kvs get --raw r; flux kvs get -t a; flux kvs ls -FR c
        flux kvs mkdir e; flux kvs get e; flux kvs link a l; flux kvs get l; flux kvs readlink l; flux kvs copy a a2
        flux kvs move a2 a3; flux kvs get a3; flux kvs unlink a3; flux kvs unlink e; flux kvs unlink -R c
        flux kvs unlink nosuch; flux kvs unlink -f nosuch; flux kvs put -A log=x; flux kvs put -A log=y
        flux kvs get log; flux kvs put --sync s=1; flux kvs namespace create ns; flux kvs put -N ns k=v
        flux kvs get -N ns k; flux kvs namespace list; flux kvs namespace remove ns; flux kvs get -N ns k
        flux kvs eventlog append ev name '{"a":1}'; flux kvs eventlog get -u ev | cut -d' ' -f2-
        flux kvs eventlog wait-event ev name | cut -d' ' -f2-; flux kvs eventlog get nosuch
        flux kvs put w=1; (sleep 0.3; flux kvs put w=2; flux kvs put w=3) & flux kvs get -w -c 3 w; wait
        flux kvs put x; flux kvs put .=1; flux kvs put a..b=1; flux kvs get a.; flux kvs getroot -b | wc -c
        flux content store </etc/hostname | flux content load; flux content load sha1-0000; flux content flush
        flux module list | awk '{print $1, $6}' | sort
    """,
    "resources": """
        flux resource list; flux resource list -s all -o rlist; flux resource status; flux resource info
        flux resource list -no '{state} {nnodes} {ncores} {ngpus} {nodelist} {ranks}'; flux resource list -q x
        flux resource drain 1 bad thing; flux resource drain | cut -c12-; flux resource status -s drain
        flux run -N1 flux getattr rank; flux resource drain 1 other; echo $?; flux resource drain -f 1 third
        flux resource drain -no '{ranks} {reason} {state}'; flux resource undrain 1; flux resource undrain 1; echo $?
        flux resource drain 9 x; flux resource R | head -c 60; flux resource acquire-mute; flux uptime | wc -l
    """,
    "nested": """
        flux alloc -N2 flux run -N2 -l echo hi | sort; flux alloc -n1 sh -c 'exit 7' 2>/dev/null; echo $?
        printf '#!/bin/sh\\nflux resource list -no "{state} {nnodes}"\\n' >$TMP/b
        printf 'flux run -N2 flux getattr rank | sort; flux getattr instance-level\\n' >>$TMP/b
        printf 'flux submit --wait false; echo $?; flux --parent getattr size\\n' >>$TMP/b
        ID=$(flux batch -N2 --output=$TMP/out $TMP/b); flux job attach $ID | sed 's/to .*//'; cat $TMP/out
        ID=$(flux alloc -N1 --bg 2>/dev/null) || ID=$(flux job last); URI=$(flux uri --local $ID)
        flux proxy $URI flux run printenv FLUX_JOB_SIZE; flux proxy $ID?local flux getattr instance-level
        flux jobs -no '{name} {status} {ntasks}'; flux pstree -x | wc -l
        flux cancel $ID; flux job status $ID; echo $?
    """,
    "terminals": """
        flux run -o pty sh -c 'test -t 0 && test -t 2 && echo tty; stty size'
        flux run -o pty nosuchprogram 2>/dev/null
        flux run -o pty.ranks=1 -n2 -l sh -c 'test -t 0 && echo tty || echo no' | sort; echo $?
        flux run -o pty.interactive sh -c 'stty -a >/dev/null && exit 3' | cat -v; echo ${PIPESTATUS[0]}
        ID=$(flux submit -o pty.interactive echo hi); flux job attach $ID | cat -v; flux job attach $ID | cat -v
        flux job eventlog -p exec $ID | grep -c terminus.0; flux run -o pty seq 1 2000 | md5sum
        flux terminus list; flux terminus kill 3
    """,
    "search": """
        A=$(flux submit --wait --job-name=first true); B=$(flux submit --wait --job-name=second false)
        flux pgrep -a first | grep -c $A; flux pgrep -a -no '{name}' 'first|second'; flux pgrep -a -no '{name}' $A..$B
        flux pgrep third; echo $?; flux submit --urgency=hold --job-name=held true >/dev/null; flux pkill --wait held
        flux job last '[0]'; flux job last '[0:2]' | wc -l; flux job info --base $A R | sed 's/[0-9]*\\.[0-9]*/N/g'
        flux jobs --stats-only; flux jobs -A | wc -l; flux watch -A -f failed; echo $?; flux update $A duration=1m
        flux resource eventlog -w online | wc -l; flux module stats -p namespace.primary.#versionwaiters kvs
        flux top </dev/null; flux hostlist local | wc -l; flux jobtap list | head -1 | wc -l
    """,
    "outcomes": """
        flux submit --wait true; echo $?
        flux submit --wait sh -c 'exit 3'; echo $?
        flux run sh -c 'echo out; echo err >&2; exit 3' 2>&1 | sort; flux run sh -c 'exit 3'; echo $?
        flux run -t 0.2s sleep 60 2>/dev/null; echo $?
        ID=$(flux submit sleep 60); flux job wait-event $ID start >/dev/null; flux cancel $ID
        flux job attach $ID 2>/dev/null; echo $?
        flux jobs -a -no '{name} {ntasks} {ncores} {nnodes} {result} {returncode} {exception.type} {state} {priority}'
        flux jobs -a -no '{name} {annotations.sched.resource_summary} {duration} {inactive_reason}'
        flux job stats
    """,
    "events": """
        for urgency in 16 31; do
            ID=$(flux submit --urgency=$urgency true); flux job wait-event $ID clean >/dev/null
            flux job eventlog $ID | cut -d' ' -f2- ; done
        ID=$(flux submit --urgency=hold true); flux job wait-event $ID priority | cut -d' ' -f2-
        flux job urgency $ID 10; flux job wait-event $ID clean >/dev/null
        flux job eventlog $ID | cut -d' ' -f2-
        flux job wait-event -m type=x -v $ID exception 2>&1 | tail -1
        members='import json,sys; print(list(eval("json.load(sys.stdin)" + sys.argv[1])))'
        flux job info $ID jobspec | python3 -c "$members" '["attributes"]["system"]'
        flux job info $ID R | python3 -c "$members" '["execution"]'
        flux job memo $(flux submit --urgency=hold true) a=1 b=x; flux jobs -no '{user.a} {user.b} {contextual_info}'
    """,
    "refusals": """
        flux submit --queue=nowhere true; flux submit -N9 true >/dev/null; flux run -N9 true; echo $?
        flux submit --dependency=afterok:f1 true; flux submit --dependency=foo:1 true
        flux submit --requires=host:nowhere true
        flux submit --urgency=99 true; flux job cancel f123; flux job raise f123; flux job kill f123
        flux job urgency f123 1; flux update f123 duration=1m; flux job eventlog f123; flux job info f123 R
        flux job wait f123; flux job wait-event f123 clean; flux job attach f123; flux job purge --batch=0
        flux queue stop --queue=x; flux queue disable
    """,
    "dependencies": """
        A=$(flux submit --urgency=hold true); B=$(flux submit --urgency=hold false)
        for scheme in afterok afternotok afterany; do for target in $A $B; do
            flux submit --flags=waitable --dependency=$scheme:$target true >/dev/null; done; done
        flux jobs -no '{dependencies}' | wc -l
        flux job urgency $A 16; flux job urgency $B 16
        flux job wait --all 2>&1 | sed 's/ƒ[^ :]*//' | sort
        flux jobs -a --filter=failed,canceled,timeout,completed -no '{result} {exception.note}' | sort
    """,
    "queues": """
        flux queue status; flux queue stop -m lunch; flux queue status; ID=$(flux submit true)
        flux jobs -no '{status_abbrev} {name}'; flux queue start; flux job wait-event $ID clean | cut -d' ' -f2-
        flux queue disable -m closed; flux queue status; flux submit true; flux queue enable; flux queue status
        flux queue drain; flux queue idle; flux job purge --force --num-limit=0; flux jobs -an | wc -l
    """,
}


@pytest.mark.system_flux
@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_same_answers(system_flux: str, name: str) -> None:
    """Line by line."""
    expected = hide_varying(on_real(system_flux, SCRIPTS[name]))
    assert expected
    assert hide_varying(on_embedded(system_flux, SCRIPTS[name])) == expected

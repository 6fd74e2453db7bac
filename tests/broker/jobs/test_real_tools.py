"""flux-core's own tools, pointed at either broker: what they say is the same, ids and times aside."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

SCRIPTS = {
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

_VARYING = (
    (re.compile(r"\bƒ[1-9A-HJ-NP-Za-km-z]+"), "<ID>"),
    (re.compile(r"\b\d+\.\d{3,}s?"), "<TIME>"),
)


def _run(command: list[str], script: str, flux: str) -> str:
    environ = {**os.environ, "PATH": f"{os.path.dirname(flux)}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    # The tools are the real ones in either case, although an embedded instance brings its own.
    script = f'flux() {{ {flux} "$@"; }}\nexec 2>&1\n{script}'
    done = subprocess.run(
        [*command, "bash", "-c", script],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    output = done.stdout
    for pattern, replacement in _VARYING:
        output = pattern.sub(replacement, output)
    return output


@pytest.mark.system_flux
@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_same_answers(system_flux: str, name: str) -> None:
    """Line by line."""
    embedded = [sys.executable, "-m", "pytest_flux.cli.flux_start", "--broker=embedded", "-s2"]
    expected = _run([system_flux, "start", "-s2"], SCRIPTS[name], system_flux)
    assert expected.strip()
    assert _run(embedded, SCRIPTS[name], system_flux).splitlines() == expected.splitlines()

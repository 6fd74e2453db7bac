"""Traces: Standard Workload Format, sacct, and Flux's own lists."""

from __future__ import annotations

import pytest

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.trace import TraceJob, guess_format, parse_trace

SWF = """\
; Version: 2.2
; MaxNodes: 128

  1     10   5  100   8  -1 -1   16  3600 -1 1 7 1 -1 1 -1 -1 -1
  2     20  -1    0   8  -1 -1    8  3600 -1 5 7 1 -1 1 -1 -1 -1
  3     30   0   60   4  -1 -1   -1    -1 -1 1 -1 1 -1 1 -1 -1 -1
"""
SACCT = """\
JobID|User|Submit|Elapsed|Timelimit|NCPUS|NNodes|State
17|ada|2024-02-01T10:00:00|1-02:03:04|UNLIMITED|96|2|COMPLETED
17.batch|ada|2024-02-01T10:00:00|1-02:03:04||48|1|COMPLETED
18|bob|2024-02-01T10:00:30|00:10:00|30:00|4|1|TIMEOUT
19|bob|2024-02-01T10:00:31|00:00:00|30:00|0|0|CANCELLED
"""
FLUX = """\
{"jobs": [{"id": 5, "t_submit": 3.5, "t_run": 4.0, "t_cleanup": 9.0, "ncores": 6, "nnodes": 2, "username": "eve"}]}
"""


def test_standard_workload_format() -> None:
    assert list(parse_trace(SWF.splitlines(), "swf")) == [
        TraceJob("1", 10.0, 100.0, 16, 3600.0, "7"),
        TraceJob("3", 30.0, 60.0, 4, 0.0, ""),
    ]


def test_sacct() -> None:
    begin = 1706781600.0
    assert list(parse_trace(SACCT.splitlines(keepends=True), "sacct")) == [
        TraceJob("17", begin, 93784.0, 96, 0.0, "ada", 2),
        TraceJob("18", begin + 30, 600.0, 4, 1800.0, "bob", 1),
    ]
    raw = "JobID|Submit|ElapsedRaw|TimelimitRaw|NCPUS\n1|2024-02-01T10:00:00|60|2|1\n"
    assert list(parse_trace(raw.splitlines(), "sacct")) == [TraceJob("1", begin, 60.0, 1, 120.0)]


def test_a_list_of_flux() -> None:
    assert list(parse_trace([FLUX], "flux")) == [TraceJob("5", 3.5, 5.0, 6, 0.0, "eve", 2)]
    lines = [
        '{"id": 6, "t_submit": 1, "t_run": 2, "t_cleanup": 3, "ntasks": 2, "userid": 9}',
        '{"id": 7, "t_submit": 1}',
    ]
    assert list(parse_trace(lines, "flux")) == [TraceJob("6", 1.0, 1.0, 2, 0.0, "9")]


@pytest.mark.parametrize(("text", "kind"), [(SWF, "swf"), (SACCT, "sacct"), (FLUX, "flux"), ("1 2 3", "swf")])
def test_the_format_shows(text: str, kind: str) -> None:
    assert guess_format(text.splitlines()[0]) == kind


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("1 2 3", "swf", "line 1: 18 numbers are expected"),
        ("1 2 3 x 5 6 7 8 9", "swf", "line 1"),
        ("JobID|Submit|Elapsed", "sacct", "no column NCPUS"),
        ("JobID|Submit|NCPUS", "sacct", "no column Elapsed"),
        ("JobID|Submit|NCPUS|Elapsed\n1|yesterday|1|10:00", "sacct", "line 2 of sacct is malformed"),
        ('{"t_run": 1, "t_cleanup": 2}', "flux", "line 1: no job of Flux"),
        ("[1]", "flux", "line 1: no job of Flux"),
        ("", "pbs", "one of swf, sacct, flux is expected"),
    ],
)
def test_malformed_traces(text: str, kind: str, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        list(parse_trace(text.splitlines(), kind))

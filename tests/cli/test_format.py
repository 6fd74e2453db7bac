"""Output formats: fields, conversions, prefixes, sorting; and the recorded list of a real Flux."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.cli.commands.jobs.jobs import FORMATS, HEADINGS, headings_for
from pytest_flux.cli.format import Format, sort_value
from pytest_flux.cli.named_formats import find_format
from pytest_flux.client.job_record import JobRecord
from pytest_flux.options import OptionExit
from pytest_flux.protocol.duration import short_duration
from pytest_flux.protocol.job_state import INACTIVE, RESULTS

RECORDED = Path(__file__).parent / "data"


class Row:
    def __init__(self, **values: Any) -> None:  # noqa: ANN401
        self._values = values

    def field(self, name: str) -> Any:  # noqa: ANN401
        return self._values[name]


HEAD = {"a": "A", "long": "LONG HEADING", "t": "T"}


def line(form: str, **values: Any) -> str:  # noqa: ANN401
    return Format(form, HEAD).line(Row(**values))


@pytest.mark.parametrize(
    ("form", "value", "expected"),
    [
        ("<{a:>5}>", "x", "<    x>"),
        ("<{a:<4.4+}>", "abcdef", "<abc+>"),
        ("<{a:<4.4+}>", "abc", "<abc >"),
        ("<{a:>3h}>", "", "<  ->"),
        ("<{a:>3h}>", 0.0, "<  ->"),
        ("<{a!F:>8h}>", 0.0, "<       ->"),
        ("{a!F}", 61.5, "1.025m"),
        ("{a!F}", "", ""),
        ("{a!H}", 0.2, "0:00:01"),
        ("{a!H}", 90061.4, "1 day, 1:01:01"),
        ("{a!P}", 0.005, "0.50%"),
        ("{a!P}", 0.5, "50%"),
        ("{a!D}", 0, ""),
        ("{a!d:%Y::>6}", 1e9, "  2001"),
        ("{a!d:%Y::>6h}", 0.0, "     -"),
        ("{a!r}", "x", "'x'"),
        ("{{{a}}}", 1, "{1}"),
        ("{a:04d}", 7, "0007"),
    ],
)
def test_fields(form: str, value: object, expected: str) -> None:
    assert line(form, a=value) == expected


def test_prefixes() -> None:
    rows = [Row(a="", long="xxx", t=0.0), Row(a="", long="yy", t=0.0)]
    form = Format("?:{a:>8} +:{long:<2.2} ?+:{t!F} end", HEAD)
    fitted = form.fitted(rows)
    assert fitted.header() == " LONG HEADING end"
    assert fitted.line(rows[0]) == " xxx          end"
    assert form.fitted(rows, header=False).line(rows[0]) == " xxx end"
    assert form.fitted([]).header() == " LONG HEADING end"


def test_unknown_fields_and_conversions() -> None:
    with pytest.raises(ValueError, match="Unknown format field: nosuch"):
        Format("{nosuch}", HEAD)
    with pytest.raises(ValueError, match="Invalid sort key: nosuch"):
        Format("sort:nosuch {a}", HEAD)
    with pytest.raises(ValueError, match="Unknown conversion"):
        line("{a!x}", a=1)


def test_printing(capsys: pytest.CaptureFixture[str]) -> None:
    form = Format("sort:-a,long {a}{long}", HEAD)
    assert form.fields == ["a", "long"]
    form.print([Row(a=a, long=b) for a, b in ((1, "x"), (10, "b"), (10, "a"), ("", ""))])
    assert capsys.readouterr().out == "ALONG HEADING\n10a\n10b\n1x\n"
    form.print([Row(a="abcdef", long="")], header=False, width=4)
    assert capsys.readouterr().out == "abc+\n"


@given(st.lists(st.one_of(st.none(), st.text(), st.integers(), st.floats(allow_nan=False), st.just("-"))))
def test_any_values_can_be_sorted(values: list[object]) -> None:
    assert len(sorted(values, key=sort_value)) == len(values)


@given(st.text(alphabet="{}!:ahFdD<>.+?0123456789 ", max_size=30))
def test_hostile_formats(text: str) -> None:
    try:
        form = Format(text, HEAD)
        form.fitted([Row(a=1)]).line(Row(a=1))
        form.header()
    except (ValueError, KeyError):
        pass


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0001, "0s"),
        (9.99949, "9.999s"),
        (10, "10s"),
        (90, "1.5m"),
        (7200, "2h"),
        (1e6, "11.57d"),
        (float("inf"), "inf"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert short_duration(seconds) == text


def test_named_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    builtin = {"default": ("About", "{a}")}
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "none"))
    assert find_format("default", builtin, "flux-x") == "{a}"
    assert find_format("{b}", builtin, "flux-x") == "{b}"
    with pytest.raises(ValueError, match=r"No such format b c \(Did you mean '{b} {c}'\?\)"):
        find_format("b c", builtin, "flux-x")
    path = tmp_path / "flux" / "flux-x.toml"
    path.parent.mkdir()
    path.write_text('[formats.mine]\nformat = "{long}"\n')
    assert find_format("mine", builtin, "flux-x") == "{long}"
    with pytest.raises(OptionExit):
        find_format("help", builtin, "flux-x")
    assert capsys.readouterr().out == "\nConfigured flux-x output formats:\n\n  default      About\n  mine        \n"
    path.write_text('[formats.default]\nformat = "x"\n')
    with pytest.raises(ValueError, match="override of builtin format 'default' not permitted"):
        find_format("default", builtin, "flux-x")
    monkeypatch.setenv("FLUX_Y_LIST_FORMAT_DEFAULT", "{long}")
    assert find_format("default", builtin, "flux-y", "list") == "{long}"


def recorded_jobs() -> list[JobRecord]:
    """The jobs of a recorded `flux jobs --json`, turned back into what `job-list` said."""
    jobs = json.loads((RECORDED / "jobs.json").read_text())["jobs"]
    records = []
    for job in jobs:
        exception = {f"exception_{key}": value for key, value in job.pop("exception").items()}
        records.append(JobRecord({**job, **exception, "state": INACTIVE, "result": RESULTS[job["result"]]}))
    return records


def test_recorded_list(capsys: pytest.CaptureFixture[str]) -> None:
    form = "{id.f58} {id} {name} {ntasks} {nnodes} {status} {returncode} {exception.type}"
    form = form.replace("{id}", "{id.dec}")
    Format(form, headings_for(form)).print(recorded_jobs(), header=False)
    assert capsys.readouterr().out == (RECORDED / "jobs.txt").read_text()


def test_recorded_json() -> None:
    expected = json.loads((RECORDED / "jobs.json").read_text())["jobs"]
    assert [record.json() for record in recorded_jobs()] == expected


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = FORMATS[name][1]
    Format(text, headings_for(text)).print(recorded_jobs())
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_every_field_of_a_pending_job() -> None:
    record = JobRecord({"id": 1, "state": 8, "userid": 0, "urgency": 0, "t_submit": time.time()})
    values = {name: record.field(name) for name in HEADINGS if name != "success"}
    assert values["contextual_info"] == "held"
    assert values["status"] == "SCHED"
    assert values["id"] == "ƒ2"


@pytest.mark.parametrize("text", ["{id:>1000000000}", "{id:.99999999999999999999999}", "{id:>" + "9" * 5000 + "}"])
def test_a_very_wide_field_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"(width|precision) of field id: [0-9]+ exceeds the limit of 65536"):
        Format(text, {"id": "ID"})

"""What jobs inherit."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from pytest_flux.client.job_environment import filter_environment, filter_limits


def test_environment_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OURS_1", "one")
    rules = tmp_path / "rules"
    rules.write_text("FROM_FILE=x\n-B*\n")
    start = {"A": "1", "B": "2", "BC": "3"}
    assert filter_environment([], start) == (start, {})
    assert filter_environment(["-B*"], start)[0] == {"A": "1"}
    assert filter_environment(["-/^B$/"], start)[0] == {"A": "1", "BC": "3"}
    assert filter_environment(["-*", "OURS_*"], start)[0] == {"OURS_1": "one"}
    assert filter_environment(["A=0$A:$OURS_1"], start)[0]["A"] == "01:one"
    assert filter_environment([f"^{rules}"], start)[0] == {"A": "1", "FROM_FILE": "x"}
    assert filter_environment(["X={{id}}-$A"], start) == (start, {"X": "{{id}}-$A"})


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("A=$NOSUCH", "Variable 'NOSUCH' not found in A=[$]NOSUCH"),
        ("A=$", "Unable to substitute"),
        ("^/nosuch", "--env: .*/nosuch"),
        ("-/(/", "invalid pattern"),
    ],
)
def test_mistakes(rule: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        filter_environment([rule], {})


def test_limits() -> None:
    core = resource.getrlimit(resource.RLIMIT_CORE)[0]
    assert "memlock" not in filter_limits([])
    assert filter_limits(["-*,core"]) == {"core": core}
    assert filter_limits(["-*", "nofile=16,stack=inf"]) == {"nofile": 16, "stack": -1}
    for rule, message in (("x=1", 'Invalid rlimit "x"'), ("core=y", "Invalid value in core=y"), ("x", "matching")):
        with pytest.raises(ValueError, match=message):
            filter_limits([rule])

"""The log of an instance, and whose lines are in it."""

from __future__ import annotations

import os

from pytest_flux.instance.log import LAUNCHER, InstanceLog, by_writer, tail


def test_lines_are_sorted_by_rank_with_the_launcher_last() -> None:
    lines = [
        "flux-start: a message",
        "broker.info[10]: ten",
        "Feb 03 04:05:06.000007 UTC 2026 broker.err[2]: with a date",
        "<3>broker.err[2]: with a priority",
        "kvs.debug[x]: not a rank",
    ]
    assert by_writer("\n".join(lines)) == {
        "rank 2": [lines[2], lines[3]],
        "rank 10": [lines[1]],
        LAUNCHER: [lines[0], lines[4]],
    }


def test_tail_has_the_last_lines_of_each_writer() -> None:
    text = "\n".join(f"broker.info[0]: {number}" for number in range(100)) + "\nlast of all"
    assert tail(text).splitlines() == [
        "--- rank 0 ---",
        *(f"broker.info[0]: {number}" for number in range(80, 100)),
        f"--- {LAUNCHER} ---",
        "last of all",
    ]


def test_text_stays_after_close() -> None:
    log = InstanceLog()
    os.write(log.fileno(), b"before ")
    position = log.position()
    os.write(log.fileno(), b"after")
    assert (log.text(), log.text(position)) == ("before after", "after")
    log.close()
    assert (log.text(), log.text(position), log.position()) == ("before after", "after", 12)

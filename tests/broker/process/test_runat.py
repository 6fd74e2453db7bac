"""The phases of a broker's life: which commands run, what the log says, what the exit code is."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator

import pytest

from pytest_flux.broker.attributes import Attributes
from pytest_flux.broker.log import BrokerLog
from pytest_flux.broker.process.runat import Runat
from pytest_flux.protocol.severity import LOG_ERR, LOG_INFO
from pytest_flux.protocol.stdlog import decode_entry
from pytest_flux.reactor.reactor import Reactor


class Phases:
    """A Runat of its own, on a reactor that gives up after ten seconds."""

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        attributes = Attributes()
        attributes.set("hostname", "host")
        log = BrokerLog(attributes, io.StringIO())
        log.initialize(0, lambda _: None)
        self.lines: list[tuple[int, str]] = []
        log.add_follower(self._logged)
        self.environ = dict(os.environ)
        self.runat = Runat(reactor, attributes, log, lambda: self.environ)

    def _logged(self, line: bytes) -> None:
        entry = decode_entry(line)
        self.lines.append((entry.severity, entry.text))

    def run(self, name: str) -> int:
        """Run a phase to its end and return its exit code."""
        codes: list[int] = []

        def done(code: int) -> None:
            codes.append(code)
            self.reactor.stop()

        assert self.runat.start(name, done)
        self.reactor.run()
        return codes[0]


@pytest.fixture
def phases() -> Iterator[Phases]:
    reactor = Reactor()
    deadline = reactor.call_later(10, reactor.stop)
    made = Phases(reactor)
    yield made
    assert deadline.callback is not None
    made.runat.destroy()
    reactor.close()


def test_an_undefined_phase_has_nothing_to_run(phases: Phases) -> None:
    assert not phases.runat.start("rc1", lambda _: None)
    assert not phases.runat.abort("rc1")
    assert phases.runat.running() == []


def test_commands_run_last_pushed_first(phases: Phases) -> None:
    phases.runat.push_shell("rc1", "echo second", logged=True)
    phases.runat.push_shell("rc1", "echo first", logged=True)
    assert phases.run("rc1") == 0
    assert [text for _, text in phases.lines if "Exited" not in text] == ["rc1.0: first", "rc1.1: second"]


def test_all_commands_run_and_the_first_failure_counts(phases: Phases) -> None:
    for command in ("echo last", "exit 5", "exit 3"):
        phases.runat.push_shell("rc3", command, logged=True)
    assert phases.run("rc3") == 3
    assert (LOG_INFO, "rc3.2: last") in phases.lines
    assert [(severity, text.rpartition(" ")[0]) for severity, text in phases.lines if "(rc=" in text] == [
        (LOG_ERR, "rc3.0: exit 3 Exited (rc=3)"),
        (LOG_ERR, "rc3.1: exit 5 Exited (rc=5)"),
        (LOG_INFO, "rc3.2: echo last Exited (rc=0)"),
    ]


def test_both_streams_are_logged_line_by_line(phases: Phases) -> None:
    phases.runat.push("rc1", ["sh", "-c", "echo one; printf two; printf '\\377\\n' >&2"], logged=True)
    assert phases.run("rc1") == 0
    assert sorted(phases.lines[:-1]) == [
        (LOG_ERR, "rc1.0: \ufffd"),
        (LOG_INFO, "rc1.0: one"),
        (LOG_INFO, "rc1.0: two"),
    ]


@pytest.mark.parametrize(
    ("program", "code", "reason"),
    [("/no/such/program", 127, "No such file or directory"), ("/etc/passwd", 126, "Permission denied")],
)
def test_a_program_that_cannot_be_executed(phases: Phases, program: str, code: int, reason: str) -> None:
    phases.runat.push("rc2", [program], logged=False)
    assert phases.run("rc2") == code
    assert phases.lines == [(LOG_ERR, f"rc2.0: {program} error launching process: {reason} (rc={code}) 0.0s")]


def test_a_signal_ends_a_command(phases: Phases) -> None:
    phases.runat.push_shell("rc2", "kill -9 $$", logged=False)
    assert phases.run("rc2") == 128 + signal.SIGKILL
    assert phases.lines[0][1].startswith("rc2.0: kill -9 $$ Killed (rc=137)")


def test_the_running_command_can_be_found_and_killed(phases: Phases) -> None:
    phases.runat.push("rc2", ["sleep", "1000"], logged=False)

    def kill() -> None:
        [(name, argv, pid)] = phases.runat.running()
        assert (name, argv) == ("rc2", ["sleep", "1000"])
        assert not phases.runat.kill("rc1", signal.SIGTERM)
        assert not phases.runat.kill(pid + 1, signal.SIGTERM)
        assert phases.runat.kill(pid, signal.SIGTERM)

    phases.reactor.call_soon(kill)
    assert phases.run("rc2") == 128 + signal.SIGTERM


def test_abort_hangs_up_the_running_command_and_skips_the_others(phases: Phases) -> None:
    phases.runat.push_shell("rc1", "echo never", logged=True)
    phases.runat.push("rc1", ["sleep", "1000"], logged=True)

    def abort() -> None:
        assert phases.runat.abort("rc1")

    phases.reactor.call_soon(abort)
    assert phases.run("rc1") == 128 + signal.SIGHUP
    assert not any("never" in text for _, text in phases.lines)


def test_a_phase_that_succeeds_although_it_is_aborted_has_failed(phases: Phases) -> None:
    phases.runat.push_shell("rc1", "trap 'exit 0' HUP; kill -HUP $PPID; while :; do sleep 0.01; done", logged=True)

    def abort(*_: object) -> None:
        phases.runat.abort("rc1")

    phases.reactor.on_signal(signal.SIGHUP, abort)
    assert phases.run("rc1") == 1
    assert "aborted after exit with rc=0 (rc=1)" in phases.lines[-1][1]


def test_commands_get_the_environment_of_the_moment(phases: Phases) -> None:
    phases.runat.push_shell("rc1", "echo $WORD", logged=True)
    phases.environ = {**os.environ, "WORD": "new"}
    assert phases.run("rc1") == 0
    assert phases.lines[0] == (LOG_INFO, "rc1.0: new")

"""`flux exec`, on a service whose answers the test makes up."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import tempfile
from typing import Any, BinaryIO

import pytest

from pytest_flux.cli.command import CommandError
from pytest_flux.cli.commands.exec.exec import select_ranks
from pytest_flux.cli.flux import main
from pytest_flux.protocol.ioencode import decode_io, encode_io
from pytest_flux.protocol.message import Message
from pytest_flux.reactor.usock import Connection
from tests.client.scripted_broker import ScriptedBroker

Capture = pytest.CaptureFixture[str]
FLUX = (sys.executable, "-m", "pytest_flux.cli.flux")
WAIT = 20.0


class Processes:
    """The service: each process writes ``output`` and ends with ``status``; with None, it copies stdin and waits.

    ``credit`` is what it grants for each byte of stdin at a time; nobody may send more.
    """

    def __init__(self, bed: ScriptedBroker) -> None:
        self.output: list[tuple[str, bytes]] = []
        self.status: int | None = 0
        self.credit = 1 << 20
        self.errnums: dict[int, int] = {}
        self.commands: list[dict[str, Any]] = []
        self.received: dict[int, bytes] = {}
        self.signals: list[tuple[int, int]] = []
        self.ignores_signals = False
        self.overruns = 0
        self._running: dict[tuple[int, int], tuple[Connection, Message]] = {}
        self._granted: dict[tuple[int, int], int] = {}
        bed.on("rexec.exec", self._execute)
        bed.on("rexec.attach", self._execute)
        bed.on("rexec.write", self._write)
        bed.on("rexec.kill", self._kill)

    def _execute(self, bed: ScriptedBroker, connection: Connection, request: Message) -> None:
        rank = request.nodeid
        self.commands.append(request.json())
        if rank in self.errnums:
            bed.answer(connection, request, errnum=self.errnums[rank])
        elif not request.is_streaming:
            bed.answer(connection, request, {"type": "started", "pid": 100 + rank})
        else:
            bed.answer(connection, request, {"type": "started", "pid": 100 + rank})
            key = (rank, request.matchtag)
            self._running[key] = (connection, request)
            self._granted[key] = 0
            self._grant(bed, key)
            for stream, data in self.output:
                self._send(bed, key, stream, data)
            if self.status is not None:
                self._end(bed, key, self.status)

    def _grant(self, bed: ScriptedBroker, key: tuple[int, int]) -> None:
        more = self.credit - self._granted[key]
        self._granted[key] += more
        bed.answer(*self._running[key], {"type": "add-credit", "channels": {"stdin": more}})

    def _send(self, bed: ScriptedBroker, key: tuple[int, int], stream: str, data: bytes) -> None:
        io = encode_io(stream, str(key[0]), data)
        bed.answer(*self._running[key], {"type": "output", "pid": 100 + key[0], "io": io})

    def _end(self, bed: ScriptedBroker, key: tuple[int, int], status: int) -> None:
        bed.answer(*self._running[key], {"type": "finished", "status": status})
        bed.answer(*self._running.pop(key), errnum=errno.ENODATA)

    def _write(self, bed: ScriptedBroker, _: Connection, request: Message) -> None:
        key = (request.nodeid, request.json()["matchtag"])
        if key not in self._running:
            return
        io = decode_io(request.json()["io"])
        self.received[request.nodeid] = self.received.get(request.nodeid, b"") + io.data
        self._granted[key] -= len(io.data)
        self.overruns += self._granted[key] < 0
        if io.data:
            self._send(bed, key, "stdout", io.data)
            self._grant(bed, key)
        if io.eof:
            self._end(bed, key, 0)

    def _kill(self, bed: ScriptedBroker, connection: Connection, request: Message) -> None:
        value = request.json()
        self.signals.append((value["pid"], value["signum"]))
        bed.answer(connection, request)
        for key in list(self._running):
            if not self.ignores_signals and 100 + key[0] == value["pid"]:
                self._end(bed, key, value["signum"])


@pytest.fixture
def processes(bed: ScriptedBroker) -> Processes:
    return Processes(bed)


def run_exec(*words: str, stdin: bytes | BinaryIO | None = None) -> tuple[bytes, str, int]:
    """Output, errors and exit code of `flux exec`, as a program; stdin is a pipe, a file, or /dev/null."""
    given: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin or subprocess.DEVNULL}
    result = subprocess.run([*FLUX, "exec", *words], capture_output=True, timeout=WAIT, check=False, **given)
    return result.stdout, result.stderr.decode(), result.returncode


def test_output_of_all_ranks(processes: Processes, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    processes.output = [("stdout", b"out\n"), ("stderr", b"err\xff\0\n"), ("stdout", b"no end")]
    assert main(["exec", "-n", "program", "--option"]) == 0
    shown = capsysbinary.readouterr()
    assert shown.out == b"out\nno end" * 4
    assert shown.err == b"err\xff\0\n" * 4
    assert processes.commands[0]["cmd"]["cmdline"] == ["program", "--option"]
    assert processes.commands[0]["cmd"]["cwd"] == os.getcwd()
    assert (processes.commands[0]["flags"], len(processes.commands)) == (11, 4)


def test_labels(processes: Processes, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    processes.output = [("stdout", b"out\n"), ("stderr", b"err\n")]
    assert main(["exec", "-nl", "-r", "1,3", "program"]) == 0
    shown = capsysbinary.readouterr()
    assert sorted(shown.out.splitlines()) == [b"1: out", b"3: out"]
    assert sorted(shown.err.splitlines()) == [b"1: err", b"3: err"]


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [(3 << 8, 3, "Exit 3"), (signal.SIGTERM, 143, "Terminated"), (signal.SIGKILL, 137, "Killed")],
)
def test_exit_codes(processes: Processes, status: int, code: int, text: str, capsys: Capture) -> None:
    processes.status = status
    assert main(["exec", "-n", "-x1", "program"]) == code
    assert capsys.readouterr().err == f"[0,2-3]: {text}\n"
    assert main(["exec", "-n", "-r1", "program"]) == code
    assert capsys.readouterr().err == f"1: {text}\n"
    assert main(["exec", "-nq", "program"]) == code
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("errnum", "code"),
    [(errno.ENOENT, 127), (errno.EACCES, 126), (errno.EPERM, 126), (errno.EHOSTUNREACH, 68), (errno.EIO, 1)],
)
def test_programs_that_cannot_run(processes: Processes, errnum: int, code: int, capsys: Capture) -> None:
    processes.errnums = {2: errnum}
    assert main(["exec", "-n", "program"]) == code
    assert capsys.readouterr().err == f"flux-exec: Error: rank 2: program: {os.strerror(errnum)}\n"


def test_verbose(processes: Processes, capsys: Capture) -> None:
    assert processes.status == 0
    assert main(["exec", "-nv", "-r0-2", "program"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"^[0-9.]+ms: ", "", line) for line in lines] == [
        "Starting program on [0-2]",
        "Sent all requests",
        "3 tasks complete with code 0",
    ]


@pytest.mark.parametrize("size", [0, 1, 10, 100_000])
def test_stdin_goes_to_all_within_their_credit(processes: Processes, size: int) -> None:
    processes.status = None
    processes.credit = 4096
    data = os.urandom(size)
    output, errors, code = run_exec("-r0-1", "cat", stdin=data)
    assert (errors, code) == ("", 0)
    assert len(output) == 2 * size
    assert processes.overruns == 0
    assert all(processes.received.get(rank, b"") == data for rank in (0, 1))


def test_stdin_from_a_file(processes: Processes) -> None:
    processes.status = None
    processes.credit = 1000
    with tempfile.TemporaryFile() as file:
        file.write(b"line\n" * 1000)
        file.seek(0)
        output, _, code = run_exec("-r2", "cat", stdin=file)
    assert (output, code) == (b"line\n" * 1000, 0)


def test_stdin_is_empty_with_noinput(processes: Processes) -> None:
    processes.status = None
    assert run_exec("-n", "cat", stdin=b"not read") == (b"", "", 0)
    assert set(processes.received.values()) == {b""}


def test_stdin_that_is_closed(processes: Processes) -> None:
    processes.status = None
    command = f"{' '.join(FLUX)} exec -r0 cat <&-"
    result = subprocess.run(["sh", "-c", command], capture_output=True, timeout=WAIT, check=False)
    assert (result.stdout, result.stderr, result.returncode) == (b"", b"", 0)


def test_who_does_not_read_does_not_hold_us(processes: Processes) -> None:
    processes.credit = 10
    assert run_exec("true", stdin=b"x" * 100_000) == (b"", "", 0)


def test_without_flow_control(processes: Processes) -> None:
    processes.status = None
    processes.credit = 1
    assert run_exec("-r0", "--stdin-flow=off", "cat", stdin=b"x" * 100)[0] == b"x" * 100
    assert processes.commands[0]["flags"] == 3


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on(processes: Processes, signum: int) -> None:
    processes.status = None
    processes.output = [("stdout", b"ready\n")]
    with start_exec("-v", "-r0-1", "sleep") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signum)
        # Not communicate, which closes stdin, and so ends the processes too.
        assert process.wait(WAIT) == 128 + signum
        assert process.stderr is not None
        errors = process.stderr.read()
    assert b"sending signal %d to 2 running processes\n" % signum in errors
    assert errors.endswith(f"[0-1]: {signal.strsignal(signum)}\n".encode())
    assert sorted(processes.signals) == [(100, signum), (101, signum)]


def test_interrupting_what_does_not_end(processes: Processes) -> None:
    processes.status = None
    processes.ignores_signals = True
    processes.output = [("stdout", b"ready\n")]
    with start_exec("-r0-1", "sleep") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        while len(processes.signals) < 2:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == b"interrupt (Ctrl+C) one more time within 1.00 sec to exit\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == b"[0-1]: command still running at exit\n"
        assert process.wait(WAIT) == 1


def start_exec(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*FLUX, "exec", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_background(processes: Processes, capsys: Capture) -> None:
    assert main(["exec", "--bg", "--label=mine", "--waitable", "-r1-2", "program"]) == 0
    assert capsys.readouterr().out == "1: 101\n2: 102\n"
    assert processes.commands[0]["cmd"]["label"] == "mine"
    assert processes.commands[0]["flags"] == 16
    processes.errnums = {1: errno.ENOENT}
    assert main(["exec", "--bg", "program"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "0: 100\n2: 102\n3: 103\n"
    assert shown.err == "flux-exec: Error: rank 1: program: No such file or directory\n"
    assert processes.commands[-1]["flags"] == 0


def test_attach(processes: Processes, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    processes.output = [("stdout", b"more\n")]
    assert main(["exec", "-n", "--attach", "mine"]) == 0
    assert capsysbinary.readouterr().out == b"more\n" * 4
    assert processes.commands[0] == {"pid": -1, "label": "mine", "flags": 3}
    assert main(["exec", "-n", "--attach", "-r2", "102"]) == 0
    assert processes.commands[-1] == {"pid": 102, "flags": 3}
    processes.errnums = {2: errno.ENOENT}
    assert main(["exec", "-n", "--attach", "-r2", "102"]) == 127
    assert capsysbinary.readouterr().err == b"flux-exec: Error: rank 2: pid 102: No such file or directory\n"


def test_interrupt_detaches(processes: Processes) -> None:
    processes.status = None
    processes.output = [("stdout", b"ready\n")]
    with start_exec("--attach", "-r0", "mine") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT) == 0
        assert process.stderr is not None
        errors = process.stderr.read()
    assert (errors, process.returncode) == (b"detached; use 'flux sproc kill mine' to signal it\n", 0)
    assert processes.signals == []


def test_what_the_program_is_given(
    bed: ScriptedBroker, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed.on("config.get", {"exec": {"imp": "/path/flux-imp"}})
    monkeypatch.setenv("FLUX_PROXY_REMOTE", "somewhere")
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    words = ["-n", "-d", "/tmp", "--setopt=a=b=c", "--setopt=d=", "--with-imp", "--service=sdexec", "program"]
    bed.on("sdexec.exec", errnum=errno.EPERM)
    assert main(["exec", *words]) == 126
    request = next(message for message in bed.received if message.topic == "sdexec.exec").json()
    command = request["cmd"]
    assert command["cmdline"] == ["/path/flux-imp", "run", "program"]
    assert (command["cwd"], command["opts"]) == ("/tmp", {"a": "b=c", "d": ""})
    assert "FLUX_PROXY_REMOTE" not in command["env"]
    assert command["env"]["DBUS_SESSION_BUS_ADDRESS"] == f"unix:path=/run/user/{os.getuid()}/bus"
    assert request["flags"] == 3  # sdexec: no credits
    assert processes.commands == []
    assert main(["exec", "-n", "-d", "none", "program"]) == 0
    assert "cwd" not in processes.commands[-1]["cmd"]


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["-r", "0-9", "true"], "One or more invalid --ranks specified: 0-9"),
        (["-r", "", "true"], "One or more invalid --ranks specified: "),
        (["-r", "x", "true"], "failed to decode idset 'x': Invalid argument"),
        (["-x", "y", "true"], "error decoding --exclude idset: Invalid argument"),
        (["-x", "0-3", "true"], "No targets specified"),
        (["--waitable", "true"], "--waitable can only be used with --bg"),
        (["--attach"], "--attach requires a pid or label argument"),
        (["--attach", "x", "y"], "--attach takes a single pid or label argument"),
        (["--attach", "--bg", "x"], "--attach cannot be used with --bg or --waitable"),
        (["--attach", "12"], "--attach by pid requires a single target rank (use --rank)"),
        (["--stdin-flow=x", "true"], "Set --stdin-flow to on or off"),
        (["--setopt=x", "true"], "error handling 'x' option: Invalid argument"),
    ],
)
def test_mistakes(words: list[str], complaint: str, capsys: Capture) -> None:
    assert main(["exec", *words]) == 1
    assert capsys.readouterr().err == f"flux-exec: {complaint}\n"


@pytest.mark.parametrize("words", [["-j", "1", "true"], ["--sign", "true"]])
def test_what_only_flux_core_has(words: list[str], capsys: Capture) -> None:
    assert main(["exec", *words]) == 1
    assert "flux-core" in capsys.readouterr().err


def test_without_program(capsys: Capture) -> None:
    assert main(["exec", "-n"]) == 1
    assert capsys.readouterr().err.startswith("Usage: flux-exec [OPTIONS]...\n")


def test_imp_that_is_not_configured(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("config.get", {})
    assert main(["exec", "--with-imp", "true"]) == 1
    assert capsys.readouterr().err == (
        "flux-exec: --with-imp: exec.imp path not found in config: No such file or directory\n"
    )


@pytest.mark.parametrize(
    ("include", "exclude", "ranks"),
    [("all", None, [0, 1, 2]), ("0,2", None, [0, 2]), ("all", "1", [0, 2]), ("1-2", "2,77", [1])],
)
def test_ranks(include: str, exclude: str | None, ranks: list[int]) -> None:
    assert select_ranks(3, include, exclude) == ranks


def test_ranks_outside_of_the_instance() -> None:
    with pytest.raises(CommandError):
        select_ranks(3, "3", None)

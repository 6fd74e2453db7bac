"""Processes run by request (RFC 42): their streams, flow control, ends and errors."""

from __future__ import annotations

import base64
import errno
import os
import signal
from typing import Any

import psutil
import pytest

from pytest_flux.client import Flux, Rpc
from pytest_flux.client.process import describe_command
from pytest_flux.protocol.errors import FluxError
from tests.parity.differences import differs
from tests.parity.instances import Engine, Running, eventually

WAIT = 15.0
STDOUT, STDERR, CHANNEL, CREDIT, WAITABLE = 1, 2, 4, 8, 16
BOTH = STDOUT | STDERR


def start(flux: Flux, *argv: str, flags: int = BOTH, rank: int = 1, **options: Any) -> Rpc:  # noqa: ANN401
    request = {"cmd": describe_command(argv, **{"env": {"PATH": os.environ["PATH"]}, **options}), "flags": flags}
    return flux.rpc("rexec.exec", request, nodeid=rank, streaming=True, timeout=WAIT)


def background(flux: Flux, *argv: str, flags: int = 0, rank: int = 1, **options: Any) -> int:  # noqa: ANN401
    request = {"cmd": describe_command(argv, **{"env": {"PATH": os.environ["PATH"]}, **options}), "flags": flags}
    answer = flux.rpc("rexec.exec", request, nodeid=rank, timeout=WAIT).get()
    assert answer["type"] == "started"
    return int(answer["pid"])


def error_of(rpc: Rpc) -> tuple[int, str | None]:
    while True:
        try:
            rpc.get(WAIT)
        except FluxError as error:
            return error.errnum, error.text


def ask(flux: Flux, topic: str, payload: dict[str, Any], rank: int = 1) -> tuple[int, str | None]:
    return error_of(flux.rpc(topic, payload, nodeid=rank, timeout=WAIT, streaming=True))


def followed(rpc: Rpc) -> tuple[list[str], dict[str, bytes], int]:
    """The kinds of answers that are no output, the output of each stream, and the wait status."""
    kinds, output, status = [], {"stdout": b"", "stderr": b""}, -1
    ended = set()
    for answer in rpc:
        if answer["type"] == "output":
            io = answer["io"]
            assert io["rank"] == "1"
            data = io.get("data", "")
            output[io["stream"]] += base64.b64decode(data) if io.get("encoding") == "base64" else data.encode()
            if io.get("eof"):
                ended.add(io["stream"])
        else:
            kinds.append(answer["type"])
            status = answer.get("status", status)
    assert all(stream in ended for stream, data in output.items() if data)
    return kinds, output, status


def test_output_and_status(flux: Flux) -> None:
    kinds, output, status = followed(start(flux, "sh", "-c", "echo out; echo err >&2; printf rest; exit 3"))
    assert kinds == ["started", "finished"]
    assert output == {"stdout": b"out\nrest", "stderr": b"err\n"}
    assert os.waitstatus_to_exitcode(status) == 3


def test_end_by_signal(flux: Flux) -> None:
    assert os.WTERMSIG(followed(start(flux, "sh", "-c", "kill -9 $$"))[2]) == 9


def test_streams_that_are_not_wanted(flux: Flux) -> None:
    assert followed(start(flux, "sh", "-c", "echo err >&2", flags=STDERR))[1] == {
        "stdout": b"",
        "stderr": b"err\n",
    }
    assert followed(start(flux, "sh", "-c", "echo out 2>/dev/null; exit 0", flags=0))[0] == ["started", "finished"]


def test_lines_come_whole_and_binary_comes_through(flux: Flux) -> None:
    script = "printf a; sleep 0.05; printf 'b\\nc'; sleep 0.05; printf d"
    pieces = [answer["io"].get("data") for answer in start(flux, "sh", "-c", script) if answer["type"] == "output"]
    assert [piece for piece in pieces if piece] == ["ab\n", "cd"]
    data = bytes(range(256)) * 10
    octal = "".join(f"\\{byte:03o}" for byte in data)
    assert followed(start(flux, "bash", "-c", f"printf '{octal}'"))[1]["stdout"] == data


def test_unbuffered_output(flux: Flux) -> None:
    rpc = start(flux, "sh", "-c", "printf a; read x; printf b", options={"stdout_LINE_BUFFER": "false"})
    while (answer := rpc.get())["type"] != "output":
        pass
    assert answer["io"]["data"] == "a"
    write(flux, rpc, eof=True)
    assert followed(rpc)[1]["stdout"] == b"b"


def write(flux: Flux, rpc: Rpc, data: str | None = None, *, eof: bool = False) -> None:
    io: dict[str, Any] = {"stream": "stdin", "rank": "0"}
    io |= {} if data is None else {"data": data}
    io |= {"eof": True} if eof else {}
    flux.post("rexec.write", {"matchtag": rpc.matchtag, "io": io}, nodeid=1)


def test_input_with_credit(flux: Flux) -> None:
    rpc = start(flux, "cat", flags=BOTH | CREDIT, options={"stdin_BUFSIZE": "64K"})
    answers = [rpc.get(), rpc.get()]
    assert {answer["type"] for answer in answers} == {"started", "add-credit"}
    (credit,) = (answer["channels"] for answer in answers if answer["type"] == "add-credit")
    assert credit == {"stdin": 65536}
    write(flux, rpc, "x" * 65535 + "\n")
    write(flux, rpc, eof=True)
    more = 0
    output = ""
    for answer in rpc:
        if answer["type"] == "add-credit":
            more += answer["channels"]["stdin"]
        elif answer["type"] == "output":
            output += answer["io"].get("data", "")
    assert output == "x" * 65535 + "\n"
    assert more <= 65536


def test_environment_and_directory(flux: Flux, three: Running) -> None:
    rpc = start(
        flux, "/bin/sh", "-c", "echo $A $FLUX_URI $NOTIFY_SOCKET $PWD", env={"A": "a", "NOTIFY_SOCKET": "n"}, cwd="/"
    )
    assert followed(rpc)[1]["stdout"] == f"a local://{three.rundir}/local-1 /\n".encode()
    inherited = followed(start(flux, "/usr/bin/env", env={}))[1]["stdout"].decode()
    assert f"FLUX_URI=local://{three.rundir}/local-1\n" in inherited
    assert "\nPATH=" in "\n" + inherited
    _, output, _ = followed(start(flux, "pwd", cwd="/no/such/directory"))
    assert output["stdout"] == b"/tmp\n"
    assert output["stderr"] == (
        b"Could not change dir to /no/such/directory: No such file or directory. Going to /tmp instead\n"
    )


def test_errors(flux: Flux, engine: Engine) -> None:
    launch = "error launching process: "
    assert error_of(start(flux, "no-such-program")) == (errno.ENOENT, f"{launch}No such file or directory")
    assert error_of(start(flux, "/etc/passwd")) == (errno.EACCES, f"{launch}Permission denied")
    assert error_of(start(flux)) == (errno.EPROTO, "command string is empty")
    assert error_of(start(flux, "true", flags=WAITABLE))[0] == errno.EINVAL
    for cmd in ({}, {"cmdline": ["true"]}):
        assert ask(flux, "rexec.exec", {"cmd": cmd, "flags": 0}) == (errno.EPROTO, "error parsing command string")
    command = describe_command(["true"], env={})
    with pytest.raises(FluxError) as caught:
        flux.rpc("rexec.exec", {"cmd": command, "flags": CREDIT}, nodeid=1).get(WAIT)
    assert (caught.value.errnum, caught.value.text) == (
        errno.EINVAL,
        "write-credit flag is not allowed in background mode",
    )
    if differs(engine, "no auxiliary channels"):
        assert ask(flux, "rexec.exec", {"cmd": {**command, "channels": ["X"]}, "flags": 0})[0] == errno.ENOTSUP
    nobody = "pid 4000000 does not belong to any subprocess"
    assert ask(flux, "rexec.kill", {"pid": 4000000, "signum": 15}) == (errno.ESRCH, nobody)
    assert ask(flux, "rexec.wait", {"pid": 4000000}) == (errno.ESRCH, nobody)
    assert ask(flux, "rexec.attach", {"pid": 4000000, "flags": 3}) == (errno.ENOENT, nobody)
    label = "label nobody does not belong to any subprocess"
    assert ask(flux, "rexec.kill", {"pid": -1, "label": "nobody", "signum": 15}) == (errno.ESRCH, label)


def test_kill_list_and_stop(flux: Flux) -> None:
    rpc = start(flux, "sleep", "1000", label="sleeper")
    pid = rpc.get()["pid"]
    listed = flux.rpc("rexec.list", nodeid=1).get(WAIT)
    assert listed["rank"] == 1
    assert {"pid": pid, "cmd": "sleep", "label": "sleeper", "state": "R"} in listed["procs"]
    assert error_of(start(flux, "true", label="sleeper"))[1] == "command label is not unique"
    flux.rpc("rexec.kill", {"pid": pid, "signum": signal.SIGSTOP}, nodeid=1).get(WAIT)
    assert rpc.get() == {"type": "stopped"}
    flux.rpc("rexec.kill", {"pid": -1, "label": "sleeper", "signum": signal.SIGKILL}, nodeid=1).get(WAIT)
    assert os.WTERMSIG(followed(rpc)[2]) == 9
    assert "sleeper" not in [proc["label"] for proc in flux.rpc("rexec.list", nodeid=1).get(WAIT)["procs"]]


def test_kill_reaches_the_group(flux: Flux) -> None:
    rpc = start(flux, "sh", "-c", "sleep 1000 & echo $!; wait")
    while (answer := rpc.get())["type"] != "output":
        pass
    grandchild = int(answer["io"]["data"])
    pid = answer["pid"]
    flux.rpc("rexec.kill", {"pid": pid, "signum": signal.SIGTERM}, nodeid=1).get(WAIT)
    # The streams end when nobody holds them any more: the grandchild has got the signal, too.
    followed(rpc)
    eventually(lambda: not psutil.pid_exists(grandchild), "the grandchild runs on")


def test_the_initial_program_is_listed(flux: Flux) -> None:
    procs = flux.rpc("rexec.list", nodeid=0).get(WAIT)["procs"]
    (program,) = (proc for proc in procs if proc["label"] == "rc2")
    assert (program["cmd"], program["state"]) == ("sh", "R")


def test_background(flux: Flux) -> None:
    pid = background(flux, "sh", "-c", "cat; echo out; echo err >&2; exit 3", flags=WAITABLE, label="bg")
    answer = flux.rpc("rexec.wait", {"pid": pid}, nodeid=1).get(WAIT)
    assert os.waitstatus_to_exitcode(answer["status"]) == 3
    assert sorted((io["stream"], io["data"]) for io in answer["output"]) == [("stderr", "err\n"), ("stdout", "out\n")]
    assert ask(flux, "rexec.wait", {"pid": pid})[0] == errno.ESRCH
    pid = background(flux, "sleep", "1000")
    assert ask(flux, "rexec.wait", {"pid": pid}) == (errno.EINVAL, "process is not waitable")
    flux.rpc("rexec.kill", {"pid": pid, "signum": 9}, nodeid=1).get(WAIT)


def test_zombies_wait_for_whom_it_concerns(flux: Flux, three: Running) -> None:
    pid = background(flux, "true", flags=WAITABLE)

    def state() -> str:
        procs = flux.rpc("rexec.list", nodeid=1).get(WAIT)["procs"]
        return next(str(proc["state"]) for proc in procs if proc["pid"] == pid)

    while state() != "Z":
        pass
    assert flux.rpc("rexec.wait", {"pid": pid}, nodeid=1).get(WAIT) == {"status": 0}
    pid = background(flux, "sleep", "1000", flags=WAITABLE)
    with Flux(f"local://{three.rundir}/local-1") as other:
        other.rpc("rexec.wait", {"pid": pid})
        other.rpc("rexec.list").get(WAIT)
        assert ask(flux, "rexec.wait", {"pid": pid}) == (errno.EINVAL, "process is already being waited on")
        busy = (errno.EBUSY, "subprocess is being waited on")
        assert ask(flux, "rexec.attach", {"pid": pid, "flags": 3}) == busy
    flux.rpc("rexec.kill", {"pid": pid, "signum": 9}, nodeid=1).get(WAIT)

    def is_collected() -> bool:
        try:
            answer = flux.rpc("rexec.wait", {"pid": pid}, nodeid=1).get(WAIT)
        except FluxError as error:
            if error.text == "process is already being waited on":
                return False  # by the one that is not quite gone
            raise
        return os.WTERMSIG(answer["status"]) == 9

    eventually(is_collected, "nobody can wait for it")


def test_attach(flux: Flux, three: Running) -> None:
    pid = background(flux, "sh", "-c", "trap 'echo caught; exit 4' TERM; sleep 1000 & wait", label="attached")
    with Flux(f"local://{three.rundir}/local-1") as other:
        first = other.rpc("rexec.attach", {"pid": -1, "label": "attached", "flags": BOTH}, streaming=True)
        answer = first.get(WAIT)
        assert (answer["type"], answer["pid"], answer["cmd"]["cmdline"][0]) == ("attached", pid, "sh")
        busy = (errno.EBUSY, "subprocess already has a client attached")
        assert ask(flux, "rexec.attach", {"pid": pid, "flags": BOTH}) == busy
    rpc = reattach(flux, pid, busy)
    os.kill(pid, signal.SIGTERM)
    output, status = followed_attached(rpc)
    assert output == "caught\n"
    assert os.waitstatus_to_exitcode(status) == 4
    foreground = start(flux, "sleep", "1000")
    pid = foreground.get()["pid"]
    refused = (errno.EBUSY, "subprocess is not in background mode")
    assert ask(flux, "rexec.attach", {"pid": pid, "flags": BOTH}) == refused
    flux.rpc("rexec.kill", {"pid": pid, "signum": 9}, nodeid=1).get(WAIT)


def reattach(flux: Flux, pid: int, busy: tuple[int, str]) -> Rpc:
    """Attach to a process when the client that was attached before is gone."""
    while True:
        rpc = flux.rpc("rexec.attach", {"pid": pid, "flags": BOTH}, nodeid=1, streaming=True, timeout=WAIT)
        try:
            rpc.get()
            return rpc
        except FluxError as error:
            if (error.errnum, error.text) != busy:
                raise


def followed_attached(rpc: Rpc) -> tuple[str, int]:
    """Output and status. The grandchild still holds the streams: they end with it, and nobody waits for that."""
    output, status = "", -1
    while not output or status < 0:
        answer = rpc.get()
        output += answer.get("io", {}).get("data", "")
        status = answer.get("status", status)
    return output, status


@pytest.mark.parametrize("method", ["exec", "kill", "wait", "attach", "list"])
def test_signed_requests_are_refused(flux: Flux, method: str) -> None:
    payload = {"cmd": describe_command(["true"], env={}), "flags": BOTH, "pid": 1, "signum": 0, "signature": "x"}
    assert ask(flux, f"rexec.{method}", payload)[0] == errno.EPERM

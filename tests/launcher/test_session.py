"""Sessions from outside: what flux-start prints and returns, with any broker."""

from __future__ import annotations

import os
import re
import resource
import signal
from pathlib import Path

import pytest

from tests.launcher.sessions import Start, start

__all__ = ["start"]

PYTHON = "/usr/bin/env python3"
CLIENT = "import os, socket\ns = socket.socket(fileno=int(os.environ['PMI_FD']))\n"


def without_pids(text: str) -> list[str]:
    return sorted(re.sub(r"\(pid \d+\)", "(pid N)", text).splitlines())


def test_highest_exit_code_counts(start: Start) -> None:
    ended = start("-s3", broker="exit $((PMI_RANK+7))").end()
    assert ended.code == 9
    assert without_pids(ended.stderr) == [
        f"flux-start: {rank} (pid N) exited with rc={rank + 7}" for rank in range(3)
    ]


def test_exit_code_of_leader_counts_in_mode_leader(start: Start) -> None:
    assert start("-s3", "--test-exit-mode=leader", broker="exit $((9-PMI_RANK))").end().code == 9
    assert start("-s3", "--test-exit-mode=leader", broker="exit $PMI_RANK").end().code == 0


def test_signal_counts_as_128_more(start: Start) -> None:
    ended = start("-s1", broker="kill -SEGV $$").end()
    assert ended.code == 128 + signal.SIGSEGV
    assert re.fullmatch(r"flux-start: 0 \(pid \d+\) Segmentation fault\n", ended.stderr)


def test_brokers_are_killed_when_some_have_gone(start: Start) -> None:
    broker = "[ $PMI_RANK = 1 ] && exit 3; exec tail -f /dev/null"
    ended = start("-s3", "--test-exit-timeout=0.1s", broker=broker).end()
    assert ended.code == 137
    assert ended.stderr.splitlines()[1] == "flux-start: Exit timeout: killed rank 0,2"
    assert without_pids(ended.stderr)[0] == "flux-start: 0 (pid N) Killed"


def test_brokers_outlive_others_in_mode_leader(start: Start) -> None:
    broker = "[ $PMI_RANK = 0 ] && read line < fifo && exit 3; [ $PMI_RANK = 1 ] && exit 4; exec tail -f /dev/null"
    os.mkfifo(start.directory / "fifo")
    session = start("-s3", "--test-exit-timeout=0.1s", "--test-exit-mode=leader", broker=broker)
    assert session.stderr.line().endswith("exited with rc=4")
    (start.directory / "fifo").write_text("\n")
    assert session.stderr.line().endswith("exited with rc=3")
    ended = session.end()
    assert "killed rank 2\n" in ended.stderr
    assert ended.code == 3


def test_only_the_leader_is_started_in_start_mode_leader(start: Start) -> None:
    assert start("-s3", "--test-start-mode=leader", broker="echo $PMI_RANK of $PMI_SIZE").end().stdout == "0 of 3\n"


def test_broker_finds_its_surroundings_as_the_user_had_them(start: Start) -> None:
    broker = (
        "ls /proc/self/fd | tr '\\n' ' '; echo PMI_FD $PMI_FD; ulimit -n; "
        "grep -E 'Sig(Blk|Ign)' /proc/self/status; ps -o pgid= -p $$"
    )
    reader, writer = os.pipe()

    def lower_limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))

    # More brokers than that leaves room for, and a descriptor that is not theirs.
    session = start("-s70", "--test-start-mode=leader", broker=broker, before=lower_limit, pass_fds=[writer])
    os.close(reader)
    os.close(writer)
    ended = session.end()
    descriptors, limit, blocked, ignored, group = ended.stdout.splitlines()
    listed, _, channel = descriptors.partition("PMI_FD ")
    # 3 is of the listing itself.
    assert set(listed.split()) == {"0", "1", "2", "3", channel}
    assert limit == "64"
    assert int(blocked.split()[1], 16) == 0
    # 32 and 33 are the C library's own, which nobody can set.
    assert int(ignored.split()[1], 16) & ~(0b11 << 31) == 0
    assert int(group) == os.getpgrp()


def test_too_few_open_files_are_said_so(start: Start) -> None:
    def lower_limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

    ended = start("-s60", broker="exit 0", before=lower_limit).end()
    assert ended.code == 1
    assert ended.stderr == (
        "flux-start: an instance of size 60 needs 184 open files, and the limit is 100: raise it (ulimit -Hn)\n"
    )


@pytest.mark.parametrize(
    ("interpreter", "reason"),
    [
        ("/no/such/interpreter -x", "cannot execute its interpreter /no/such/interpreter: No such file or directory"),
        ("/etc/passwd", "Permission denied"),
    ],
)
def test_broker_that_cannot_be_executed_is_named(start: Start, interpreter: str, reason: str) -> None:
    ended = start("-s3", broker="", interpreter=interpreter).end()
    assert ended.code == 1
    assert ended.stderr == f"flux-start: {start.directory}/flux-broker: {reason}\n"


def test_started_brokers_are_stopped_if_another_cannot_be_executed(start: Start) -> None:
    # The first broker makes the script unusable for the next ones.
    wrapper = start.directory / "wrapper"
    wrapper.write_text(f"#!/bin/sh\necho started; chmod 0 {wrapper}; exec tail -f /dev/null\n")
    wrapper.chmod(0o755)
    ended = start("-s64", f"--wrap={wrapper}", broker="").end()
    assert ended.code == 1
    assert ended.stderr.startswith(f"flux-start: {wrapper}: ")


def test_abort_kills_all(start: Start) -> None:
    broker = CLIENT + (
        "if os.environ['PMI_RANK'] == '1':\n"
        "    s.sendall(b'cmd=init pmi_version=1 pmi_subversion=1\\n')\n"
        "    s.sendall(b'cmd=abort exitcode=42 error_msg=woops it broke\\n')\n"
        "s.recv(4096); s.recv(4096)\n"
    )
    ended = start("-s2", broker=broker, interpreter=PYTHON).end()
    assert ended.code == 137
    assert ended.stderr.startswith("flux-start: 1: PMI_Abort(): woops it broke\n")
    assert without_pids(ended.stderr)[0] == "flux-start: 0 (pid N) Killed"


def test_last_words_of_a_broker_are_heard(start: Start) -> None:
    # It exits at once, and its end may well be noticed before what it has said.
    broker = CLIENT + "s.sendall(b'cmd=get_maxes\\ncmd=get_appnum\\n'); os._exit(5)"
    ended = start("-s1", "-vv", broker=broker, interpreter=PYTHON).end()
    assert "0: C: cmd=get_appnum\n" in ended.stderr
    assert ended.stderr.endswith("exited with rc=5\n")


def test_broken_protocol_ends_the_session(start: Start) -> None:
    broker = CLIENT + (
        "if os.environ['PMI_RANK'] == '0': s.sendall(b'this is not pmi\\n')\n"
        "os.write(1, b'%r\\n' % s.recv(4096))\n"
        "if os.environ['PMI_RANK'] == '1': s = os.read(os.pipe()[0], 1)\n"
    )
    ended = start("-s2", broker=broker, interpreter=PYTHON).end()
    assert ended == (1, "b''\nb''\n", "flux-start: channel_cb: pmi_simple_server_request: Protocol error\n")


def test_conversation_is_traced(start: Start) -> None:
    broker = CLIENT + "s.sendall(b'cmd=get_appnum\\n'); print(s.recv(4096))"
    ended = start("-s1", "-vv", broker=broker, interpreter=PYTHON).end()
    assert ended.stdout == "b'cmd=appnum rc=0 appnum=0\\n'\n"
    assert ended.stderr.splitlines()[1:] == ["0: C: cmd=get_appnum", "0: S: cmd=appnum rc=0 appnum=0"]


# What it does while it waits must be no process: that would be asked to end, too.
DAEMON = (
    "mkfifo fifo never;"
    "(setsid sh -c 'exec 3<> never; trap \"{trap}\" TERM; echo > fifo; while :; do read x <&3; done' &);"
    "read x < fifo"
)


def test_daemon_is_ended_with_the_instance(start: Start) -> None:
    broker = DAEMON.format(trap="echo asked; exit")
    assert start("-s1", broker=broker).end() == (0, "asked\n", "")


def test_daemon_that_will_not_end_is_killed(start: Start) -> None:
    broker = DAEMON.format(trap="")
    assert start("-s1", broker=broker).end() == (0, "", "")


def test_run_directory_of_the_users_is_left_empty(start: Start, private_tmpdir: str) -> None:
    rundir = Path(private_tmpdir) / "r"
    rundir.mkdir()
    (rundir / "mine").write_text("")
    broker = CLIENT + (
        f"for name in ('local-0', 'tbon-0'): socket.socket(socket.AF_UNIX).bind('{rundir}/' + name)\n"
        f"os.mkdir('{rundir}/bin'); os.symlink('/flux', '{rundir}/bin/flux')\n"
    )
    ended = start("-s1", f"--test-rundir={rundir}", broker=broker, interpreter=PYTHON).end()
    assert ended == (0, "", "")
    assert [path.name for path in rundir.iterdir()] == ["mine"]
    (rundir / "mine").unlink()
    rundir.rmdir()


def test_run_directory_is_for_one_instance_at_a_time(start: Start, private_tmpdir: str) -> None:
    rundir = Path(private_tmpdir) / "r"
    rundir.mkdir()
    option = f"--test-rundir={rundir}"
    first = start("-s1", option, broker="echo up; exec sleep 60")
    assert first.stdout.line() == "up"
    second = start("-s1", option, "--test-rundir-cleanup", broker="echo up").end()
    assert second == (1, "", f"flux-start: {rundir}: another instance runs in this directory\n")
    assert (rundir / "start").is_socket()
    first.signal(signal.SIGTERM)
    first.end()
    assert start("-s1", option, broker="echo up").end() == (0, "up\n", "")
    rundir.rmdir()


def test_closed_standard_descriptors_are_not_taken_by_others(start: Start) -> None:
    def close_all() -> None:
        for descriptor in range(3):
            os.close(descriptor)

    # Whatever a broker says or reads then must not get into a pipe of the launcher's.
    broker = "exec 2> errors; head -c 100; echo one; echo two > /dev/fd/1; ls -l /proc/self/fd > descriptors"
    assert start("-s2", "-vv", broker=broker, before=close_all).end() == (0, "", "")
    assert (start.directory / "errors").read_text() == ""
    assert (start.directory / "descriptors").read_text().count("/dev/null") == 1

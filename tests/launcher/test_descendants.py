"""Finding and ending what a process has brought forth. Each test does it in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.launcher.sessions import DEADLINE

PRELUDE = """
import os, signal, subprocess, sys, time
from pytest_flux.launcher.descendants import *
become_subreaper()
def wait_for(pipe): assert os.read(pipe, 1)
reader, writer = os.pipe()
def start_daemon(action):
    # A process without a parent of its own, in a session of its own.
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        wait_for(reader)
    else:
        os.setsid()
        if os.fork():
            os._exit(0)
        signal.signal(signal.SIGTERM, action)
        os.write(writer, b".")
        while True:
            signal.pause()
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", PRELUDE + code], capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_nothing_is_found_where_there_is_nothing() -> None:
    assert run("print(descendants(), reap(), kill_descendants(), end_descendants(0))") == "[] False True True\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
def test_orphans_are_found_and_killed() -> None:
    code = (
        "start_daemon(signal.SIG_DFL); start_daemon(signal.SIG_IGN)\n"
        "print(len(descendants()), kill_descendants(), descendants())"
    )
    assert run(code) == "2 True []\n"


def test_grandchildren_are_found_with_their_parents_alive() -> None:
    script = "sh -c \"sh -c 'echo >&$0; read x' $0; true\" $0; true"
    code = (
        f"p = subprocess.Popen(['sh', '-c', {script!r}, str(writer)], pass_fds=[writer], stdin=subprocess.PIPE)\n"
        "wait_for(reader); print(len(descendants()), kill_descendants(), descendants()); p.wait()"
    )
    assert run(code) == "3 True []\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
def test_daemon_may_end_by_itself() -> None:
    code = (
        "start_daemon(lambda *_: os.write(1, b'asked ') and os._exit(0)); t = time.monotonic()\n"
        "print(end_descendants(30), time.monotonic() - t < 10)"
    )
    assert run(code) == "asked True True\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
def test_daemon_that_ignores_the_request_is_killed() -> None:
    assert run("start_daemon(signal.SIG_IGN); print(end_descendants(0.05), descendants())") == "True []\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
def test_what_forks_faster_than_one_can_look_is_killed_too() -> None:
    # Every process of the chain forks the next one and exits; none lives long enough to be seen twice.
    chain = (
        "import os\nfor n in range(20000):\n    if os.fork(): os._exit(0)\n    if n == 50: os.write({writer}, b'.')\n"
    )
    code = (
        f"subprocess.Popen([sys.executable, '-c', {chain!r}.format(writer=writer)], pass_fds=[writer]).wait()\n"
        "wait_for(reader); print(kill_descendants(), descendants())"
    )
    assert run(code) == "True []\n"


def test_system_without_lists_of_children_is_asked_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    # macOS has no /proc, and not every Linux kernel has the lists in it.
    code = (
        "os.path.exists = lambda path: False\n"
        "p = subprocess.Popen(['tail', '-f', '/dev/null'])\n"
        "print(descendants() == [p.pid], kill_descendants()); p.wait()"
    )
    assert run(code) == "True True\n"

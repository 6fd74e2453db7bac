"""Brokers that are forked rather than executed, each from a process of its own: what they are like.

Brokers that are executed are looked at in test_session.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.launcher.sessions import DEADLINE

# A launcher with signals, descriptors and limits of its own, and something that stands for the embedded broker.
PRELUDE = """
import os, resource, signal, sys, threading, types
module = types.ModuleType("pytest_flux.broker.main")
sys.modules["pytest_flux.broker.main"] = module
module.prepare = lambda size, rundir: None
from pytest_flux.launcher.engine import Engine
from pytest_flux.launcher.lifeline import Lifeline
from pytest_flux.launcher.rundir import Rundir
from pytest_flux.launcher.spawn import Launch, Spawner

os.environ["LAUNCHER"] = "1"
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 4096))
others = os.pipe()
channel, ours = os.pipe()
lifeline = Lifeline(os.pipe()[0], Rundir("/rundir", False, "/rundir", (0, 0)))
signal.set_wakeup_fd(others[1], warn_on_full_buffer=False) if os.set_blocking(others[1], False) else None
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
    signal.signal(number, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

def start(spawner, rank, argv, environ):
    launch = Launch(rank, argv, environ, channel)
    spawner.spawn([launch])
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == {signal.SIGHUP}
    return os.waitstatus_to_exitcode(os.waitpid(launch.pid, 0)[1])

def run(main, size=200):
    module.main = main
    spawner = Spawner(Engine("embedded", "/flux-broker", {}), size, "/rundir", os.getpgrp(), lifeline, wrap=False)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= size
    print(start(spawner, 7, ["/flux-broker", "-v", "true"], {"PMI_RANK": "7"}))
"""


def run(code: str) -> tuple[str, str]:
    done = subprocess.run([sys.executable, "-c", PRELUDE + code], capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_main_gets_arguments_and_environment_and_gives_the_exit_code() -> None:
    code = """
def main(argv, lifeline):
    print(argv, dict(os.environ) == {"PMI_RANK": "7", "PMI_FD": str(channel)})
    return 9
run(main)
"""
    assert run(code) == ("['-v', 'true'] True\n9\n", "")


def test_process_is_as_if_the_user_had_started_it() -> None:
    code = """
def main(argv, lifeline):
    # One more is that of the listing.
    print({*map(int, os.listdir("/dev/fd"))} - {3} == {0, 1, 2, channel, lifeline.descriptor})
    print(sorted(number for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN))
    print([number for number in signal.valid_signals() if callable(signal.getsignal(number))])
    print(signal.set_wakeup_fd(-1), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    print(resource.getrlimit(resource.RLIMIT_NOFILE), os.getpgrp() == os.getpgid(os.getppid()))
    return 0
run(main)
"""
    ignored = sorted([signal.SIGPIPE, signal.SIGXFSZ])
    # Python ignores these two in every program.
    assert run(code) == (f"True\n{ignored}\n[]\n-1 set()\n(100, 4096) True\n0\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process change its name")
def test_process_is_listed_under_its_own_name() -> None:
    code = "run(lambda argv, lifeline: print(open('/proc/self/comm').read(), end='') or 0)"
    assert run(code) == ("flux-broker-7\n0\n", "")


@pytest.mark.parametrize(("end", "code"), [("3", 3), ("None", 0), ("'text'", 1), ("", 0)])
def test_exit_from_within_is_an_exit(end: str, code: int) -> None:
    assert run(f"def main(argv, lifeline):\n    sys.exit({end})\nrun(main)") == (f"{code}\n", "")


def test_error_is_shown_and_goes_no_further() -> None:
    output, errors = run("def main(argv, lifeline):\n    raise KeyError('mine')\nrun(main)\nprint('once')")
    assert output == "1\nonce\n"
    assert errors.endswith("KeyError: 'mine'\n")


def test_output_of_the_launcher_is_not_printed_twice() -> None:
    # Standard output is a pipe, so it is buffered, and the buffer would be forked along.
    assert run("print('once'); run(lambda argv, lifeline: 0)") == ("once\n0\n", "")


def test_signal_that_comes_at_once_is_not_lost() -> None:
    code = """
real_fork = os.fork
def fork():
    pid = real_fork()
    if pid == 0:
        # Before the child has got anywhere.
        os.kill(os.getpid(), signal.SIGTERM)
    return pid
os.fork = fork
run(lambda argv, lifeline: 0)
"""
    assert run(code) == (f"{-signal.SIGTERM}\n", "")


def test_group_outside_of_our_container_is_left_alone() -> None:
    code = """
module.main = lambda argv, lifeline: print(os.getpgrp() == os.getpgid(os.getppid())) or 0
spawner = Spawner(Engine("embedded", "/flux-broker", {}), 1, "/rundir", 0, lifeline, wrap=False)
start(spawner, 0, [""], {})
spawner = Spawner(Engine("system", "/bin/sh", {}), 1, "/rundir", 0, lifeline, wrap=False)
start(spawner, 0, ["sh", "-c", "ps -o pgid= -p $$"], os.environ)
"""
    output, errors = run(code)
    same, group = output.split()
    assert (same, errors) == ("True", "")
    assert int(group) == os.getpgrp()

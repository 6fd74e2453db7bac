"""The task of ``pytest --flux-workers``: dials the pytest that has submitted it, and is execnet's Python there.

What execnet starts for a worker on the same host, ``python -u -c ...`` with pipes, we start with a connection instead
of the pipes. A process above it, this one, is needed for three things:

* A worker that crashes gets a successor. The job cannot start another task, and another job would have to wait for
  the resources that this one still has. So we dial again.
* How a worker has ended is known to its parent only. We say it on standard error, which is the output of the job.
* If pytest is killed, or cancels the job, a worker that hangs must end.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys

from pytest_flux.launcher.rendezvous import ENVIRONMENT, clean_up, dial

_DIAL_LIMIT = 60.0
# The time, in seconds, that a worker may take to end when pytest no longer listens: execnet interrupts its test after
# 5 s, and gives up after 10 more.
_END_LIMIT = 20.0
# The same after SIGTERM; Flux kills us soon after that.
_TERM_LIMIT = 2.0
# The time, in seconds, after the end of a worker in which pytest shows that it has wanted that end.
_FAREWELL = 1.0
# As execnet starts Python.
_PYTHON = [sys.executable, "-u", "-c", "import sys;exec(eval(sys.stdin.readline()))"]
# Variables that describe our job. Tests must not take them for theirs.
_OF_THE_JOB = (
    *("FLUX_JOB_ID", "FLUX_JOB_ID_PATH", "FLUX_JOB_NNODES", "FLUX_JOB_SIZE", "FLUX_JOB_TMPDIR", "FLUX_KVS_NAMESPACE"),
    *("FLUX_PMI_LIBRARY_PATH", "FLUX_TASK_LOCAL_ID", "FLUX_TASK_RANK", "FLUX_TERMINUS_SESSION"),
    *("PMI_FD", "PMI_RANK", "PMI_SIZE", "PMI_SPAWNED"),
)
_HUNG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class _Terminated(Exception):
    """Our job is cancelled."""


class _Signals:
    """Signals as something to poll: the end of a child, and SIGTERM."""

    def __init__(self) -> None:
        self._read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: None)

    def fileno(self) -> int:
        return self._read

    def check(self) -> None:
        """Take the signals that have come. Raises _Terminated."""
        if signal.SIGTERM in os.read(self._read, 4096):
            raise _Terminated


def _is_readable(connection: socket.socket, events: int, timeout: float | None, signals: _Signals) -> bool:
    """Wait for events of the connection, but not longer than until the next signal. Raises _Terminated."""
    poll = select.poll()
    poll.register(connection, events)
    poll.register(signals, select.POLLIN)
    ready = dict(poll.poll(None if timeout is None else timeout * 1000))
    if signals.fileno() in ready:
        signals.check()
    return connection.fileno() in ready


def _serve(connection: socket.socket, signals: _Signals) -> bool:
    """Run one worker. Return whether pytest may want another."""
    # Until pytest writes, or hangs up.
    while not _is_readable(connection, select.POLLIN, None, signals):
        pass
    if not connection.recv(1, socket.MSG_PEEK):
        return False
    worker = subprocess.Popen(_PYTHON, stdin=connection.fileno(), stdout=connection.fileno())
    try:
        while worker.poll() is None:
            if _is_readable(connection, _HUNG_UP, None, signals):
                _end(worker, _END_LIMIT)
                return False
        is_wanted = not _is_readable(connection, _HUNG_UP, _FAREWELL, signals)
    except _Terminated:
        worker.terminate()
        _end(worker, _TERM_LIMIT)
        raise
    if is_wanted or worker.returncode:
        _report(worker)
    return is_wanted


def _end(worker: subprocess.Popen[bytes], limit: float) -> None:
    """Wait for the end of a worker. If it takes too long, kill it with all that it has started, and us."""
    try:
        worker.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(0, signal.SIGKILL)


def _report(worker: subprocess.Popen[bytes]) -> None:
    code = worker.returncode
    how = f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit code {code}"
    os.write(2, f"pytest-flux: the worker (pid {worker.pid}) {how}\n".encode())


def main() -> int:
    """Serve workers, one after the other, until pytest hangs up."""
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    address = os.environ.pop(ENVIRONMENT, None)
    if address is None:
        sys.stderr.write(f"pytest-flux: {ENVIRONMENT} is not set: this program is a task of pytest --flux-workers\n")
        return 1
    about = {"task": int(os.environ["FLUX_TASK_RANK"]), "host": socket.gethostname()}
    for name in _OF_THE_JOB:
        os.environ.pop(name, None)
    try:
        return _serve_all(address, about)
    except _Terminated:
        return 128 + signal.SIGTERM
    finally:
        clean_up(address)


def _serve_all(address: str, about: dict[str, object]) -> int:
    """Serve workers. Return the exit code. Raises _Terminated."""
    signals = _Signals()
    is_first = True
    while True:
        try:
            connection = dial(address, about, _DIAL_LIMIT)
        except OSError as error:
            if not is_first:
                # The run is over.
                return 0
            sys.stderr.write(f"pytest-flux: {about['host']}: {error}\n")
            return 1
        is_first = False
        with contextlib.closing(connection):
            if not _serve(connection, signals):
                return 0


if __name__ == "__main__":
    sys.exit(main())

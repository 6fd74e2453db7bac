"""Listening on a UNIX socket. The server is a module apart, so that a socket can listen before it is imported."""

from __future__ import annotations

import errno
import os
import socket
import stat

_BACKLOG = 128


def listen(path: str) -> socket.socket:
    """A socket that listens at ``path``. It replaces a socket there that nobody listens at.

    Raises OSError, which names the path; EADDRINUSE if somebody listens there, EEXIST if that is not a socket.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _make_way(path)
        listener.bind(path)
        # Who may connect is decided by credentials, not by the mode of the file (as flux-core does).
        os.chmod(path, 0o777)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, error.strerror, path) from None
    listener.setblocking(False)
    return listener


def _make_way(path: str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as visitor:
        visitor.setblocking(False)
        try:
            visitor.connect(path)
        except BlockingIOError:  # there is a queue
            pass
        except OSError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

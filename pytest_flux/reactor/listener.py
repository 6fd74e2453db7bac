"""Listening on a UNIX socket. Apart from what serves it, so that it can be had before that is imported."""

from __future__ import annotations

import os
import socket

_BACKLOG = 128


def listen(path: str) -> socket.socket:
    """A socket that listens at ``path``, in place of whatever was there. Raises OSError, which names the path."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        # Who may connect is decided by credentials, not by the mode of the file (as flux-core does).
        os.chmod(path, 0o777)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, error.strerror, path) from None
    listener.setblocking(False)
    return listener

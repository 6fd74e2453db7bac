"""The secret of a parent for its children, in a file beside its socket: for brokers that boot without PMI."""

from __future__ import annotations

import os

_SIZE = 16


def secret_path(socket_path: str) -> str:
    """The file that belongs to a socket."""
    return f"{socket_path}.secret"


def write_secret(path: str) -> str:
    """Make a new secret and write it to a new file of mode 0600. OSError."""
    secret = os.urandom(_SIZE).hex()
    remove_secret(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, secret.encode())
    finally:
        os.close(fd)
    return secret


def read_secret(path: str) -> str:
    """The secret in a file, "" if there is none that can be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 4 * _SIZE).decode("ascii", "replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def remove_secret(path: str) -> None:
    """Remove the file, if it is there."""
    try:
        os.unlink(path)
    except OSError:
        return

"""The way to a broker: URIs, and the connection to a local one."""

from __future__ import annotations

import errno
import os
import time

# Its C part alone: what `socket` adds to it costs a tenth of the time in which `flux getattr` is done.
from _socket import AF_UNIX, SOCK_STREAM, socket

SYSTEM_URI = "local:///run/flux/local"
"""Where the instance of the machine's administrator is, if there is one (flux-core's packages)."""

RETRIES_VARIABLE = "FLUX_LOCAL_CONNECTOR_RETRY_COUNT"
"""Names the environment variable that says how often to try again where nobody listens."""

_RETRIES = 5
_FIRST_DELAY = 0.016
_LONGEST_DELAY = 2.0
_SCHEME = "local://"
_MAX_PATH = 107


def default_uri() -> str:
    """``FLUX_URI``, or, outside of an instance, the one of the system's."""
    return os.environ.get("FLUX_URI") or SYSTEM_URI


def local_path(uri: str) -> str:
    """The path of the socket that ``uri`` names. Raises ValueError for any URI but ``local://PATH``."""
    path = uri[len(_SCHEME) :] if uri.startswith(_SCHEME) else ""
    if not path:
        raise ValueError(f"cannot connect to {uri!r}: only local://PATH and ssh://HOST/PATH are understood")
    if len(os.fsencode(path)) > _MAX_PATH:
        raise ValueError(f"cannot connect to {uri!r}: the path is longer than {_MAX_PATH} bytes")
    return path


def connect(uri: str) -> socket:
    """A socket connected to the broker; the broker has not yet said whether it takes us.

    Tries again for about half a second, with growing delays, as flux-core does: a broker that is just starting binds
    its socket a moment before it listens. Raises OSError, which carries the URI, and ValueError for a URI or a
    retry count that is none.
    """
    if uri.startswith("ssh://"):
        from pytest_flux.client.ssh import connect_by_ssh, is_here

        if not is_here(uri):
            return connect_by_ssh(uri)
        uri = "local:///" + uri[len("ssh://") :].partition("/")[2]
    path = local_path(uri)
    retries = _retry_count()
    delay = _FIRST_DELAY
    while True:
        sock = socket(AF_UNIX, SOCK_STREAM)
        try:
            sock.connect(path)
        except OSError as error:
            sock.close()
            if retries <= 0:
                raise OSError(error.errno or errno.EIO, error.strerror, uri) from None
        else:
            return sock
        retries -= 1
        time.sleep(delay)
        delay = min(delay * 2, _LONGEST_DELAY)


def _retry_count() -> int:
    text = os.environ.get(RETRIES_VARIABLE)
    if text is None:
        return _RETRIES
    try:
        count = int(text)
    except ValueError:
        count = -1
    if count < 0:
        raise ValueError(f"{RETRIES_VARIABLE}={text}: not a number of retries")
    return count

"""Broker attributes, and what depends on them: flux-core's ``attr.c`` and ``hosts.c``."""

from __future__ import annotations

import errno
import os
from typing import Any

from pytest_flux.bindings.ffi import NULL, chars, fail, set_error, text
from pytest_flux.bindings.handle import Handle
from pytest_flux.bindings.library import function
from pytest_flux.bindings.rpc import call_json, get_attribute, response_member
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.hostlist import decode_hostlist, encode_hostlist
from pytest_flux.protocol.idset import decode_idset, encode_idset


@function("flux_t *, char * -> char *")
def flux_attr_get(h: Handle, name: Any) -> Any:
    """The value of an attribute: flux_attr_get(3)."""
    key = text(name)
    if key is None:
        return fail(errno.EINVAL, NULL)
    # A client of `flux proxy` reaches the parent from another host than the broker does.
    proxy = os.environ.get("FLUX_PROXY_REMOTE") if key == "parent-uri" else None
    value = get_attribute(h, key)
    if value is None:
        return NULL
    if proxy is not None and value.startswith("local://"):
        value = f"ssh://{proxy}{value[len('local://') :]}"
    return chars(value)


@function("flux_t *, char *, char *, bool, flux_error_t * -> int")
def flux_attr_set_ex(h: Handle, name: Any, val: Any, force: bool, errp: Any) -> int:
    """Set an attribute: flux_attr_get(3)."""
    key, value = text(name), text(val)
    if key is None or value is None:
        return int(fail(errno.EINVAL))
    payload: dict[str, Any] = {"name": key, "value": value}
    if force:
        payload["force"] = True
    future = call_json(h, "attr.set", payload)
    if future is NULL:
        return -1
    done = future.get() is not None
    if not done:
        outcome = future.outcome()
        set_error(errp, (outcome and outcome[1]) or os.strerror(outcome[0] if outcome else errno.EIO))
    future.destroy()
    return 0 if done else -1


@function("flux_t *, char *, char * -> int")
def flux_attr_set(h: Handle, name: Any, val: Any) -> int:
    """Set an attribute: flux_attr_get(3)."""
    return flux_attr_set_ex(h, name, val, False, NULL)


@function("flux_t *, char *, char * -> int")
def flux_attr_set_cacheonly(h: Handle, name: Any, val: Any) -> int:
    """Set what this handle believes an attribute to be: flux_attr_get(3)."""
    known = h.aux.setdefault("attributes", {})
    value = text(val)
    if value is None:
        known.pop(text(name), None)
    else:
        known[text(name)] = value
    return 0


@function("flux_t *, uint32_t * -> int")
def flux_get_rank(h: Handle, rank: Any) -> int:
    """The rank of the broker: flux_get_rank(3)."""
    value = get_attribute(h, "rank")
    if value is None:
        return -1
    rank[0] = int(value)
    return 0


@function("flux_t *, uint32_t * -> int")
def flux_get_size(h: Handle, size: Any) -> int:
    """The number of brokers: flux_get_rank(3)."""
    value = get_attribute(h, "size")
    if value is None:
        return -1
    size[0] = int(value)
    return 0


@function("flux_t *, double * -> int")
def flux_get_instance_starttime(h: Handle, starttime: Any) -> int:
    """When the instance began: flux_get_rank(3)."""
    future = call_json(h, "attr.get", {"name": "broker.starttime"}, 0)
    if future is NULL:
        return -1
    value = response_member(future, "value")
    future.destroy()
    if value is None:
        return -1
    starttime[0] = float(value)
    return 0


# -- hosts


def _hosts(handle: Handle) -> list[str] | None:
    hosts: list[str] | None = handle.aux.get("hosts")
    if hosts is None:
        value = get_attribute(handle, "hostlist")
        if value is None:
            return None
        hosts = handle.aux["hosts"] = decode_hostlist(value)
    return hosts


@function("flux_t *, uint32_t -> char *")
def flux_get_hostbyrank(h: Handle, rank: int) -> bytes:
    """The host of a broker: hosts.h."""
    if rank == 0xFFFFFFFF:
        return b"any"
    if rank == 0xFFFFFFFE:
        return b"upstream"
    hosts = _hosts(h)
    return chars(hosts[rank]) if hosts and rank < len(hosts) else b"(null)"


@function("flux_t *, char * -> int")
def flux_get_rankbyhost(h: Handle, host: Any) -> int:
    """The lowest rank on a host: hosts.h."""
    hosts, name = _hosts(h), text(host)
    if hosts is None:
        return -1
    return hosts.index(name) if name in hosts else int(fail(errno.ENOENT))


@function("flux_t *, char *, flux_error_t * -> char *")
def flux_hostmap_lookup(h: Handle, targets: Any, errp: Any) -> Any:
    """Hosts for ranks, or ranks for hosts: hosts.h."""
    hosts = _hosts(h)
    wanted = text(targets) or ""
    if hosts is None:
        return NULL
    try:
        ranks = decode_idset(wanted)
    except ProtocolError:
        return _ranks_of(hosts, wanted, errp)
    beyond = [rank for rank in ranks if rank >= len(hosts)]
    if beyond:
        set_error(errp, f"rank {beyond[0]} is not in host map")
        return fail(errno.ENOENT, NULL)
    return chars(encode_hostlist(hosts[rank] for rank in ranks))


def _ranks_of(hosts: list[str], wanted: str, errp: Any) -> Any:
    try:
        names = decode_hostlist(wanted)
    except ProtocolError:
        set_error(errp, "target must be a valid Idset or Hostlist")
        return fail(errno.EINVAL, NULL)
    unknown = [name for name in names if name not in hosts]
    if unknown:
        set_error(errp, f"host {unknown[0]} not found in host map")
        return fail(errno.ENOENT, NULL)
    return chars(encode_idset(rank for rank, host in enumerate(hosts) if host in names))

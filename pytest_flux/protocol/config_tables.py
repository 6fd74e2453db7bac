"""Checks the tables of an instance's configuration, as flux-core's modules do when they load it: flux-config(5).

flux-core reads each table with jansson's json_unpack_ex(), whose complaints reach the user: see ``json_unpack``. A
table that no module of flux-core checks is not checked here either.

``CHECKS`` has a function for each module. Tables that name files are checked where the files are read
(``broker/resource/config.py``).
"""

from __future__ import annotations

import math

from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.json_unpack import unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Config = dict[str, Any]

_INT = 1 << 31
_UNFIT_PROPERTY = frozenset(" \t!&'\"`|()")
_UNITS = {"": 0, "k": 10, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50, "E": 60}
_VERIFY_MODES = ("strict", "allow-extra", "allow-missing", "ignore")


def _unpack(prefix: str, table: object, kinds: dict[str, type], *, strict: bool = True) -> None:
    """Unpack a table that may be missing, with a prefix before the complaint."""
    if table is None:
        return
    try:
        unpack(table, kinds, strict=strict)
    except ProtocolError as error:
        raise ProtocolError(f"{prefix}{error}") from None


def _is_duration(value: object) -> bool:
    try:
        return isinstance(value, str) and parse_duration(value) >= 0
    except ProtocolError:
        return False


def _is_strings(value: object, banned: frozenset[str] = frozenset()) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) and not banned & set(text) for text in value)


# -- [access]: connector-local


def check_access(config: Config) -> None:
    """Check ``[access]`` with its roles (flux-core's connector-local and librouter/roleconf.c)."""
    table = config.get("access")
    kinds: dict[str, type] = {
        "allow-guest-user": bool,
        "allow-root-owner": bool,
        "private-mode": bool,
        "roles": object,
    }
    _unpack("error parsing [access] configuration: ", table, kinds)
    roles = table.get("roles") if isinstance(table, dict) else None
    if roles is None:
        return
    if not isinstance(roles, dict):
        raise ProtocolError("[access.roles] must be a table")
    for name, entry in roles.items():
        if name != "admin":
            raise ProtocolError(f"unknown role '{name[:80]}' in [access.roles]")
        _unpack(f"[access.roles.{name}]: ", entry, {"users": object, "groups": object})
        for key in ("users", "groups"):
            if key in entry and not _is_strings(entry[key]):
                raise ProtocolError(f"[access.roles.{name}] {key} must be a string array")


# -- [heartbeat]


def heartbeat_settings(config: Config) -> tuple[float, float, int]:
    """Return the period, the timeout (-1 for none) and the warning threshold (flux-core's heartbeat.c)."""
    table = config.get("heartbeat")
    kinds: dict[str, type] = {"period": str, "timeout": str, "warn_thresh": int}
    _unpack("error reading [heartbeat] config table: ", table, kinds)
    told = table if isinstance(table, dict) else {}
    for name in ("period", "timeout"):
        if name in told and not _is_duration(told[name]):
            raise ProtocolError(f"error parsing heartbeat.{name} FSD value")
    period, timeout = parse_duration(told.get("period", "2s")), parse_duration(told.get("timeout", "5m"))
    if period <= 0:
        raise ProtocolError("heartbeat.period must be a positive FSD value")
    if timeout == 0 or math.isinf(timeout):
        timeout = -1.0
    elif timeout < period * 2:
        raise ProtocolError("heartbeat.timeout must be >= 2*heartbeat.period, infinity, or 0")
    warn_thresh: int = told.get("warn_thresh", 3)
    if warn_thresh <= 0:
        raise ProtocolError("heartbeat.warn_thresh must be positive")
    return period, timeout, warn_thresh


def check_heartbeat(config: Config) -> None:
    """Check ``[heartbeat]``."""
    heartbeat_settings(config)


# -- [kvs]


def check_kvs(config: Config) -> None:
    """Check ``[kvs]`` (flux-core's kvs_checkpoint.c)."""
    table = config.get("kvs")
    _unpack("error reading config for kvs: ", table, {"checkpoint-period": str}, strict=False)
    period = table.get("checkpoint-period") if isinstance(table, dict) else None
    if period is not None and not _is_duration(period):
        raise ProtocolError(f"invalid checkpoint-period config: {period}")


# -- [policy], [queues], [job-manager], [ingest]


def check_policy(config: Config) -> None:
    """Check ``[policy]`` and ``[queues]`` (RFC 33, "Policy Configuration"; flux-core's conf_policy.c)."""
    default_queue = _check_policy(config.get("policy"), "policy")
    queues = config.get("queues")
    if queues is not None:
        if not isinstance(queues, dict):
            raise ProtocolError("error parsing [queues] config table: not a table")
        for name, entry in queues.items():
            _check_queue(name, entry)
    if default_queue is not None and default_queue not in (queues or {}):
        raise ProtocolError(
            f"the [policy] config table defines a default queue {default_queue} that is not in [queues] table"
        )


def _check_queue(name: str, entry: object) -> None:
    prefix = f"error parsing [queues.{name}] config table: "
    if entry is None:
        raise ProtocolError(f"{prefix}Expected object, got null")
    _unpack(prefix, entry, {"policy": object, "requires": object})
    assert isinstance(entry, dict)
    if _check_policy(entry.get("policy"), f"queues.{name}.policy") is not None:
        raise ProtocolError(f"{prefix}'policy' must not define a default queue!")
    if "requires" in entry and not _is_strings(entry["requires"], _UNFIT_PROPERTY):
        raise ProtocolError(f"{prefix}'requires' must be an array of property strings (RFC 20)")


def _check_policy(policy: object, key: str) -> str | None:
    """Check a policy table; return the default queue that it defines."""
    kinds: dict[str, type] = {"jobspec": object, "limits": object, "access": object, "scheduler": object}
    _unpack(f"error parsing [{key}] config table: ", policy, kinds)
    if not isinstance(policy, dict):
        return None
    default_queue = _check_defaults(policy.get("jobspec"), f"error parsing [{key}.jobspec] config table: ")
    _check_limits(policy.get("limits"), f"{key}.limits")
    access, prefix = policy.get("access"), f"error parsing [{key}.access] config table: "
    _unpack(prefix, access, {"allow-user": object, "allow-group": object})
    for name in ("allow-user", "allow-group"):
        if isinstance(access, dict) and name in access and not _is_strings(access[name]):
            raise ProtocolError(f"{prefix}'{name}' must be a string array")
    return default_queue


def _check_defaults(jobspec: object, prefix: str) -> str | None:
    _unpack(prefix, jobspec, {"defaults": dict})
    defaults = jobspec.get("defaults") if isinstance(jobspec, dict) else None
    _unpack(prefix, defaults, {"system": dict})
    system = defaults.get("system") if isinstance(defaults, dict) else None
    _unpack(prefix, system, {"duration": object, "queue": object})
    if not isinstance(system, dict):
        return None
    if "duration" in system and not _is_duration(system["duration"]):
        raise ProtocolError(f"{prefix}'defaults.system.duration' is not a valid FSD")
    queue = system.get("queue")
    if "queue" in system and not isinstance(queue, str):
        raise ProtocolError(f"{prefix}'defaults.system.queue' is not a string")
    return queue


def _check_limits(limits: object, key: str) -> None:
    prefix = f"error parsing [{key}] config table: "
    _unpack(prefix, limits, {"job-size": object, "duration": object})
    if not isinstance(limits, dict):
        return
    if "duration" in limits and not _is_duration(limits["duration"]):
        raise ProtocolError(f"{prefix}'duration' is not a valid FSD")
    sizes = limits.get("job-size")
    _unpack(f"error parsing [{key}.job-size] config table: ", sizes, {"min": object, "max": object})
    for bound in ("min", "max"):
        size = sizes.get(bound) if isinstance(sizes, dict) else None
        prefix = f"error parsing [{key}.{bound}] config table: "
        _unpack(prefix, size, {"nnodes": int, "ncores": int, "ngpus": int})
        if isinstance(size, dict) and any(value < -1 for value in size.values()):
            raise ProtocolError(f"{prefix}values must be >= -1")


def check_job_manager(config: Config) -> None:
    """Check what flux-core's job-manager reads: policy, queues, ``[job-manager]``, ``[access]``."""
    check_policy(config)
    _unpack("", config.get("access"), {"private-mode": bool}, strict=False)
    table = config.get("job-manager")
    kinds: dict[str, type] = {"inactive-age-limit": str, "inactive-num-limit": int}
    _unpack("job-manager.max-inactive-*: ", table, kinds, strict=False)
    if not isinstance(table, dict):
        return
    if "inactive-age-limit" in table and not _is_duration(table["inactive-age-limit"]):
        raise ProtocolError("job-manager.inactive-age-limit: invalid FSD")
    if table.get("inactive-num-limit", -1) < -1:
        raise ProtocolError("job-manager.inactive-num-limit: must be >= 0")
    _unpack("", table, {"stop-queues-on-restart": bool}, strict=False)
    if "housekeeping" in table:
        _check_housekeeping(table["housekeeping"], config.get("exec"))


def _check_housekeeping(table: object, execution: object) -> None:
    kinds: dict[str, type] = {
        "command": object,
        "release-after": str,
        "use-systemd-unit": bool,
        "exit-on-first-error": bool,
    }
    _unpack("job-manager.housekeeping: ", table, kinds)
    if not isinstance(table, dict):
        return
    if "release-after" in table and not _is_duration(table["release-after"]):
        raise ProtocolError("job-manager.housekeeping.release-after FSD parse error")
    if "command" not in table:
        if not isinstance(execution, dict) or not isinstance(execution.get("imp"), str):
            raise ProtocolError("job-manager.housekeeping implies IMP but exec.imp is undefined")
    elif not table["command"] or not _is_strings(table["command"]):
        raise ProtocolError("error creating housekeeping command")


def check_plugins(config: Config) -> None:
    """Check ``[job-manager.plugins]``, which flux-core reads at start only. Plugins are C code, so none is loaded."""
    table = config.get("job-manager")
    plugins = table.get("plugins") if isinstance(table, dict) else None
    if plugins is None:
        return
    if not isinstance(plugins, list):
        raise ProtocolError("[job-manager.plugins] config must be an array")
    for index, entry in enumerate(plugins):
        prefix = f"[job-manager.plugins][{index}]: "
        _unpack(prefix, entry, {"load": str, "remove": str, "conf": object})
        if isinstance(entry, dict) and "load" in entry:
            raise ProtocolError(
                f"{prefix}load: {entry['load']}: an embedded broker cannot load plugins: install flux-core for that"
            )


def check_ingest(config: Config) -> None:
    """Check ``[ingest]`` (flux-core's job-ingest.c and pipeline.c)."""
    table = config.get("ingest")
    kinds: dict[str, type] = {"batch-count": int, "buffer-size": str}
    _unpack("error reading [ingest] config table: ", table, kinds, strict=False)
    if not isinstance(table, dict):
        return
    size = table.get("buffer-size")
    if size is not None and not 0 <= parse_size(size) < _INT:
        raise ProtocolError(f"Invalid buffer-size: '{size}'")
    for name in ("validator", "frobnicator"):
        worker = table.get(name)
        prefix = f"error parsing [ingest.{name}] config table: "
        _unpack(prefix, worker, {"args": object, "plugins": object, "disable": bool}, strict=False)
        if not isinstance(worker, dict):
            continue
        for key in ("plugins", "args"):
            if key in worker and not _is_strings(worker[key]):
                raise ProtocolError(f"error in [ingest.{name}] {key} array")
        _check_worker(name, worker)


_PLUGINS = {
    "validator": ("feasibility", "jobspec", "require-instance", "schema"),
    "frobnicator": ("constraints", "defaults"),
}
_ARGUMENTS = ("require-version", "require-instance-minnodes", "require-instance-mincores")


def _check_worker(name: str, worker: dict[str, Any]) -> None:
    """Refuse plugins and arguments that need flux-core's worker processes. There, jobs are refused instead."""
    known = _PLUGINS[name]
    for plugin in (plugin for text in worker.get("plugins", []) for plugin in text.split(",")):
        if plugin not in known:
            raise ProtocolError(
                f"[ingest.{name}]: plugin '{plugin}' needs flux-core; embedded brokers have {', '.join(known)}"
            )
    for text in worker.get("args", []):
        key, _, value = text.removeprefix("--").partition("=")
        is_number = value.isascii() and value.isdigit() and len(value) < 10
        if key not in _ARGUMENTS or not (is_number or (key, value) == ("require-version", "any")):
            raise ProtocolError(f"[ingest.{name}]: argument '{text}' is not one of an embedded broker's plugins")
        if key == "require-version" and is_number and int(value) != 1:
            how = "low" if int(value) < 1 else "high"
            raise ProtocolError(f"[ingest.{name}]: Required jobspec version too {how}: {value} is not 1")
    sizes = worker.get("require-instance")
    if name == "validator" and sizes is not None:
        kinds: dict[str, type] = {"minnodes": int, "mincores": int}
        _unpack("error parsing [ingest.validator.require-instance] config table: ", sizes, kinds)


def parse_size(text: str) -> int:
    """Read a size with an optional suffix from k to E (flux-core's parse_size.c); -1 if it is none."""
    number = text.rstrip("kKMGTPE")
    unit = text[len(number) :]
    try:
        value = float(number) if number.isascii() and "_" not in number else -1.0
    except ValueError:
        return -1
    if unit not in _UNITS or not 0 <= value < float("inf"):
        return -1
    return int(value * (1 << _UNITS[unit]))


# -- [exec]


def check_exec(config: Config) -> None:
    """Check ``[exec]`` (flux-core's job-exec.c and exec_config.c; flux-config-exec(5))."""
    table = config.get("exec")
    kinds: dict[str, type] = {
        "max-start-delay-percent": float,
        "kill-timeout": str,
        "term-signal": str,
        "kill-signal": str,
        "max-kill-count": int,
        "max-kill-timeout": str,
    }
    _unpack("Error reading [exec] table: ", table, kinds, strict=False)
    if not isinstance(table, dict):
        return
    if table.get("max-kill-count", 1) <= 0:
        raise ProtocolError(f"invalid max-kill-count={table['max-kill-count']}")
    for name in ("kill-timeout", "kill-signal", "term-signal", "max-kill-timeout"):
        value = table.get(name)
        if value is not None and not (_is_signal(value) if name.endswith("signal") else _is_positive(value)):
            raise ProtocolError(f"invalid {name}: {value}")
    _unpack("error reading config value exec.method: ", table, {"method": str}, strict=False)
    if table.get("method", "bulk-exec") != "bulk-exec":
        raise ProtocolError(f"unknown exec.method '{table['method']}'")
    _check_shells(table)


def _check_shells(table: dict[str, Any]) -> None:
    for name in ("job-shell", "imp", "service"):
        _unpack(f"error reading config value exec.{name}: ", table, {name: str}, strict=False)
    properties = table.get("sdexec-properties", {})
    if not isinstance(properties, dict):
        raise ProtocolError("exec.sdexec-properties is not a table")
    for name, value in properties.items():
        if not isinstance(value, str):
            raise ProtocolError(f"exec.sdexec-properties.{name} is not a string")
    constrain = "sdexec-constrain-resources"
    _unpack(f"error reading config value exec.{constrain}: ", table, {constrain: bool}, strict=False)
    barrier, last = "barrier-timeout", "shell-exit-timeout"
    _unpack(f"error reading config value exec.{barrier}: ", table, {barrier: str}, strict=False)
    if barrier in table and not _is_duration(table[barrier]):
        raise ProtocolError(f"invalid duration '{table[barrier]}' specified for exec.{barrier}")
    _unpack(f"error reading config value exec.{last}: ", table, {last: str}, strict=False)
    if last in table and table[last] != "none" and not _is_duration(table[last]):
        raise ProtocolError(f"invalid {last}: {table[last]}")
    _unpack("", table.get("testexec"), {"allow-guests": bool}, strict=False)


def _is_positive(value: str) -> bool:
    return _is_duration(value) and parse_duration(value) > 0


def _is_signal(name: str) -> bool:
    import signal

    if name.isascii() and name.isdigit():
        return int(name) > 0
    return name in signal.Signals.__members__ or f"SIG{name}" in signal.Signals.__members__


# -- [resource.verify], [job-list]


def check_verify(verify: object) -> None:
    """Check ``resource.verify`` (flux-core's librlist/verify_config.c)."""
    if isinstance(verify, bool):
        return
    if not isinstance(verify, dict):
        raise ProtocolError("verify must be a table or boolean")
    for name, mode in verify.items():
        if not isinstance(mode, str):
            raise ProtocolError(f"verify.{name} mode must be a string")
        if mode not in _VERIFY_MODES:
            raise ProtocolError(f"verify.{name}: unknown verify mode '{mode}'")
        if name not in ("default", "hostname", "core", "gpu"):
            raise ProtocolError(f"verify: unsupported resource type: {name}")


def check_job_list(config: Config) -> None:
    """Check ``[job-list]`` (flux-core's job-list/match.c)."""
    table = config.get("job-list")
    _unpack("error reading config for job-list: ", table, {"max_comparisons": int}, strict=False)
    if isinstance(table, dict) and table.get("max_comparisons", 0) < 0:
        raise ProtocolError("job-list.max_comparisons must be >= 0")


QUEUE_POLICIES = ("easy", "conservative", "fcfs")
"""The policies of the scheduler. The first one is the default."""


def check_scheduler(config: Config) -> None:
    """Check ``[sched-simple]``, which is ours: flux-core's has arguments only."""
    table = config.get("sched-simple")
    _unpack("error reading config for sched-simple: ", table, {"queue-policy": str, "queue-depth": int})
    if not isinstance(table, dict):
        return
    policy = table.get("queue-policy", QUEUE_POLICIES[0])
    if policy not in QUEUE_POLICIES:
        raise ProtocolError(f"sched-simple.queue-policy={policy!r}: one of {', '.join(QUEUE_POLICIES)} is expected")
    if table.get("queue-depth", 1) < 1:
        raise ProtocolError("sched-simple.queue-depth must be >= 1")


CHECKS: dict[str, Callable[[Config], None]] = {
    "connector-local": check_access,
    "heartbeat": check_heartbeat,
    "kvs": check_kvs,
    "job-manager": check_job_manager,
    "job-ingest": check_ingest,
    "job-exec": check_exec,
    "job-list": check_job_list,
    "sched-simple": check_scheduler,
}
"""A check for each module of flux-core that reads configuration. Each raises ProtocolError with the reason."""

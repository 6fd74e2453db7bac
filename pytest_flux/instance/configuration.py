"""Check the tables of a broker's configuration (flux-config(5)) before a broker gets them.

A broker ignores a table that it does not know, so ``conf={"queue": {...}}`` starts an instance without queues, and
the test fails far from the cause. But modules of sites have tables of any name, so an unknown name cannot be refused
in general. We refuse one that is nearly a known one, and a known one of another type.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

Type = tuple[type, ...]

_TABLE: Type = (Mapping,)
_TEXT: Type = (str,)
_TRUTH: Type = (bool,)
_NUMBER: Type = (int,)
_ARRAY: Type = (list, tuple)
_DURATION: Type = (str, int, float)
_ANY: Type = (object,)
_WORDS = {_TABLE: "a table", _TEXT: "text", _TRUTH: "true or false", _NUMBER: "an integer", _ARRAY: "a list"}
_WORDS[_DURATION] = "a duration"

_TABLES: dict[str, dict[str, Type]] = {
    "access": {
        "allow-guest-user": _TRUTH,
        "allow-root-owner": _TRUTH,
        "private-mode": _ANY,
        "roles": _TABLE,
    },
    "bootstrap": {
        "curve_cert": _TEXT,
        "default_bind": _TEXT,
        "default_connect": _TEXT,
        "default_port": _NUMBER,
        "enable_ipv6": _TRUTH,
        "hosts": _ARRAY,
    },
    "exec": {
        "barrier-timeout": _DURATION,
        "imp": _TEXT,
        "job-shell": _TEXT,
        "kill-signal": _ANY,
        "kill-timeout": _DURATION,
        "max-kill-count": _NUMBER,
        "max-kill-timeout": _DURATION,
        "max-start-delay-percent": _ANY,
        "method": _TEXT,
        "sdexec-constrain-resources": _ANY,
        "sdexec-properties": _TABLE,
        "sdexec-stop-timer-sec": _ANY,
        "sdexec-stop-timer-signal": _ANY,
        "service": _TEXT,
        "service-override": _ANY,
        "shell-exit-timeout": _DURATION,
        "term-signal": _ANY,
        "testexec": _TABLE,
    },
    "heartbeat": {"period": _DURATION, "timeout": _DURATION, "warn_thresh": _NUMBER},
    "ingest": {
        "batch-count": _NUMBER,
        "buffer-size": _ANY,
        "frobnicator": _TABLE,
        "validator": _TABLE,
    },
    "job-manager": {
        "epilog": _TABLE,
        "housekeeping": _TABLE,
        "inactive-age-limit": _DURATION,
        "inactive-num-limit": _NUMBER,
        "perilog": _TABLE,
        "plugins": _ARRAY,
        "prolog": _TABLE,
        "stop-queues-on-restart": _TRUTH,
    },
    "kvs": {"checkpoint-period": _DURATION, "gc-threshold": _NUMBER},
    "policy": {"access": _TABLE, "jobspec": _TABLE, "limits": _TABLE, "scheduler": _TABLE},
    "queues": {},
    "resource": {
        "config": _ARRAY,
        "exclude": _TEXT,
        "history": _ANY,
        "journal-max": _NUMBER,
        "norestrict": _TRUTH,
        "noverify": _TRUTH,
        "path": _TEXT,
        "rediscover": _TRUTH,
        "scheduling": _TEXT,
        "verify": _ANY,
    },
    "sched-fluxion-qmanager": {},
    "sched-fluxion-resource": {},
    "sched-simple": {"queue-depth": _NUMBER, "queue-policy": _TEXT},
    "systemd": {"enable": _TRUTH, "sdbus-debug": _TRUTH, "sdexec-debug": _TRUTH},
    "tbon": {
        "child_rcvhwm": _NUMBER,
        "connect_timeout": _DURATION,
        "interface-hint": _TEXT,
        "tcp_user_timeout": _DURATION,
        "topo": _TEXT,
        "torpid_max": _DURATION,
        "torpid_min": _DURATION,
        "zmq_io_threads": _NUMBER,
        "zmqdebug": _ANY,
    },
}
_QUEUE: dict[str, Type] = {"parent": _TEXT, "policy": _TABLE, "requires": _ARRAY}
# How near a name must be to a known one to be a mistake.
_NEAR = 0.75


def find_mistake(conf: Mapping[str, Any]) -> str:
    """Describe the first mistake in a configuration; '' if there is none."""
    for name, table in conf.items():
        if name not in _TABLES:
            near = difflib.get_close_matches(str(name), _TABLES, n=1, cutoff=_NEAR)
            if near:
                return f"conf: unknown table {name!r}: did you mean {near[0]!r}?"
            continue
        if not isinstance(table, Mapping):
            return f"conf: {name}={table!r}: a table is expected"
        if name == "queues":
            mistakes = (
                _in_table(f"queues.{queue}", values, _QUEUE)
                if isinstance(values, Mapping)
                else f"conf: queues.{queue}={values!r}: a table is expected"
                for queue, values in table.items()
            )
            mistake = next(filter(None, mistakes), "")
        else:
            mistake = _in_table(name, table, _TABLES[name])
        if mistake:
            return mistake
    return ""


def _in_table(name: str, table: Mapping[str, Any], known: Mapping[str, Type]) -> str:
    for key, value in table.items():
        if key in known:
            types = known[key]
            # A bool is an int to Python.
            is_wrong = isinstance(value, bool) and not {bool, object} & {*types}
            if is_wrong or not isinstance(value, types):
                return f"conf: {name}.{key}={value!r}: {_WORDS[types]} is expected"
        elif near := difflib.get_close_matches(str(key), known, n=1, cutoff=_NEAR):
            return f"conf: unknown key {name}.{key}: did you mean {near[0]!r}?"
    return ""

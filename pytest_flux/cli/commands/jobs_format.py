"""The fields of `flux jobs -o`, and its formats by name."""

from __future__ import annotations

from string import Formatter

_START = "{id.f58:>12} ?:{queue:<8.8} +:{username:<8} {name:<10.10+} "
_COUNTS = "{ntasks:>6} {nnodes:>6h} "
_END = "{contextual_time!F:>8h} {contextual_info}"
FORMATS = {
    "default": ("Default flux-jobs format string", f"{_START}{{status_abbrev:>2.2}} {_COUNTS}{_END}"),
    "cute": (
        "Cute flux-jobs format string (default with emojis)",
        f"{_START}{{status_emoji:>5.5}} {_COUNTS}{_END}",
    ),
    "long": (
        "Extended flux-jobs format string",
        f"{_START}{{status:>9.9}} {_COUNTS}{{t_submit!d:%b%d %R::>12}} {{t_remaining!F:>12h}} {_END}",
    ),
    "deps": (
        "Show job urgency, priority, and dependencies",
        "{id.f58:>12} ?:{queue:<8.8} {name:<10.10+} {urgency:<3} {priority:<12} {state:<8.8} {dependencies}",
    ),
    "endreason": (
        "Show why each job ended",
        f"{_START}{{status_abbrev:>2.2}} {{t_inactive!d:%b%d %R::>12h}} {{inactive_reason}}",
    ),
}

HEADINGS = {f"id{form}": "JOBID" for form in ("", *".dec .hex .f58 .f58plain .kvs .dothex".split())}
HEADINGS |= {
    name: name.upper().replace("_", "-") if name == "inactive_reason" else name.upper()
    for name in (
        "state name cwd queue project bank ntasks ncores duration nnodes expiration t_remaining ranks nodelist "
        "success result t_submit t_depend t_priority t_sched t_run t_cleanup t_inactive runtime status annotations "
        "dependencies inactive_reason sched user"
    ).split()
}
HEADINGS |= {f"exception.{name}": f"EXCEPTION-{name.upper()}" for name in ("occurred", "severity", "type", "note")}
HEADINGS |= {
    "userid": "UID",
    "username": "USER",
    "urgency": "URG",
    "priority": "PRI",
    "state_single": "S",
    "state_emoji": "STATE",
    "result_abbrev": "RS",
    "result_emoji": "RESULT",
    "status_abbrev": "ST",
    "status_emoji": "STATUS",
    "waitstatus": "WSTATUS",
    "returncode": "RC",
    "contextual_info": "INFO",
    "contextual_time": "TIME",
    "uri": "URI",
    "uri.local": "URI",
    "instance.stats.total": "NJOBS",
    "instance.utilization": "CORE%",
    "instance.gpu_utilization": "GPU%",
    "instance.progress": "PROG",
}
# Those annotations that RFC 27 knows.
for _prefix in ("annotations.sched", "sched"):
    HEADINGS |= {
        f"{_prefix}.t_estimate": "T_ESTIMATE",
        f"{_prefix}.reason_pending": "REASON",
        f"{_prefix}.resource_summary": "RESOURCES",
    }
for _state, _heading in (("up", "UP"), ("down", "DOWN"), ("allocated", "USED"), ("free", "FREE")):
    HEADINGS |= {f"instance.resources.{_state}.{count}": _heading for count in ("ncores", "ngpus", "nnodes")}
HEADINGS |= {f"instance.resources.all.n{kind}": kind.upper() for kind in ("cores", "gpus", "nodes")}


def headings_for(form: str) -> dict[str, str]:
    """All headings, with those of the annotations that a format names, which may be anything."""
    headings = dict(HEADINGS)
    for _, name, _, _ in Formatter().parse(form):
        if not name or name in headings:
            continue
        first, _, rest = name.partition(".")
        if first == "annotations":
            headings[name] = rest.upper()
        elif first in ("sched", "user"):
            headings[name] = name.upper()
        elif first == "instance":
            headings[name] = rest.upper().removeprefix("RESOURCES.")
    return headings

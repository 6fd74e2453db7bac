"""Severities of log messages (RFC 5424 section 6.2.1), under the names that Flux gives them.

This is separate from ``stdlog`` because everyone who logs needs the numbers, and few need the format of a line.
"""

from __future__ import annotations

LOG_EMERG = 0
LOG_ALERT = 1
LOG_CRIT = 2
LOG_ERR = 3
LOG_WARNING = 4
LOG_NOTICE = 5
LOG_INFO = 6
LOG_DEBUG = 7

SEVERITY_NAMES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
"""The name of each severity, by its number."""


def severity_name(severity: int) -> str:
    """``info`` for 6; ``-`` for a number that is not a severity, as in flux-core."""
    return SEVERITY_NAMES[severity] if 0 <= severity < len(SEVERITY_NAMES) else "-"

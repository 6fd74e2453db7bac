"""Severities of log messages (RFC 5424), as Flux calls them."""

from __future__ import annotations

LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
"""The index is the number: the lower, the worse."""

WARNING, INFO, DEBUG = 4, 6, 7

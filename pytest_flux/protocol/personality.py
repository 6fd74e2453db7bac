"""Personalities of an instance: the sets of services that Flux's own tests (``test_under_flux``) choose from."""

from __future__ import annotations

PERSONALITIES = ("full", "job", "minimal", "kvs", "system")

"""Orders from front to supervisor."""

from __future__ import annotations

import signal

import pytest

from pytest_flux.launcher.orders import STOP_SIGNALS, Debounce, decode_orders, encode_order


def test_orders_arrive_as_they_were_given() -> None:
    orders = [(signum, delivered) for signum in STOP_SIGNALS for delivered in (False, True)]
    assert decode_orders(b"".join(encode_order(*order) for order in orders)) == orders


def test_copy_is_told_from_a_second_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    debounce = Debounce()
    assert debounce.is_new(signal.SIGTERM)
    now = 0.05
    assert not debounce.is_new(signal.SIGTERM)
    assert debounce.is_new(signal.SIGINT)
    now = 0.16
    assert debounce.is_new(signal.SIGTERM)

"""J, signed by nobody."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.signed_jobspec import sign_none, unwrap_none


def test_header_of_root() -> None:
    """As flux-core 0.88 makes it."""
    assert sign_none(b"{}", 0) == "dmVyc2lvbgBpMQB1c2VyaWQAaTAAbWVjaGFuaXNtAHNub25lAA==.e30=.none"


@given(st.binary(max_size=200), st.integers(0, 2**32 - 1))
def test_round_trip(jobspec: bytes, userid: int) -> None:
    """Jobspec and user come back."""
    assert unwrap_none(sign_none(jobspec, userid)) == (jobspec, userid)


def _with_header(header: bytes) -> str:
    return f"{base64.b64encode(header).decode()}.e30=.none"


@pytest.mark.parametrize(
    "signed",
    [
        "", ".", "..", "...", "e30=.e30=.none", "e30=.none", "a.b.c.d",
        sign_none(b"{}", 1).replace("none", "munge"),
        sign_none(b"{}", 1).replace("e30=", "e30"),
        sign_none(b"{}", 1).replace("e30=", "e3!="),
        sign_none(b"{}", 1).replace("e30=", "====") ,
        sign_none(b"{}", 1) + "\n",
        _with_header(b"version\0i2\0userid\0i1\0mechanism\0snone\0"),
        _with_header(b"version\0i1\0userid\0i-1\0mechanism\0snone\0"),
        _with_header(b"version\0i1\0userid\0i4294967296\0mechanism\0snone\0"),
        _with_header(b"version\0i1\0userid\0s1\0mechanism\0snone\0"),
        _with_header(b"version\0i1\0userid\0i1\0mechanism\0smunge\0"),
        _with_header(b"version\0i1\0userid\0i1\0mechanism\0"),
        _with_header(b"version\0i1\0userid\0i1\0mechanism\0snone\0extra\0i1\0"),
        _with_header(b"version\0i1\0mechanism\0snone\0"),
    ],
)  # fmt: skip
def test_what_is_refused(signed: str) -> None:
    """Whatever flux-core refuses."""
    with pytest.raises(ProtocolError):
        unwrap_none(signed)


@given(st.text(max_size=80))
def test_garbage(signed: str) -> None:
    """Nothing else comes out of it."""
    with pytest.raises(ProtocolError):
        unwrap_none(signed)

"""Capabilities: good for what they say, for as long as they say, by a key that holds; else for nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs.capabilities import (
    CAPABILITY_BYTES,
    CLOCK_SKEW_SECONDS,
    READ,
    WRITE,
    Capability,
    KeyRing,
    derived_key,
    from_text,
    to_text,
)
from gfs.errors import CapabilityExpired, GfsError, PermissionDenied, Unauthenticated

OLD, NEW, OTHER = (derived_key(b"secret", bytes([n]) * 16) for n in range(3))
RING = KeyRing((NEW, OLD), NEW)
NOW = 1_000_000.0
GOOD = Capability(handle=7, version=3, operations=READ, expires_s=int(NOW) + 600, subject=b"abcdef")


def require(
    shown: bytes, wanted: int = READ, *, handle: int = 7, version: int = 3, now_s: float = NOW
) -> bytes:
    return RING.require(shown, wanted, handle=handle, version=version, now_s=now_s)


def test_a_capability_opens_what_it_says_and_tells_whose_it_is() -> None:
    shown = RING.sign(GOOD)
    assert len(shown) == CAPABILITY_BYTES <= 50
    assert require(shown) == b"abcdef"
    assert require(KeyRing((OLD,), OLD).sign(GOOD)) == b"abcdef"  # by the key before
    assert require(shown, handle=0, version=0) == b"abcdef"


def test_everything_else_is_refused_and_what_can_be_had_anew_is_told_apart() -> None:
    shown = RING.sign(GOOD)
    refusals: list[tuple[type[GfsError], bytes, dict[str, object]]] = [
        (Unauthenticated, b"", {}),
        (PermissionDenied, b"?", {}),
        (PermissionDenied, shown + b"x", {}),
        (PermissionDenied, shown, {"wanted": WRITE}),
        (PermissionDenied, shown, {"handle": 8}),
        (PermissionDenied, shown, {"version": 4}),
        (PermissionDenied, RING.sign(GOOD._replace(version=2)), {}),
        (CapabilityExpired, shown, {"now_s": GOOD.expires_s + CLOCK_SKEW_SECONDS + 1.0}),
        (CapabilityExpired, KeyRing((OTHER,), OTHER).sign(GOOD), {}),  # replayed after two rotations
    ]
    for kind, tried, how in refusals:
        with pytest.raises(kind) as refused:
            require(tried, **how)  # type: ignore[arg-type]
        assert type(refused.value) is kind
        assert to_text(tried) not in str(refused.value) or not tried


@given(st.integers(0, 8 * CAPABILITY_BYTES - 1))
def test_no_bit_of_it_can_be_changed(bit: int) -> None:
    forged = bytearray(RING.sign(GOOD))
    forged[bit // 8] ^= 1 << bit % 8
    with pytest.raises((PermissionDenied, CapabilityExpired)):
        require(bytes(forged))


@given(st.binary(max_size=2 * CAPABILITY_BYTES))
def test_no_bytes_of_a_stranger_open_anything(shown: bytes) -> None:
    with pytest.raises(GfsError):
        require(shown)


@given(st.text(max_size=100))
def test_any_header_field_is_read_as_something_that_can_be_refused(text: str) -> None:
    assert isinstance(from_text(text), bytes)


def test_a_capability_travels_in_a_header_as_it_is() -> None:
    shown = RING.sign(GOOD)
    assert from_text(to_text(shown)) == shown and len(to_text(shown)) < 80

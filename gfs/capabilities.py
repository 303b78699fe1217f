"""Chunk capabilities: what a master lets a client do with a chunk, so that chunk servers need not ask.

A capability is a few bytes signed by a key that masters and chunk servers share: whoever has it may do what
it says until it expires. Keys follow each other; the newest signs, the one before is still believed. Who
hands keys out, and what needs a capability, is elsewhere. No clock here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from typing import NamedTuple

from gfs.errors import CapabilityExpired, PermissionDenied, Unauthenticated, Unavailable

READ, WRITE, VERIFY = 1, 2, 4  # VERIFY: have a replica checked, and learn its length, but none of its bytes
KEY_BYTES = 32
_KEY_ID_BYTES, _TAG_BYTES, _SUBJECT_BYTES = 4, 16, 6
# key id, expires (unix seconds), operations, handle, version, subject; big-endian; then the tag
_BODY = struct.Struct(f">{_KEY_ID_BYTES}sIBQQ{_SUBJECT_BYTES}s")
CAPABILITY_BYTES = _BODY.size + _TAG_BYTES
CLOCK_SKEW_SECONDS = 30  # by which the clocks of a master and a chunk server may differ
_ASK_AGAIN = "The client asks a master again by itself."


class Capability(NamedTuple):
    """`subject`: the id of the token that it was made for, in bytes; empty of a program."""

    handle: int
    version: int
    operations: int
    expires_s: int
    subject: bytes = b""


def derived_key(secret: bytes, salt: bytes) -> bytes:
    """The key that belongs to a salt, for those who know the cluster's secret."""
    return hmac.new(secret, b"gfs capability key\n" + salt, hashlib.sha256).digest()


class KeyRing:
    """The keys that hold. `signer`: the one to sign by, which is one of them."""

    def __init__(self, keys: tuple[bytes, ...], signer: bytes) -> None:
        assert signer in keys and all(len(key) == KEY_BYTES for key in keys)
        self.keys = keys
        self._signer = signer
        self._signer_id = _id_of(signer)
        self._by_id = {_id_of(key): key for key in keys}

    def sign(self, capability: Capability) -> bytes:
        handle, version, operations, expires_s, subject = capability
        body = _BODY.pack(self._signer_id, expires_s, operations, handle, version, subject)
        return body + _tag(self._signer, body)

    def require(self, shown: bytes, wanted: int, *, handle: int, version: int, now_s: float) -> bytes:
        """Check what a caller shows for doing `wanted` with a chunk; handle or version 0: with any.

        Returns: the subject.
        Raises: CapabilityExpired when a master has to be asked again; Unauthenticated without one;
            PermissionDenied for one that is forged, or of another chunk, version or operation.
        """
        if not shown:
            raise Unauthenticated(
                "this chunk server wants a master's capability for the chunk, and none was shown",
                hint="Clients of this release or a later one have it from the masters.",
            )
        if len(shown) != CAPABILITY_BYTES:
            raise PermissionDenied("what was shown is no capability")
        body, tag = shown[: _BODY.size], shown[_BODY.size :]
        key_id, expires_s, operations, its_handle, its_version, subject = _BODY.unpack(body)
        key = self._by_id.get(key_id)
        if key is None:
            raise CapabilityExpired("the capability was signed by a key that does not hold", hint=_ASK_AGAIN)
        if not hmac.compare_digest(tag, _tag(key, body)):
            raise PermissionDenied("the capability is forged: its signature is not a master's")
        if now_s > expires_s + CLOCK_SKEW_SECONDS:
            raise CapabilityExpired("the capability has expired", hint=_ASK_AGAIN)
        if operations & wanted != wanted:
            raise PermissionDenied(
                "the capability is not for this: it may be for reading only, or for verifying"
            )
        if handle and its_handle != handle:
            raise PermissionDenied(f"the capability is for another chunk than {handle:x}")
        if version and its_version != version:
            raise PermissionDenied(f"the capability is for version {its_version}, not for {version}")
        return bytes(subject)


def no_keys() -> Unavailable:
    return Unavailable("this chunk server has not heard yet by which keys masters sign capabilities")


def to_text(shown: bytes) -> str:
    """As a header field has it."""
    return base64.urlsafe_b64encode(shown).decode("ascii")


def from_text(text: str) -> bytes:
    """What cannot be read is as good as forged: it comes back as something that is no capability."""
    try:
        return base64.b64decode(text, altchars=b"-_", validate=True) if text else b""
    except (binascii.Error, ValueError):
        return b"?"


def _id_of(key: bytes) -> bytes:
    return hashlib.sha256(b"gfs key id\n" + key).digest()[:_KEY_ID_BYTES]


def _tag(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, body, "sha256")[:_TAG_BYTES]

"""Bodies of S3 uploads: `aws-chunked` framing taken off, chunk signatures and checksums compared. No sockets.

Source: "Signature Calculations: Transferring a payload in multiple chunks", Amazon S3 API Reference. A body
is fed as it comes and gives back content; finish() raises when it was not whole or not what was signed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import zlib
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from gfs.checksums import crc32c
from gfs.integrations.gateways.s3_signature import STREAMED, UNSIGNED, S3Refused, Signature

HEADER_BYTES_MAX = 1024  # of one chunk's line, and of all trailing headers
SIGNED_CHUNK_BYTES_MAX = 16 * 2**20  # kept whole until its signature is known


class _Sum(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


class _Crc32c:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = crc32c(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


_ALGORITHMS: dict[str, Callable[[], _Sum]] = {
    "x-amz-checksum-crc32": _Crc32,
    "x-amz-checksum-crc32c": _Crc32c,
    "x-amz-checksum-sha1": hashlib.sha1,
    "x-amz-checksum-sha256": hashlib.sha256,
}


class Sums:
    """All sums that a client told beforehand or will tell behind the content."""

    def __init__(self, headers: Mapping[str, str], payload: str) -> None:
        self._expected: dict[str, str] = {}  # name to base64
        self._running: dict[str, _Sum] = {}
        for name, make in _ALGORITHMS.items():
            if name in headers:
                self._expected[name] = headers[name].strip()
            if name in headers or name in headers.get("x-amz-trailer", "").lower().split(","):
                self._running[name] = make()
        if "content-md5" in headers:
            self._expected["content-md5"] = headers["content-md5"].strip()
            self._running["content-md5"] = hashlib.md5(usedforsecurity=False)
        self._sha256 = None if payload == UNSIGNED or payload.startswith(STREAMED) else hashlib.sha256()
        self._payload = payload

    def update(self, data: bytes) -> None:
        for running in self._running.values():
            running.update(data)
        if self._sha256 is not None:
            self._sha256.update(data)

    def told(self, name: str, value: str) -> None:
        """A trailing header."""
        if name in self._running:
            self._expected[name] = value

    def check(self) -> None:
        """Raises: S3Refused when a sum is not that of the content."""
        if self._sha256 is not None and self._sha256.hexdigest() != self._payload.lower():
            raise S3Refused("XAmzContentSHA256Mismatch", "The content is not what x-amz-content-sha256 says.")
        for name, expected in self._expected.items():
            found = base64.b64encode(self._running[name].digest()).decode()
            if not hmac.compare_digest(found, expected):
                raise S3Refused("BadDigest", f"The content's {name} is {found}, not {expected}.")


class Body(Protocol):
    def feed(self, data: bytes, /) -> list[bytes]:
        """Pieces of content, as far as they are known by now. Raises: S3Refused."""
        ...

    def finish(self) -> None:
        """The body has ended. Raises: S3Refused when it was not whole, or not what it should be."""
        ...


class PlainBody:
    """Content as it is."""

    def __init__(self, sums: Sums) -> None:
        self._sums = sums

    def feed(self, data: bytes) -> list[bytes]:
        self._sums.update(data)
        return [data] if data else []

    def finish(self) -> None:
        self._sums.check()


class ChunkedBody:
    """Content in chunks: `size[;chunk-signature=…]`, bytes, an empty one at the end, trailing headers."""

    def __init__(self, sums: Sums, signature: Signature) -> None:
        self._sums, self._signature = sums, signature
        self._signed = "UNSIGNED" not in signature.payload
        self._trailer = signature.payload.endswith("-TRAILER")
        self._previous = signature.seed
        self._held = bytearray()
        self._at: Literal["line", "bytes", "line end", "trailer"] = "line"
        self._left = 0  # bytes of the chunk under way
        self._claimed = ""

    def feed(self, data: bytes) -> list[bytes]:
        self._held += data
        found: list[bytes] = []
        while self._step(found):
            pass
        if self._at == "trailer" and len(self._held) > HEADER_BYTES_MAX:
            raise S3Refused("InvalidRequest", "There is too much behind the last chunk.")
        return found

    def _step(self, found: list[bytes]) -> bool:
        """Take the next part of the framing; False when more bytes have to come first."""
        if self._at == "line":
            return self._read_line()
        if self._at == "bytes":
            if not self._held or (self._signed and len(self._held) < self._left):
                return False  # a signed chunk is given out whole, once its signature is known to be good
            piece = self._take(min(self._left, len(self._held)))
            self._check_signature(piece)
            self._sums.update(piece)
            found.append(piece)
            self._left -= len(piece)
            if self._left == 0:
                self._at = "line end"
            return True
        if self._at == "line end":
            if len(self._held) < 2:
                return False
            if self._take(2) != b"\r\n":
                raise S3Refused("InvalidRequest", "A chunk is longer than it says.")
            self._at = "line"
            return True
        return False

    def _read_line(self) -> bool:
        end = self._held.find(b"\r\n")
        if end < 0:
            if len(self._held) > HEADER_BYTES_MAX:
                raise S3Refused("InvalidRequest", "A chunk's line is too long.")
            return False
        line = self._take(end + 2)[:-2].decode("latin-1")
        size, _, extension = line.partition(";")
        try:
            self._left = int(size, 16)
        except ValueError as error:
            raise S3Refused("InvalidRequest", "A chunk has no size.") from error
        if self._left < 0 or (self._signed and self._left > SIGNED_CHUNK_BYTES_MAX):
            raise S3Refused("InvalidRequest", f"A chunk has at most {SIGNED_CHUNK_BYTES_MAX} bytes.")
        self._claimed = extension.strip().removeprefix("chunk-signature=")
        self._at = "bytes"
        if self._left == 0:
            self._check_signature(b"")
            self._at = "trailer"
        return True

    def _take(self, count: int) -> bytes:
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken

    def _check_signature(self, piece: bytes) -> None:
        if not self._signed:
            return
        expected = self._signature.chunk(self._previous, piece)
        if not hmac.compare_digest(expected, self._claimed):
            raise S3Refused("SignatureDoesNotMatch", "A chunk's signature is not that of its bytes.")
        self._previous = expected

    def finish(self) -> None:
        """Raises: S3Refused when the end is missing, or a signature or sum is wrong."""
        if self._at != "trailer":
            raise S3Refused("IncompleteBody", "The content ends in the middle of a chunk.")
        trailer = b""
        signature = ""
        for line in bytes(self._held).replace(b"\r\n", b"\n").split(b"\n"):
            name, colon, value = line.decode("latin-1").partition(":")
            name = name.strip().lower()
            if not colon:
                continue
            if name == "x-amz-trailer-signature":
                signature = value.strip()
                continue
            self._sums.told(name, value.strip())
            trailer += f"{name}:{value.strip()}\n".encode("latin-1")
        if self._signed and self._trailer:
            expected = self._signature.trailer(self._previous, trailer)
            if not hmac.compare_digest(expected, signature):
                raise S3Refused("SignatureDoesNotMatch", "The trailing headers' signature is wrong.")
        self._sums.check()

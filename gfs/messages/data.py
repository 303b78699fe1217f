"""The bulk wire: a strict HTTP/1.1 subset that carries chunk bytes and nothing else.

PUT /v1/data/<push-id>                 body = the pushed bytes, forwarded down the chain
    Content-Length: N                  1..PUSH_BYTES_MAX
    Gfs-Chain: host:port,host:port     the replicas still to reach, nearest first (may be empty)
    Gfs-Offset: N                      where in the chunk the bytes will go: aligns the checksums
    Gfs-Checksums: hex                 CRC32C of each block the bytes touch, 8 hex digits each (optional)
    Gfs-Trace: id                      the request id this belongs to, in the logs of all hops (optional)
  200, body = PushAnswer as JSON
GET /v1/chunks/<handle>                body = verified bytes
    Gfs-Version: N                     the version the reader was given (I5)
    Gfs-Verify: reader                 the reader checks the bytes itself, if it is given the sums (optional)
    Range: bytes=first-last            a last byte past the end is cut back to the end
    Gfs-Trace: id                      as above
  206; Gfs-Length: committed length of the chunk; Content-Range as in RFC 9110
       Gfs-Checksums: as above         only to a reader that asked so: the body is NOT verified yet
  416 when first is at or past the committed length (Gfs-Length tells it)
Any refusal: 4xx/5xx with a JSON body ErrorReply (gfs.messages.base) and the connection closed
when the request's body was not read.
"""

from __future__ import annotations

import msgspec

PUSH_PATH = "/v1/data/"
CHUNK_PATH = "/v1/chunks/"


class PushAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a push reached. `checksums`: CRC32C per touched block, as this hop computed them.

    `failed`: data addresses of the hops that do not hold the bytes (unreachable, or other checksums),
    with what went wrong; the bytes may still be usable on the others.
    """

    received_bytes: int
    checksums: list[int]
    failed: dict[str, str] = {}

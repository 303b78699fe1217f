"""Until when a certificate holds, read from its DER form. Verifies none (see tls), makes none (certificates).

The standard library tells this only of a peer's certificate, and programs do without cryptography's library.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def earliest_end(pem: str) -> float:
    """Unix seconds at which the first of the certificates in `pem` ends. Raises: ValueError without one."""
    ends = [
        not_after(ssl.PEM_cert_to_DER_cert(f"{_BEGIN}{part.partition(_END)[0]}{_END}\n"))
        for part in pem.split(_BEGIN)[1:]
    ]
    return min(ends)


def not_after(der: bytes) -> float:
    """Unix seconds of one certificate's notAfter. Raises: ValueError for what is no certificate.

    Source: RFC 5280 §4.1: version, serial number, algorithm and issuer stand before the validity.
    """
    _, certificate, _ = _element(der, 0, _SEQUENCE)
    _, at, _ = _element(der, certificate, _SEQUENCE)
    tag, _, after = _element(der, at)
    fields_before = 3 if tag == _VERSION else 2  # a certificate of version 1 has none
    for _ in range(fields_before):
        _, _, after = _element(der, after)
    _, validity, _ = _element(der, after, _SEQUENCE)
    _, _, second = _element(der, validity)
    tag, begin, end = _element(der, second)
    if tag not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError("a certificate's end is no time")
    # Two digits mean 1969 to 2068 to strptime and 1950 to 2049 to RFC 5280: alike for all that may be met.
    shape = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(der[begin:end].decode("ascii"), shape).replace(tzinfo=UTC).timestamp()


def _element(der: bytes, at: int, wanted: int | None = None) -> tuple[int, int, int]:
    """Tag of the element at `at`, and where its content begins and ends."""
    try:
        tag, length, begin = der[at], der[at + 1], at + 2
        if length & 0x80:
            begin += length & 0x7F
            length = int.from_bytes(der[at + 2 : begin])
    except IndexError as error:
        raise ValueError("a certificate ends too early") from error
    if begin + length > len(der) or (wanted is not None and tag != wanted):
        raise ValueError("not the form of a certificate")
    return tag, begin, begin + length

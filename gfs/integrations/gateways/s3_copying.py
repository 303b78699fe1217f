"""What a request wants copied: the source, the range of it, and the conditions it has to meet. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

from gfs.integrations.gateways.conditions import Span, precondition
from gfs.integrations.gateways.s3_multipart import s3_tag
from gfs.integrations.gateways.s3_signature import S3Refused
from gfs.messages.namespace import Entry

COPY_SOURCE = "x-amz-copy-source"
_CONDITIONS = {
    f"{COPY_SOURCE}-{name.lower()}": name
    for name in ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")
}
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})", re.ASCII)


def copy_source(headers: Mapping[str, str]) -> tuple[str, str]:
    """Bucket and key that the request names. Raises: S3Refused when it names a version."""
    source, _, version = headers[COPY_SOURCE].partition("?")
    if version:
        raise S3Refused("NotImplemented", "Objects have no versions here.")
    bucket, _, key = unquote(source).removeprefix("/").partition("/")
    return bucket, key


def check_source(headers: Mapping[str, str], entry: Entry) -> None:
    """Raises: S3Refused (PreconditionFailed) when the source is not as the request wants it."""
    asked = {
        _CONDITIONS[name.lower()]: value for name, value in headers.items() if name.lower() in _CONDITIONS
    }
    if precondition(asked, entry, s3_tag(entry)):
        raise S3Refused("PreconditionFailed", "The source of the copy is not as the request wants it.")


def copied_span(headers: Mapping[str, str], length_bytes: int) -> Span:
    """The bytes of the source that become the part; all without a range. Raises: S3Refused (InvalidRange).

    S3 takes first and last byte only, and both have to be there.
    """
    asked = headers.get(f"{COPY_SOURCE}-range")
    if asked is None:
        return Span(0, length_bytes)
    match = _RANGE.fullmatch(asked.strip())
    if match is None:
        raise S3Refused("InvalidArgument", f"{asked!r} is no range like bytes=0-99.")
    first, last = int(match[1]), int(match[2])
    if not first <= last < length_bytes:
        raise S3Refused("InvalidRange", f"{asked} is not within the source, which has {length_bytes} bytes.")
    return Span(first, last + 1 - first)

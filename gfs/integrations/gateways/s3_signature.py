"""AWS Signature Version 4, as a server checks it: in headers, in a URL, and of streamed chunks. Pure.

Source: "Authenticating Requests (AWS Signature Version 4)", Amazon S3 API Reference. Nothing here reads a
clock: the caller says what time it is.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote, unquote, unquote_plus

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"
STREAMED = "STREAMING-"
SKEW_SECONDS_MAX = 900
PRESIGNED_SECONDS_MAX = 7 * 86400
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


class S3Refused(Exception):
    """`code` is S3's word for it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class SignedRequest(NamedTuple):
    """A request as it came. `path` and `query` are raw: still percent-encoded; header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


class Signature(NamedTuple):
    """What a good signature says; `seed` and `scope` go on in streamed chunks."""

    access_key: str
    payload: str  # a SHA-256 in hex, UNSIGNED, or a kind of streaming
    signing_key: bytes
    seed: str
    scope: str
    at: str

    def chunk(self, previous: str, data: bytes) -> str:
        """The signature of a streamed chunk that follows one with the signature `previous`."""
        text = (
            f"{ALGORITHM}-PAYLOAD\n{self.at}\n{self.scope}\n{previous}\n"
            f"{EMPTY_SHA256}\n{hashlib.sha256(data).hexdigest()}"
        )
        return _hmac(self.signing_key, text).hex()

    def trailer(self, previous: str, trailer: bytes) -> str:
        """The signature of the trailing headers, `name:value\\n` each, after the last chunk's."""
        text = (
            f"{ALGORITHM}-TRAILER\n{self.at}\n{self.scope}\n{previous}\n{hashlib.sha256(trailer).hexdigest()}"
        )
        return _hmac(self.signing_key, text).hex()


class _Claim(NamedTuple):
    access_key: str
    scope: str
    date: str
    region: str
    signed_headers: Sequence[str]
    signature: str
    at: str
    payload: str
    query: str  # without the signature itself
    seconds: int  # how long it is good for, before and after for a header


def check(request: SignedRequest, secrets: Mapping[str, str], *, now: datetime.datetime) -> Signature:
    """The request's signature, when it is good.

    Args:
        secrets: access key to secret key.
    Raises: S3Refused.
    """
    claim = _presigned(request) if "X-Amz-Signature=" in request.query else _in_headers(request)
    _check_time(claim, now, presigned="X-Amz-Signature=" in request.query)
    secret = secrets.get(claim.access_key)
    if secret is None:
        raise S3Refused("InvalidAccessKeyId", "There is no such access key.")
    if "host" not in claim.signed_headers:
        raise S3Refused("AccessDenied", "The header host has to be signed.")
    text = _string_to_sign(request, claim)
    key = _signing_key(secret, claim)
    expected = _hmac(key, text).hex()
    if not hmac.compare_digest(expected, claim.signature):
        raise S3Refused(
            "SignatureDoesNotMatch", "The signature is not that of this request: check the secret key."
        )
    return Signature(claim.access_key, claim.payload, key, claim.signature, claim.scope, claim.at)


def _in_headers(request: SignedRequest) -> _Claim:
    header = request.headers.get("authorization", "")
    if not header:
        raise S3Refused("AccessDenied", "This request is not signed.")
    kind, _, rest = header.partition(" ")
    if kind != ALGORITHM:
        raise S3Refused("InvalidRequest", f"Only {ALGORITHM} signatures are understood.")
    parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    try:
        credential, signed, signature = parts["Credential"], parts["SignedHeaders"], parts["Signature"]
    except KeyError as error:
        raise S3Refused("AuthorizationHeaderMalformed", f"It has no {error.args[0]}.") from error
    access_key, date, region, scope = _credential(credential, "AuthorizationHeaderMalformed")
    at = request.headers.get("x-amz-date", "")
    payload = request.headers.get("x-amz-content-sha256", "")
    if not payload:
        raise S3Refused("InvalidRequest", "The header x-amz-content-sha256 is missing.")
    return _Claim(
        access_key=access_key,
        scope=scope,
        date=date,
        region=region,
        signed_headers=signed.split(";"),
        signature=signature,
        at=at,
        payload=payload,
        query=request.query,
        seconds=SKEW_SECONDS_MAX,
    )


def _presigned(request: SignedRequest) -> _Claim:
    pairs = [part.partition("=")[::2] for part in request.query.split("&") if part]
    given = {unquote_plus(name): unquote_plus(value) for name, value in pairs}
    if given.get("X-Amz-Algorithm") != ALGORITHM:
        raise S3Refused("AuthorizationQueryParametersError", f"X-Amz-Algorithm has to be {ALGORITHM}.")
    try:
        seconds = int(given["X-Amz-Expires"])
        credential, signed = given["X-Amz-Credential"], given["X-Amz-SignedHeaders"]
        at, signature = given["X-Amz-Date"], given["X-Amz-Signature"]
    except (KeyError, ValueError) as error:
        raise S3Refused("AuthorizationQueryParametersError", f"{error} is missing or wrong.") from error
    if not 0 < seconds <= PRESIGNED_SECONDS_MAX:
        raise S3Refused(
            "AuthorizationQueryParametersError", f"X-Amz-Expires is at most {PRESIGNED_SECONDS_MAX} seconds."
        )
    access_key, date, region, scope = _credential(credential, "AuthorizationQueryParametersError")
    rest = "&".join(f"{name}={value}" for name, value in pairs if name != "X-Amz-Signature")
    payload = given.get("X-Amz-Content-Sha256") or request.headers.get("x-amz-content-sha256") or UNSIGNED
    return _Claim(
        access_key=access_key,
        scope=scope,
        date=date,
        region=region,
        signed_headers=signed.split(";"),
        signature=signature,
        at=at,
        payload=payload,
        query=rest,
        seconds=seconds,
    )


def _credential(text: str, code: str) -> tuple[str, str, str, str]:
    """Access key (which may hold slashes), date, region and scope."""
    parts = text.rsplit("/", 4)
    if len(parts) != 5 or parts[3] != "s3" or parts[4] != "aws4_request":
        raise S3Refused(code, "The credential is not KEY/DATE/REGION/s3/aws4_request.")
    return parts[0], parts[1], parts[2], "/".join(parts[1:])


def _check_time(claim: _Claim, now: datetime.datetime, *, presigned: bool) -> None:
    try:
        at = datetime.datetime.strptime(claim.at, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
    except ValueError as error:
        raise S3Refused("AccessDenied", "The date of the signature is missing or wrong.") from error
    if claim.date != claim.at[:8]:
        raise S3Refused("AccessDenied", "The credential's date is not the request's.")
    age = (now - at).total_seconds()
    if presigned and age > claim.seconds:
        raise S3Refused("AccessDenied", "Request has expired.")
    if age < -SKEW_SECONDS_MAX or (not presigned and age > SKEW_SECONDS_MAX):
        raise S3Refused(
            "RequestTimeTooSkewed", f"The clocks differ by {abs(age):.0f} s; at most {SKEW_SECONDS_MAX}."
        )


def _string_to_sign(request: SignedRequest, claim: _Claim) -> str:
    missing = [name for name in claim.signed_headers if name not in request.headers]
    if missing:
        raise S3Refused("AccessDenied", f"A signed header is missing: {missing[0]}.")
    headers = "".join(f"{name}:{' '.join(request.headers[name].split())}\n" for name in claim.signed_headers)
    canonical = "\n".join(
        [
            request.method,
            quote(unquote(request.path), safe="/-_.~") or "/",
            _canonical_query(claim.query),
            headers,
            ";".join(claim.signed_headers),
            claim.payload,
        ]
    )
    return f"{ALGORITHM}\n{claim.at}\n{claim.scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"


def _canonical_query(query: str) -> str:
    pairs = [part.partition("=")[::2] for part in query.split("&") if part]
    encoded = [(_encoded(name), _encoded(value)) for name, value in pairs]
    return "&".join(f"{name}={value}" for name, value in sorted(encoded))


def _encoded(raw: str) -> str:
    """Percent-encoded once and as S3 wants it, however the client did it."""
    return quote(unquote_plus(raw.replace("+", "%2B") if "%20" in raw else raw), safe="-_.~")


def _signing_key(secret: str, claim: _Claim) -> bytes:
    key = ("AWS4" + secret).encode()
    for part in (claim.date, claim.region, "s3", "aws4_request"):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()

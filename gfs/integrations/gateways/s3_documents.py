"""XML as S3 writes it and reads it. No requests, no files."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from gfs.integrations.gateways.s3_signature import S3Refused

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
BODY_BYTES_MAX = 2**20  # of an XML body: a thousand keys of a thousand bytes


class Node(NamedTuple):
    """An element: its name, and text or elements in it."""

    name: str
    inside: str | int | bool | Iterable[Node] = ""

    def written(self) -> str:
        if isinstance(self.inside, bool):
            text = "true" if self.inside else "false"
        elif isinstance(self.inside, str | int):
            text = escape(_writable(str(self.inside)))
        else:
            text = "".join(node.written() for node in self.inside)
        return f"<{self.name}>{text}</{self.name}>"


def document(name: str, inside: Iterable[Node]) -> bytes:
    text = "".join(node.written() for node in inside)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{name} xmlns="{NAMESPACE}">{text}</{name}>'.encode()


def error_document(code: str, message: str, resource: str, request_id: str) -> bytes:
    inside = [Node("Code", code), Node("Message", message), Node("Resource", resource)]
    text = "".join(node.written() for node in [*inside, Node("RequestId", request_id)])
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{text}</Error>'.encode()


def _writable(text: str) -> str:
    # XML 1.0 has no way to write most control characters; who needs them asks for encoding-type=url.
    return "".join(c if c in "\t\n\r" or c >= " " else "\ufffd" for c in text)


def iso_time(unix_ms: int) -> str:
    moment = datetime.datetime.fromtimestamp(unix_ms / 1000, tz=datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def url_encoded(key: str, wanted: bool) -> str:
    return quote(key, safe="/-_.~") if wanted else key


def parsed(body: bytes) -> ElementTree.Element:
    """Raises: S3Refused (MalformedXML)."""
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise S3Refused("MalformedXML", "A document type is not wanted here.")
    try:
        return ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise S3Refused("MalformedXML", f"The body is no XML: {error}.") from error


def children(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """With this name, in whatever namespace."""
    return [child for child in element if child.tag.rpartition("}")[2] == name]


def text_of(element: ElementTree.Element, name: str, default: str = "") -> str:
    found = children(element, name)
    return (found[0].text or "") if found else default


STATUSES: Mapping[str, int] = {
    "AccessDenied": 403,
    "AuthorizationHeaderMalformed": 400,
    "AuthorizationQueryParametersError": 400,
    "BadDigest": 400,
    "BucketAlreadyOwnedByYou": 409,
    "BucketNotEmpty": 409,
    "EntityTooLarge": 400,
    "EntityTooSmall": 400,
    "IncompleteBody": 400,
    "InternalError": 500,
    "InvalidAccessKeyId": 403,
    "InvalidArgument": 400,
    "InvalidBucketName": 400,
    "InvalidPart": 400,
    "InvalidPartOrder": 400,
    "InvalidRange": 416,
    "InvalidRequest": 400,
    "KeyTooLongError": 400,
    "MalformedXML": 400,
    "MethodNotAllowed": 405,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "NoSuchUpload": 404,
    "NotImplemented": 501,
    "OperationAborted": 409,
    "PreconditionFailed": 412,
    "QuotaExceeded": 403,
    "RequestTimeTooSkewed": 403,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "SlowDown": 503,
    "XAmzContentSHA256Mismatch": 400,
}

"""The S3 gateway's door: whose request it is, which verb it means, what is answered. `gfs gateway s3`.

Understood: buckets (list, make, look at, delete), objects (put, get with ranges and conditions, head, copy,
delete, delete many), ListObjects 1 and 2, multipart uploads of parts that are sent, or copied from objects;
signatures V4 in headers and in URLs, plain and `aws-chunked` bodies with their checksums. Answered with
NotImplemented: all else, by name. Not kept: metadata of users (x-amz-meta-…) and content types, which are
guessed from the key.
"""

from __future__ import annotations

import datetime
import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from email.utils import formatdate
from urllib.parse import unquote

from aiohttp import web

from gfs.client.client import AsyncClient
from gfs.errors import GfsError
from gfs.integrations.gateways import s3_documents as xml
from gfs.integrations.gateways.conditions import asked_range, precondition
from gfs.integrations.gateways.gateway_server import blocks_of_body, send_range
from gfs.integrations.gateways.s3_copying import COPY_SOURCE, check_source, copied_span, copy_source
from gfs.integrations.gateways.s3_documents import Node
from gfs.integrations.gateways.s3_listing import KEYS_MAX
from gfs.integrations.gateways.s3_multipart import Multipart, Upload, s3_tag
from gfs.integrations.gateways.s3_objects import Objects
from gfs.integrations.gateways.s3_signature import STREAMED, S3Refused, Signature, SignedRequest, check
from gfs.integrations.gateways.s3_stream import Body, ChunkedBody, PlainBody, Sums
from gfs.messages.namespace import Entry
from gfs.telemetry import new_trace_id

_CODES = {
    "not_found": "NoSuchKey",
    "permission_denied": "AccessDenied",
    "unauthenticated": "AccessDenied",
    "no_space": "ServiceUnavailable",
    "quota_exceeded": "QuotaExceeded",
    "overloaded": "SlowDown",
    "path_busy": "SlowDown",
    "no_quorum": "ServiceUnavailable",
    "unavailable": "ServiceUnavailable",
    "data_unavailable": "ServiceUnavailable",
    "not_enough_chunkservers": "ServiceUnavailable",
    "deadline_exceeded": "ServiceUnavailable",
    "already_exists": "OperationAborted",
    "superseded": "OperationAborted",
    "invalid_path": "InvalidArgument",
    "invalid_argument": "InvalidArgument",
    "connection_lost": "IncompleteBody",
}
_OVERRIDES = {  # of a signed URL
    "response-content-type": "Content-Type",
    "response-content-disposition": "Content-Disposition",
    "response-cache-control": "Cache-Control",
}
_QUERIES_OF_LISTINGS = {
    "list-type", "prefix", "delimiter", "marker", "max-keys", "encoding-type", "start-after",
    "continuation-token", "fetch-owner", "x-id",
}  # fmt: skip
_QUERIES_OF_OBJECTS = {"partNumber", "uploadId", "uploads", "x-id", *_OVERRIDES}

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def refusal(error: GfsError) -> web.Response:
    """An error of ours as S3 says it."""
    return _refused(_CODES.get(error.code, "InternalError"), error.message, "")


def _refused(code: str, message: str, resource: str) -> web.Response:
    status = xml.STATUSES.get(code, 400)
    body = xml.error_document(code, message, resource, new_trace_id())
    return web.Response(body=body, status=status, content_type="application/xml")


class S3Gateway:
    """The handlers. `keys`: access key to secret key; all do everything as `client`'s user."""

    def __init__(self, client: AsyncClient, keys: Mapping[str, str]) -> None:
        self._keys = keys
        self._objects = Objects(client)
        self._multipart = Multipart(client, self._objects)

    @property
    def routes(self) -> list[web.RouteDef]:
        return [web.route("*", "/{path:.*}", self._handle)]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw_path, _, raw_query = request.raw_path.partition("?")
        try:
            signed = SignedRequest(
                request.method,
                raw_path,
                raw_query,
                {name.lower(): value for name, value in request.headers.items()},
            )
            signature = check(signed, self._keys, now=datetime.datetime.now(datetime.UTC))
            bucket, _, key = unquote(raw_path, errors="strict").removeprefix("/").partition("/")
            return await self._answer(request, signature, bucket, key)
        except S3Refused as error:
            response = _refused(error.code, error.message, raw_path)
        except UnicodeDecodeError:
            response = _refused("InvalidArgument", "The key is not UTF-8.", raw_path)
        if request.can_read_body:
            response.force_close()  # what is left of the body is nothing we want to read
        return response

    async def _answer(
        self, request: web.Request, signature: Signature, bucket: str, key: str
    ) -> web.StreamResponse:
        query = {name for name in request.query if not name.startswith("X-Amz-")}
        if not bucket:
            verb = self._list_buckets if request.method == "GET" and not query - {"x-id"} else None
            return await (verb or self._not_implemented)(request)
        if key:
            return await self._of_object(request, signature, bucket, key, query)
        return await self._of_bucket(request, signature, bucket, query)

    async def _not_implemented(self, request: web.Request) -> web.StreamResponse:
        asked = " ".join(sorted(request.query)) or request.path
        raise S3Refused("NotImplemented", f"{request.method} {asked}: this gateway does not do that.")

    # --- buckets --------------------------------------------------------------------------------

    async def _of_bucket(
        self, request: web.Request, signature: Signature, bucket: str, query: set[str]
    ) -> web.StreamResponse:
        method = request.method
        if method == "GET" and query <= _QUERIES_OF_LISTINGS:
            return await self._list(request, bucket)
        if method == "GET" and query <= {"uploads", "prefix", "max-uploads", "encoding-type", "x-id"}:
            return await self._list_uploads(request, bucket)
        if method == "GET" and query == {"location"}:
            await self._objects.bucket(bucket)
            return _page("LocationConstraint", [])
        if method == "GET" and query == {"versioning"}:
            await self._objects.bucket(bucket)
            return _page("VersioningConfiguration", [])
        if method == "POST" and query == {"delete"}:
            return await self._delete_many(request, signature, bucket)
        if query - {"x-id"}:
            return await self._not_implemented(request)
        if method == "PUT":
            await self._objects.make_bucket(bucket)
            return web.Response(headers={"Location": f"/{bucket}"})
        if method == "HEAD":
            await self._objects.bucket(bucket)
            return web.Response()
        if method == "DELETE":
            await self._objects.delete_bucket(bucket)
            return web.Response(status=204)
        return await self._not_implemented(request)

    async def _list_buckets(self, _: web.Request) -> web.StreamResponse:
        rows = [
            Node(
                "Bucket", [Node("Name", entry.path[1:]), Node("CreationDate", xml.iso_time(entry.created_ms))]
            )
            for entry in await self._objects.buckets()
        ]
        owner = Node("Owner", [Node("ID", "gfs"), Node("DisplayName", "gfs")])
        return _page("ListAllMyBucketsResult", [owner, Node("Buckets", rows)])

    async def _list(self, request: web.Request, bucket: str) -> web.StreamResponse:
        query = request.query
        second = query.get("list-type") == "2"
        delimiter = query.get("delimiter", "")
        if delimiter not in ("", "/"):
            raise S3Refused("NotImplemented", f"The delimiter {delimiter!r}: only '/' is understood.")
        keys_max = _number(query.get("max-keys", str(KEYS_MAX)), "max-keys", KEYS_MAX)
        encoded = query.get("encoding-type") == "url"
        prefix = query.get("prefix", "")
        after = (
            query.get("continuation-token") or query.get("start-after", "")
            if second
            else query.get("marker", "")
        )
        found = await self._objects.page(
            bucket, prefix=prefix, delimiter=delimiter, after=after, keys_max=keys_max
        )
        nodes = [
            Node("Name", bucket),
            Node("Prefix", xml.url_encoded(prefix, encoded)),
            Node("MaxKeys", keys_max),
            Node("IsTruncated", bool(found.next_after)),
        ]
        nodes += [Node("Delimiter", delimiter)] if delimiter else []
        nodes += [Node("EncodingType", "url")] if encoded else []
        if second:
            nodes.append(Node("KeyCount", len(found.objects) + len(found.prefixes)))
            nodes += [Node("NextContinuationToken", found.next_after)] if found.next_after else []
        else:
            nodes.append(Node("Marker", xml.url_encoded(after, encoded)))
            if found.next_after:
                nodes.append(Node("NextMarker", xml.url_encoded(found.next_after, encoded)))
        nodes += [Node("Contents", _listed(key, entry, encoded)) for key, entry in found.objects]
        nodes += [
            Node("CommonPrefixes", [Node("Prefix", xml.url_encoded(one, encoded))]) for one in found.prefixes
        ]
        return _page("ListBucketResult", nodes)

    async def _list_uploads(self, request: web.Request, bucket: str) -> web.StreamResponse:
        found = await self._multipart.uploads(bucket, request.query.get("prefix", ""))
        nodes = [Node("Bucket", bucket), Node("IsTruncated", False)]
        nodes += [
            Node(
                "Upload",
                [
                    Node("Key", one.key),
                    Node("UploadId", one.id),
                    Node("Initiated", xml.iso_time(one.begun_ms)),
                ],
            )
            for one in found
        ]
        return _page("ListMultipartUploadsResult", nodes)

    async def _delete_many(
        self, request: web.Request, signature: Signature, bucket: str
    ) -> web.StreamResponse:
        await self._objects.bucket(bucket)
        told = xml.parsed(await self._small_body(request, signature))
        keys = [xml.text_of(one, "Key") for one in xml.children(told, "Object")]
        if len(keys) > KEYS_MAX:
            raise S3Refused("MalformedXML", f"At most {KEYS_MAX} keys at once.")
        quiet = xml.text_of(told, "Quiet") == "true"
        nodes: list[Node] = []
        for key in keys:
            try:
                await self._objects.delete(bucket, key)
            except S3Refused as error:
                failed = [Node("Key", key), Node("Code", error.code), Node("Message", error.message)]
                nodes.append(Node("Error", failed))
            except GfsError as error:
                code = _CODES.get(error.code, "InternalError")
                nodes.append(
                    Node("Error", [Node("Key", key), Node("Code", code), Node("Message", error.message)])
                )
            else:
                nodes += [] if quiet else [Node("Deleted", [Node("Key", key)])]
        return _page("DeleteResult", nodes)

    # --- objects --------------------------------------------------------------------------------

    async def _of_object(
        self, request: web.Request, signature: Signature, bucket: str, key: str, query: set[str]
    ) -> web.StreamResponse:
        method, asked = request.method, request.query
        if query - _QUERIES_OF_OBJECTS:
            return await self._not_implemented(request)
        if "uploads" in query and method == "POST":
            upload = await self._multipart.begin(bucket, key)
            inside = [Node("Bucket", bucket), Node("Key", key), Node("UploadId", upload)]
            return _page("InitiateMultipartUploadResult", inside)
        if "uploadId" in query:
            return await self._of_upload(request, signature, bucket, key, asked["uploadId"])
        if method in ("GET", "HEAD"):
            return await self._get(request, bucket, key)
        if method == "PUT" and COPY_SOURCE in request.headers:
            return await self._copy(request, bucket, key)
        if method == "PUT":
            return await self._put(request, signature, bucket, key)
        if method == "DELETE":
            await self._objects.delete(bucket, key)
            return web.Response(status=204)
        return await self._not_implemented(request)

    async def _get(self, request: web.Request, bucket: str, key: str) -> web.StreamResponse:
        file = await self._objects.open(bucket, key)
        if isinstance(file, Entry):
            headers = {"ETag": s3_tag(file), "Content-Type": "application/x-directory", "Content-Length": "0"}
            return web.Response(headers=headers)
        async with file:
            length = await file.length()
            tag = s3_tag(file.entry)
            headers = {
                "ETag": tag,
                "Last-Modified": formatdate(file.entry.modified_ms / 1000, usegmt=True),
                "Accept-Ranges": "bytes",
                "Content-Type": mimetypes.guess_type(key)[0] or "application/octet-stream",
            }
            headers |= {_OVERRIDES[name]: request.query[name] for name in _OVERRIDES if name in request.query}
            status = precondition(request.headers, file.entry, tag)
            if status == 304:
                return web.Response(status=304, headers=headers)
            if status:
                raise S3Refused("PreconditionFailed", "The object is not as the request wants it.")
            span = asked_range(request, length, tag, file.entry)
            if span is None:
                raise S3Refused("InvalidRange", f"The object has {length} bytes.")
            response = web.StreamResponse(headers=headers)
            if span.length_bytes < length:
                response.set_status(206)
                last = span.first + span.length_bytes - 1
                response.headers["Content-Range"] = f"bytes {span.first}-{last}/{length}"
            if request.method == "HEAD":
                response.content_length = span.length_bytes
                await response.prepare(request)
                return response
            await send_range(request, response, file, span.first, span.length_bytes)
            return response

    async def _put(
        self, request: web.Request, signature: Signature, bucket: str, key: str
    ) -> web.StreamResponse:
        condition = request.headers.get("If-None-Match")
        if "If-Match" in request.headers or condition not in (None, "*"):
            # Nothing in the cluster compares and replaces in one step, so nobody is told that it was done.
            raise S3Refused("NotImplemented", "Of conditions of a PUT only 'If-None-Match: *' can be kept.")
        body = _body(request, signature)
        made = await self._objects.put(bucket, key, _blocks(request), body, exclusive=condition == "*")
        return web.Response(headers={"ETag": s3_tag(made)})

    async def _copy(self, request: web.Request, bucket: str, key: str) -> web.StreamResponse:
        headers = request.headers
        made = await self._objects.copy(
            copy_source(headers), bucket, key, wanted=lambda entry: check_source(headers, entry)
        )
        inside = [Node("LastModified", xml.iso_time(made.modified_ms)), Node("ETag", s3_tag(made))]
        return _page("CopyObjectResult", inside)

    # --- multipart uploads ----------------------------------------------------------------------

    async def _of_upload(
        self, request: web.Request, signature: Signature, bucket: str, key: str, upload_id: str
    ) -> web.StreamResponse:
        if request.method == "POST":
            return await self._complete(request, signature, bucket, key, upload_id)
        upload = await self._multipart.find(bucket, key, upload_id)
        if request.method == "PUT":
            number = _number(request.query.get("partNumber", ""), "partNumber", 1 << 31)
            if COPY_SOURCE in request.headers:
                return await self._copy_part(request, upload, number)
            body = _body(request, signature)
            part = await self._multipart.put_part(upload, number, _blocks(request), body)
            return web.Response(headers={"ETag": s3_tag(part)})
        if request.method == "DELETE":
            await self._multipart.abort(upload)
            return web.Response(status=204)
        if request.method == "GET":
            nodes = [Node("Bucket", bucket), Node("Key", key), Node("UploadId", upload.id)]
            nodes.append(Node("IsTruncated", False))
            for number, entry in await self._multipart.parts(upload):
                nodes.append(Node("Part", [Node("PartNumber", number), *_listed_part(entry)]))
            return _page("ListPartsResult", nodes)
        return await self._not_implemented(request)

    async def _complete(
        self, request: web.Request, signature: Signature, bucket: str, key: str, upload_id: str
    ) -> web.StreamResponse:
        told = xml.parsed(await self._small_body(request, signature))
        wanted = [
            (_number(xml.text_of(part, "PartNumber"), "PartNumber", 1 << 31), xml.text_of(part, "ETag"))
            for part in xml.children(told, "Part")
        ]
        made = await self._multipart.complete(bucket, key, upload_id, wanted)
        inside = [Node("Location", f"/{bucket}/{key}"), Node("Bucket", bucket), Node("Key", key)]
        return _page("CompleteMultipartUploadResult", [*inside, Node("ETag", s3_tag(made))])

    async def _copy_part(self, request: web.Request, upload: Upload, number: int) -> web.StreamResponse:
        headers = request.headers
        source = copy_source(headers)
        file = await self._objects.open(*source)
        if isinstance(file, Entry):
            raise S3Refused("InvalidRequest", f"{source[1]} is a directory: there is nothing to copy.")
        async with file:
            length = await file.length()
            check_source(headers, file.entry)
            part = await self._multipart.copy_part(upload, number, file, copied_span(headers, length))
        inside = [Node("LastModified", xml.iso_time(part.modified_ms)), Node("ETag", s3_tag(part))]
        return _page("CopyPartResult", inside)

    async def _small_body(self, request: web.Request, signature: Signature) -> bytes:
        body, content = _body(request, signature), bytearray()
        async for block in _blocks(request):
            for piece in body.feed(block):
                content += piece
            if len(content) > xml.BODY_BYTES_MAX:
                raise S3Refused("MalformedXML", f"The body has more than {xml.BODY_BYTES_MAX} bytes.")
        body.finish()
        return bytes(content)


def _blocks(request: web.Request) -> AsyncIterator[bytes]:
    return blocks_of_body(request, framing="aws-chunked")


def _body(request: web.Request, signature: Signature) -> Body:
    headers = {name.lower(): value for name, value in request.headers.items()}
    sums = Sums(headers, signature.payload)
    return ChunkedBody(sums, signature) if signature.payload.startswith(STREAMED) else PlainBody(sums)


def _number(text: str, name: str, most: int) -> int:
    if not text.isdigit() or len(text) > 12:
        raise S3Refused("InvalidArgument", f"{name} has to be a number.")
    return min(int(text), most)


def _listed(key: str, entry: Entry, encoded: bool) -> list[Node]:
    return [
        Node("Key", xml.url_encoded(key, encoded)),
        *_listed_part(entry),
        Node("StorageClass", "STANDARD"),
    ]


def _listed_part(entry: Entry) -> list[Node]:
    return [
        Node("LastModified", xml.iso_time(entry.modified_ms)),
        Node("ETag", s3_tag(entry)),
        Node("Size", entry.length_bytes),
    ]


def _page(name: str, nodes: list[Node]) -> web.Response:
    return web.Response(body=xml.document(name, nodes), content_type="application/xml")

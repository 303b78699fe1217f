"""Multipart uploads: parts are files of a hidden directory until they are put together. No HTTP, no XML.

The object is written anew from its parts when the upload is completed: no verb of the cluster joins files.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import msgspec

from gfs.client.client import AsyncClient
from gfs.client.file import AsyncReader
from gfs.errors import DataUnavailable, GfsError, NotADirectory, NotFound
from gfs.integrations.gateways.conditions import Span, entity_tag
from gfs.integrations.gateways.s3_objects import COPY_BYTES, UPLOADS, Objects, object_path
from gfs.integrations.gateways.s3_signature import S3Refused
from gfs.integrations.gateways.s3_stream import Body
from gfs.messages.namespace import Entry

PARTS_MAX = 10_000
PART_BYTES_MIN = 5 * 2**20  # of all but the last
COMPLETED_MAX = 1000  # uploads whose completion may be asked for again; the oldest is forgotten first
_TARGET = "target"


class Upload(NamedTuple):
    id: str
    bucket: str
    key: str
    begun_ms: int


class _Target(msgspec.Struct, frozen=True):
    bucket: str
    key: str


class _Completed(NamedTuple):
    upload: Upload
    parts: list[tuple[int, str]]
    made: Entry


class Multipart:
    def __init__(self, client: AsyncClient, objects: Objects) -> None:
        self._client, self._objects = client, objects
        self._completed: dict[str, _Completed] = {}  # by upload; the newest is last

    async def begin(self, bucket: str, key: str) -> str:
        """The id of a new upload."""
        await self._objects.bucket(bucket)
        object_path(bucket, key)
        if key.endswith("/"):
            raise S3Refused("InvalidArgument", "A key that ends in '/' is a directory: no content.")
        upload = secrets.token_hex(16)
        await self._client.mkdir(f"{UPLOADS}/{upload}", parents=True)
        target = msgspec.json.encode(_Target(bucket, key))
        await self._client.write_bytes(f"{UPLOADS}/{upload}/{_TARGET}", target, atomic=True)
        return upload

    async def put_part(self, upload: Upload, number: int, blocks: AsyncIterator[bytes], body: Body) -> Entry:
        """A part sent again replaces the one before."""
        path = _part(upload, number)
        async with await self._client.open(path, "wb", atomic=True) as file:
            async for block in blocks:
                for piece in body.feed(block):
                    await file.write(piece)
            body.finish()
        return await self._client.stat(path)

    async def copy_part(self, upload: Upload, number: int, source: AsyncReader, span: Span) -> Entry:
        """Bytes of an object that is there become a part."""
        return await self.put_part(upload, number, _bytes_of(source, span), _Taken())

    async def find(self, bucket: str, key: str, upload: str) -> Upload:
        """Raises: S3Refused (NoSuchUpload)."""
        missing = S3Refused("NoSuchUpload", f"There is no upload {upload[:64]!r} of {key}.")
        if not upload.isalnum():
            raise missing
        path = f"{UPLOADS}/{upload}/{_TARGET}"
        try:
            target = msgspec.json.decode(await self._client.read_bytes(path), type=_Target)
            begun = (await self._client.stat(path)).created_ms
        except (NotFound, NotADirectory, msgspec.DecodeError) as error:
            raise missing from error
        if (target.bucket, target.key) != (bucket, key):
            raise missing
        return Upload(upload, bucket, key, begun)

    async def uploads(self, bucket: str, prefix: str) -> list[Upload]:
        await self._objects.bucket(bucket)
        found: list[Upload] = []
        try:
            async for entry in self._client.list(UPLOADS):
                name = entry.path.rpartition("/")[2]
                try:
                    content = await self._client.read_bytes(f"{entry.path}/{_TARGET}")
                except (NotFound, NotADirectory):
                    continue
                target = msgspec.json.decode(content, type=_Target)
                if target.bucket == bucket and target.key.startswith(prefix):
                    found.append(Upload(name, bucket, target.key, entry.created_ms))
        except NotFound:
            pass  # there has never been one
        return sorted(found, key=lambda one: (one.key, one.begun_ms))

    async def parts(self, upload: Upload) -> list[tuple[int, Entry]]:
        """In the order of their numbers."""
        found = []
        async for entry in self._client.list(f"{UPLOADS}/{upload.id}"):
            name = entry.path.rpartition("/")[2]
            if name.isdigit():
                exact = entry if entry.length_exact else await self._client.stat(entry.path)
                found.append((int(name), exact))
        return found

    async def complete(
        self, bucket: str, key: str, upload_id: str, wanted: Sequence[tuple[int, str]]
    ) -> Entry:
        """Put the parts together under the key, which then shows all of them at once.

        A client that waited for too long, as in an election, asks once more for what was done meanwhile: it
        hears the same answer again, as long as this gateway runs and remembers the upload.

        Args:
            wanted: number and entity tag of each part, as the client was told it.
        Raises: S3Refused (NoSuchUpload, and of parts that are not as they should be).
        """
        done = self._completed.get(upload_id)
        if done is None or (done.upload.bucket, done.upload.key, done.parts) != (bucket, key, list(wanted)):
            upload = await self.find(bucket, key, upload_id)
            await self._check_parts(upload, wanted)
            numbers = [number for number, _ in wanted]
            made = await self._objects.put(bucket, key, self._joined(upload, numbers), _Taken())
            done = _Completed(upload, list(wanted), made)
            # Before the parts are deleted: from then on nothing else tells that the upload was completed.
            self._remember(done)
        await self.abort(done.upload)
        return done.made

    def _remember(self, done: _Completed) -> None:
        self._completed[done.upload.id] = done
        while len(self._completed) > COMPLETED_MAX:
            del self._completed[next(iter(self._completed))]

    async def _check_parts(self, upload: Upload, wanted: Sequence[tuple[int, str]]) -> None:
        there = dict(await self.parts(upload))
        if not wanted:
            raise S3Refused("MalformedXML", "No part is named.")
        if [number for number, _ in wanted] != sorted({number for number, _ in wanted}):
            raise S3Refused("InvalidPartOrder", "Parts are named once each, by rising numbers.")
        for number, tag in wanted:
            entry = there.get(number)
            if entry is None or tag.strip('"') != s3_tag(entry).strip('"'):
                raise S3Refused("InvalidPart", f"Part {number} is not there, or is another one.")
            if entry.length_bytes < PART_BYTES_MIN and number != wanted[-1][0]:
                raise S3Refused("EntityTooSmall", f"Part {number} has less than {PART_BYTES_MIN} bytes.")

    async def _joined(self, upload: Upload, numbers: Sequence[int]) -> AsyncIterator[bytes]:
        for number in numbers:
            async with await self._client.open(_part(upload, number), "rb") as file:
                async for block in _bytes_of(file, Span(0, await file.length())):
                    yield block

    async def abort(self, upload: Upload) -> None:
        """The parts are gone for good: nobody has seen them as a file."""
        try:
            await self._client.delete(f"{UPLOADS}/{upload.id}", recursive=True, skip_trash=True)
        except NotFound:
            pass
        except GfsError as error:
            if error.definite:
                raise


async def _bytes_of(file: AsyncReader, span: Span) -> AsyncIterator[bytes]:
    file.seek(span.first)
    left = span.length_bytes
    while left:
        block = await file.read(min(COPY_BYTES, left))
        if not block:
            raise DataUnavailable("a source became shorter while it was copied")
        left -= len(block)
        yield block


class _Taken:
    """Content that was checked when it came."""

    def feed(self, data: bytes) -> list[bytes]:
        return [data]

    def finish(self) -> None:
        pass


def s3_tag(entry: Entry) -> str:
    """S3 has no weak tags. Ours have dashes in them, as those of multipart objects: no client takes them for
    an MD5."""
    return entity_tag(entry).removeprefix("W/")


def _part(upload: Upload, number: int) -> str:
    if not 1 <= number <= PARTS_MAX:
        raise S3Refused("InvalidArgument", f"Parts are numbered from 1 to {PARTS_MAX}.")
    return f"{UPLOADS}/{upload.id}/{number:05d}"

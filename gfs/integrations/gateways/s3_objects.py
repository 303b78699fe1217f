"""Buckets and objects as directories and files: what S3's verbs do to the tree. No HTTP, no XML.

A bucket is a directory of the root, a key a path below it. Directories that a key needs are made with it and
go with the last object in them; an empty directory that somebody made is the object `path/` of no bytes.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from gfs.client.client import AsyncClient
from gfs.client.file import AsyncReader
from gfs.client.publishing import TEMPORARY_MARK
from gfs.errors import (
    AlreadyExists,
    DirectoryNotEmpty,
    GfsError,
    IsADirectory,
    NotADirectory,
    NotFound,
)
from gfs.integrations.gateways.s3_listing import Page, list_page
from gfs.integrations.gateways.s3_signature import S3Refused
from gfs.integrations.gateways.s3_stream import Body
from gfs.messages.namespace import Entry

T = TypeVar("T")

UPLOADS = "/.s3-uploads"  # of multipart uploads under way; no bucket begins with a dot
KEY_BYTES_MAX = 1024
_TRIES = 5  # at a path whose empty directories somebody else removes at the same moment
COPY_BYTES = 4 * 2**20


def bucket_path(bucket: str) -> str:
    """Raises: S3Refused for what is no name of a bucket."""
    if not bucket or bucket.startswith(".") or "/" in bucket or len(bucket.encode()) > 63:
        raise S3Refused("InvalidBucketName", f"{bucket!r} cannot be a bucket.")
    return "/" + bucket


def object_path(bucket: str, key: str) -> str:
    """Raises: S3Refused for a key that is no path."""
    if len(key.encode()) > KEY_BYTES_MAX:
        raise S3Refused("KeyTooLongError", f"A key has at most {KEY_BYTES_MAX} bytes.")
    names = key.removesuffix("/").split("/")
    if any(name in ("", ".", "..") or "\0" in name for name in names):
        raise S3Refused(
            "InvalidArgument", f"{key!r} is no path: keys here have no empty parts, no '.' and no '..'."
        )
    return f"{bucket_path(bucket)}/{'/'.join(names)}"


class Objects:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    # --- buckets --------------------------------------------------------------------------------

    async def buckets(self) -> list[Entry]:
        found = [entry async for entry in self._client.list("/") if entry.kind == "directory"]
        return [entry for entry in found if not entry.path.startswith("/.")]

    async def bucket(self, name: str) -> Entry:
        """Raises: S3Refused (NoSuchBucket)."""
        try:
            entry = await self._client.stat(bucket_path(name))
        except NotFound as error:
            raise S3Refused("NoSuchBucket", f"There is no bucket {name}.") from error
        if entry.kind != "directory":
            raise S3Refused("NoSuchBucket", f"/{name} is a file, and no bucket.")
        return entry

    async def make_bucket(self, name: str) -> None:
        try:
            await self._client.mkdir(bucket_path(name))
        except AlreadyExists as error:
            raise S3Refused("BucketAlreadyOwnedByYou", f"The bucket {name} is there already.") from error

    async def delete_bucket(self, name: str) -> None:
        await self.bucket(name)
        try:
            await self._client.delete(bucket_path(name))
        except DirectoryNotEmpty as error:
            raise S3Refused("BucketNotEmpty", f"There are objects in {name}.") from error

    async def page(self, bucket: str, *, prefix: str, delimiter: str, after: str, keys_max: int) -> Page:
        await self.bucket(bucket)
        return await list_page(
            self._entries,
            bucket_path(bucket),
            prefix=prefix,
            delimiter=delimiter,
            after=after,
            keys_max=keys_max,
        )

    async def _entries(self, directory: str) -> AsyncIterator[Entry]:
        try:
            async for entry in self._client.list(directory):
                if TEMPORARY_MARK in entry.path.rpartition("/")[2]:
                    continue
                if entry.kind == "file" and not entry.length_exact:
                    try:
                        entry = await self._client.stat(entry.path)
                    except GfsError:
                        pass  # gone, or without a replica: as it was listed
                yield entry
        except (NotFound, NotADirectory):  # a prefix that nothing has, or that has just gone
            return

    # --- objects --------------------------------------------------------------------------------

    async def open(self, bucket: str, key: str) -> AsyncReader | Entry:
        """A reader of the object; its entry when it is a directory. Raises: S3Refused (NoSuchKey)."""
        path = object_path(bucket, key)
        try:
            file = await self._client.open(path, "rb")
        except IsADirectory as error:
            if key.endswith("/"):
                return await self._client.stat(path)
            raise S3Refused("NoSuchKey", f"{key} is a directory.") from error
        except (NotFound, NotADirectory) as error:
            await self.bucket(bucket)
            raise S3Refused("NoSuchKey", f"There is no object {key}.") from error
        if key.endswith("/"):
            await file.close()
            raise S3Refused("NoSuchKey", f"There is no object {key}.")
        return file

    async def put(
        self, bucket: str, key: str, blocks: AsyncIterator[bytes], body: Body, *, exclusive: bool = False
    ) -> Entry:
        """The object appears when its body has come and is what was signed. Raises: S3Refused."""
        path = object_path(bucket, key)
        if key.endswith("/"):
            async for block in blocks:
                if body.feed(block):
                    raise S3Refused("InvalidArgument", "A key that ends in '/' is a directory: no content.")
            body.finish()
            await self._client.mkdir(path, parents=True)
            return await self._client.stat(path)
        try:
            writer = await self._below_parents(
                bucket, path, lambda: self._client.open(path, "xb" if exclusive else "wb", atomic=True)
            )
            async with writer as file:
                async for block in blocks:
                    for piece in body.feed(block):
                        await file.write(piece)
                body.finish()
        except AlreadyExists as error:
            raise S3Refused("PreconditionFailed", f"{key} is there already.") from error
        return await self._client.stat(path)

    async def copy(
        self, source: tuple[str, str], bucket: str, key: str, *, wanted: Callable[[Entry], None]
    ) -> Entry:
        """A snapshot of the source: at once, and with no new bytes. Raises: S3Refused.

        Args:
            wanted: raises when the source is another one than the caller means.
        """
        old, new = object_path(*source), object_path(bucket, key)
        try:
            entry = await self._client.stat(old)
            if entry.kind == "directory":
                raise NotFound(f"{old} is a directory")
        except (NotFound, NotADirectory) as error:
            raise S3Refused("NoSuchKey", f"There is no object {source[1]}.") from error
        wanted(entry)
        if old == new:
            return entry
        folder, _, name = new.rpartition("/")
        beside = f"{folder}/.{name[:80]}{TEMPORARY_MARK}{secrets.token_hex(8)}"
        await self._below_parents(bucket, new, lambda: self._client.snapshot(old, beside))
        try:
            await self._client.rename(beside, new, replace=True)
        except GfsError as error:
            if error.definite:
                await self._client.delete(beside, skip_trash=True)
            raise
        return await self._client.stat(new)

    async def delete(self, bucket: str, key: str) -> None:
        """No error when there is none. Directories that are empty then go, too, as in S3 they never were."""
        await self.bucket(bucket)
        path = object_path(bucket, key)
        try:
            found = await self._client.stat(path)
            if (found.kind == "directory") != key.endswith("/"):
                return
            await self._client.delete(path)
        except (NotFound, NotADirectory, DirectoryNotEmpty):
            return
        await self.prune(bucket_path(bucket), path)

    async def prune(self, top: str, path: str) -> None:
        """Remove the empty directories between `top` and `path`."""
        folder = path.rpartition("/")[0]
        while folder != top:
            try:
                await self._client.delete(folder, skip_trash=True)  # refused while something is in it
            except GfsError:
                return
            folder = folder.rpartition("/")[0]

    async def _below_parents(self, bucket: str, path: str, do: Callable[[], Awaitable[T]]) -> T:
        """Do it, with the directories above `path` made when they are missing."""
        for _ in range(_TRIES):
            try:
                return await do()
            except NotADirectory as error:
                raise S3Refused("InvalidArgument", f"Something above {path} is an object.") from error
            except IsADirectory as error:
                raise S3Refused("InvalidArgument", f"{path} is a directory.") from error
            except NotFound:
                await self.bucket(bucket)
                await self._client.mkdir(path.rpartition("/")[0], parents=True)
        raise S3Refused("OperationAborted", f"The directories of {path} come and go; try again.")

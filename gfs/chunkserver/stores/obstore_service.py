"""The tier's door to obstore: S3 and what speaks like it, or another that obstore knows. No tier logic.

Installed by the extra pygfs[object]. Credentials and endpoint come from the environment alone, as for the
provider's own tools (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL …): they are in no file of ours and no log.
gfs.backups has a door of its own, because no room below it may import it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from gfs.errors import InvalidArgument, Unavailable

try:
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import ObjectStore, from_url
except ImportError as missing:
    raise Unavailable(
        "a tier on an object service needs the package obstore, which is not installed",
        hint="Install it with 'pip install pygfs[object]'.",
    ) from missing

UPLOAD_PART_BYTES = 8 * 2**20
UPLOADS_AT_ONCE = 2  # parts of one object in memory
ANSWER_SECONDS = 30  # of one request that moves a part of an upload
READ_SECONDS = 4  # of one that a reader or a writer of the chunk waits for
TRIES_MAX = 2  # the library's own; whoever waits for bytes has other replicas to ask


class ObstoreService:
    """Implements ObjectService. `store` begins at the URL's prefix, and so does `reads`, less patient."""

    def __init__(self, store: ObjectStore, reads: ObjectStore, url: str) -> None:
        self._store, self._reads, self.url = store, reads, url

    @classmethod
    def of_url(cls, url: str) -> ObstoreService:
        """For example s3://bucket/prefix. Raises: InvalidArgument."""
        try:
            return cls(_open(url, ANSWER_SECONDS), _open(url, READ_SECONDS), url)
        except (BaseError, ValueError, TypeError) as error:
            raise InvalidArgument(
                f"{url!r} names no object service that can be used: {_first_line(error)}",
                hint="For example s3://bucket/prefix, gs://bucket/prefix, az://account/container/prefix.",
            ) from error

    def put(self, name: str, pieces: Iterable[bytes]) -> None:
        with self._ours(f"write {name}"):
            writer = obstore.open_writer(
                self._store, name, buffer_size=UPLOAD_PART_BYTES, max_concurrency=UPLOADS_AT_ONCE
            )
            for piece in pieces:
                writer.write(piece)
            writer.close()  # an upload that never comes here is never completed: no half objects

    def read(self, name: str, offset: int, length: int) -> bytes:
        with self._ours(f"read {name}"):
            return bytes(obstore.get_range(self._reads, name, start=offset, length=length))

    def delete(self, name: str) -> None:
        try:
            with self._ours(f"delete {name}"):
                obstore.delete(self._store, name)
        except FileNotFoundError:
            pass

    def names(self, prefix: str) -> list[str]:
        with self._ours(f"list {prefix}"):
            return sorted(meta["path"] for page in obstore.list(self._store, prefix) for meta in page)

    @contextmanager
    def _ours(self, what: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            raise OSError(errno.EIO, f"cannot {what} in {self.url}: {_first_line(error)}") from error


def _open(url: str, seconds: int) -> ObjectStore:
    return from_url(
        url,
        client_options={"timeout": timedelta(seconds=seconds), "allow_http": True},
        retry_config={"max_retries": TRIES_MAX, "retry_timeout": timedelta(seconds=seconds)},
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]

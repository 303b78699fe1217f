"""Backups in an object store, through obstore: S3 and what speaks like it, Azure, Google, or a file:// URL.

The one door to obstore, which is installed by the extra pygfs[object]. Credentials and endpoint come from the
environment, as for the provider's own tools (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL …). An object is there when
its upload has been completed, so nothing half-written is ever seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gfs.backups.places import PIECE_BYTES, Kept, Writing
from gfs.errors import InvalidArgument, NotFound, Unavailable

try:
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import LocalStore, ObjectStore, from_url
except ImportError as missing:
    raise Unavailable(
        "backups in an object store need the package obstore, which is not installed",
        hint="Install it with 'pip install pygfs[object]', or name a directory instead.",
    ) from missing

UPLOAD_PART_BYTES = 8 * 2**20
UPLOADS_AT_ONCE = 2  # parts in memory: what bounds it


class ObjectPlace:
    """Implements Place. `store` begins at the prefix of the URL."""

    def __init__(self, store: ObjectStore, url: str) -> None:
        self._store, self.url = store, url

    @classmethod
    def of_url(cls, url: str) -> ObjectPlace:
        """Raises: InvalidArgument."""
        try:
            if url.startswith("file://"):
                return cls(LocalStore(url.removeprefix("file://"), mkdir=True), url)
            return cls(from_url(url), url)
        except (BaseError, ValueError, TypeError) as error:
            raise InvalidArgument(
                f"{url!r} names no object store that can be used: {_first_line(error)}",
                hint="For example s3://bucket/prefix, gs://bucket/prefix, az://account/container/prefix.",
            ) from error

    def listed(self) -> list[Kept]:
        found = []
        with self._ours("list"):
            for page in obstore.list(self._store):
                for meta in page:
                    changed = round(meta["last_modified"].timestamp() * 1000)
                    found.append(Kept(meta["path"], meta["size"], changed))
        return sorted(found)

    def begin(self, name: str) -> Writing:
        return _ObjectWriting(self, self._store, name)

    def read(self, name: str) -> Iterator[bytes]:
        with self._ours(f"read {name}"):
            for piece in obstore.get(self._store, name).stream(min_chunk_size=PIECE_BYTES):
                yield bytes(piece)

    def delete(self, name: str) -> None:
        try:
            with self._ours(f"delete {name}"):
                obstore.delete(self._store, name)
        except NotFound:
            pass

    @contextmanager
    def _ours(self, what: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise NotFound(f"cannot {what}: it is not in {self.url}") from error
        except (BaseError, OSError) as error:
            raise Unavailable(
                f"cannot {what} in {self.url}: {_first_line(error)}",
                hint="See that the store can be reached, and that its credentials are in the environment.",
            ) from error


class _ObjectWriting:
    def __init__(self, place: ObjectPlace, store: ObjectStore, name: str) -> None:
        self._ours, self._what = place._ours, f"write {name}"
        with self._ours(self._what):
            self._writer = obstore.open_writer(
                store, name, buffer_size=UPLOAD_PART_BYTES, max_concurrency=UPLOADS_AT_ONCE
            )

    def write(self, piece: bytes) -> None:
        with self._ours(self._what):
            self._writer.write(piece)

    def publish(self) -> None:
        with self._ours(self._what):
            self._writer.close()

    def give_up(self) -> None:
        """Without close() the upload is never completed; the store drops what came of it."""


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]

"""The suite that PyFilesystem2 keeps for its file systems, over an adapter of a page to the SDK."""

from __future__ import annotations

import io
import itertools
import unittest
import warnings
from collections.abc import Collection, Iterator
from typing import Any, ClassVar

import pytest

import gfs
from gfs.client.blocking import Client
from gfs.errors import AlreadyExists, DirectoryNotEmpty, IsADirectory, NotADirectory, NotFound
from gfs.messages.namespace import Entry

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it declares its namespaces in a way that has grown old
    pytest.importorskip("pkg_resources", reason="PyFilesystem2 needs setuptools before 81")
    base = pytest.importorskip("fs.base")
    suite = pytest.importorskip("fs.test")
    from fs import errors, path
    from fs.enums import ResourceType
    from fs.info import Info
    from fs.mode import Mode
    from fs.subfs import SubFS

pytestmark = pytest.mark.timeout(60)


class GfsFS(base.FS):  # type: ignore[misc]  # it has no types that mypy sees
    """What PyFilesystem2 asks of a file system, below one directory of a cluster."""

    _meta: ClassVar[dict[str, Any]] = {
        "case_insensitive": False, "invalid_path_chars": "\0", "network": True,
        "read_only": False, "thread_safe": True, "unicode_paths": True, "supports_rename": False,
    }  # fmt: skip

    def __init__(self, client: Client, top: str) -> None:
        super().__init__()
        self._client, self._top = client, top

    def _remote(self, name: str) -> str:
        return (self._top + self.validatepath(path.abspath(path.normpath(name)))).rstrip("/")

    def _entry(self, name: str) -> Entry:
        try:
            return self._client.stat(self._remote(name))
        except (NotFound, NotADirectory) as error:
            raise errors.ResourceNotFound(name) from error

    def getinfo(self, path: str, namespaces: Collection[str] | None = None) -> Info:
        self.check()
        return _info(self._entry(path), "" if path in ("", "/") else None, namespaces or ())

    def listdir(self, path: str) -> list[str]:
        return [info.name for info in self._rows(path, ())]

    def scandir(
        self, path: str, namespaces: Collection[str] | None = None, page: tuple[int, int] | None = None
    ) -> Iterator[Info]:
        rows = self._rows(path, namespaces or ())
        return itertools.islice(rows, *page) if page else iter(rows)

    def _rows(self, name: str, namespaces: Collection[str]) -> list[Info]:
        self.check()
        if self._entry(name).kind != "directory":
            raise errors.DirectoryExpected(name)
        return [_info(entry, None, namespaces) for entry in self._client.list(self._remote(name))]

    def makedir(self, path: str, permissions: Any = None, recreate: bool = False) -> SubFS[Any]:
        self.check()
        try:
            self._client.mkdir(self._remote(path))
        except AlreadyExists as error:
            if not recreate:
                raise errors.DirectoryExists(path) from error
        except (NotFound, NotADirectory) as error:
            raise errors.ResourceNotFound(path) from error
        return self.opendir(path)

    def openbin(self, path: str, mode: str = "r", buffering: int = -1, **options: Any) -> Any:
        self.check()
        asked = Mode(mode)
        asked.validate_bin()
        remote = self._remote(path)
        if not asked.create and self._entry(path).kind == "directory":
            raise errors.FileExpected(path)
        try:
            if asked.reading and not asked.writing:
                return _Read(self._client.open(remote, "rb"))
            return _Changed(self._client, remote, asked)
        except AlreadyExists as error:
            raise errors.FileExists(path) from error
        except IsADirectory as error:
            raise errors.FileExpected(path) from error
        except (NotFound, NotADirectory) as error:
            raise errors.ResourceNotFound(path) from error

    def remove(self, path: str) -> None:
        self.check()
        if self._entry(path).kind == "directory":
            raise errors.FileExpected(path)
        self._client.delete(self._remote(path))

    def removedir(self, path: str) -> None:
        self.check()
        if path in ("", "/"):
            raise errors.RemoveRootError
        if self._entry(path).kind != "directory":
            raise errors.DirectoryExpected(path)
        try:
            self._client.delete(self._remote(path))
        except DirectoryNotEmpty as error:
            raise errors.DirectoryNotEmpty(path) from error

    def setinfo(self, path: str, info: Any) -> None:
        self.check()
        self._entry(path)  # times are the masters', and nothing else is set here


class _Read(io.BufferedReader):
    mode = "rb"


class _Changed(io.BytesIO):
    """A file that may be read and changed anywhere while it is open: kept in memory, stored at close."""

    def __init__(self, client: Client, remote: str, asked: Any) -> None:
        super().__init__()
        self._client, self._remote, self._asked = client, remote, asked
        self.mode = asked.to_platform_bin()
        if asked.exclusive:
            client.create(remote)
        elif not client.exists(remote):
            if not asked.create:
                raise NotFound(remote)
            client.create(remote)
        elif asked.truncate:
            client.create(remote, replace=True)
        else:
            super().write(client.read_bytes(remote))
            self.seek(0, io.SEEK_END if asked.appending else io.SEEK_SET)

    def __del__(self) -> None:
        pass  # what was not closed is not stored: least of all by a collector that runs in the client's loop

    def readable(self) -> bool:
        return bool(self._asked.reading)

    def writable(self) -> bool:
        return bool(self._asked.writing)

    def read(self, size: int | None = -1, /) -> bytes:
        self._may(self._asked.reading)
        return super().read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        self._may(self._asked.reading)
        return super().readline(size)

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        self._may(self._asked.reading)
        return super().readlines(hint)

    def write(self, data: Any, /) -> int:
        self._may(self._asked.writing)
        if self._asked.appending:
            self.seek(0, io.SEEK_END)
        return super().write(data)

    def truncate(self, size: int | None = None, /) -> int:
        here = self.tell()
        wanted = here if size is None else size
        super().truncate(wanted)
        if wanted > (end := self.seek(0, io.SEEK_END)):
            super().write(bytes(wanted - end))  # BytesIO does not fill up
        self.seek(here)
        return wanted

    def _may(self, allowed: bool) -> None:
        if not allowed:
            raise OSError("not open for that")

    def close(self) -> None:
        if not self.closed:
            content = self.getvalue()
            super().close()
            self._client.write_bytes(self._remote, content, atomic=True)


def _info(entry: Entry, name: str | None, namespaces: Collection[str]) -> Info:
    is_directory = entry.kind == "directory"
    raw: dict[str, dict[str, object]] = {
        "basic": {"name": path.basename(entry.path) if name is None else name, "is_dir": is_directory}
    }
    if "details" in namespaces:
        seconds = entry.modified_ms / 1000
        raw["details"] = {
            "_write": [],
            "accessed": seconds,
            "created": entry.created_ms / 1000,
            "metadata_changed": seconds,
            "modified": seconds,
            "size": entry.length_bytes,
            "type": int(ResourceType.directory if is_directory else ResourceType.file),
        }
    return Info(raw)


class TestPyFilesystem(suite.FSTestCases, unittest.TestCase):  # type: ignore[misc]  # as above
    _numbers = itertools.count()

    client: ClassVar[Client]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _connected(cls, one_cluster: list[str]) -> Iterator[None]:
        with gfs.connect(one_cluster) as cls.client:
            yield

    def make_fs(self) -> GfsFS:
        top = f"/fs{next(self._numbers)}"
        self.client.mkdir(top)
        return GfsFS(self.client, top)

    @unittest.skip("times are the masters': they cannot be set")
    def test_settimes(self) -> None: ...

    @unittest.skip("times are the masters': they cannot be set")
    def test_setinfo(self) -> None: ...

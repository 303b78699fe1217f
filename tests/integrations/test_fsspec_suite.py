"""The whole suite that fsspec publishes for its file systems, against a real cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)

from gfs.integrations.fsspec_filesystem import GFSFileSystem


class GFSFixtures(AbstractFixtures):
    @pytest.fixture
    def fs(self, filesystem: GFSFileSystem) -> GFSFileSystem:
        return filesystem

    @pytest.fixture
    def fs_path(self, filesystem: GFSFileSystem) -> Iterator[str]:
        filesystem.mkdir("/suite")
        yield "/suite"
        filesystem.rm("/suite", recursive=True)

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return True


class TestCopy(AbstractCopyTests, GFSFixtures):
    pass


class TestGet(AbstractGetTests, GFSFixtures):
    pass


class TestPut(AbstractPutTests, GFSFixtures):
    pass


class TestPipe(AbstractPipeTests, GFSFixtures):
    pass


class TestOpen(AbstractOpenTests, GFSFixtures):
    pass

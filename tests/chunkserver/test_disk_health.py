"""What a disk's errors mean, and that nobody has to guess why a chunk server refuses writes."""

from __future__ import annotations

import errno

import pytest
from structlog.testing import capture_logs

from gfs.chunkserver import disk_health
from gfs.chunkserver.disk_health import disk_error, undone_on_error
from gfs.errors import NoSpace, Unavailable


def test_a_disk_that_refuses_is_told_in_the_log_but_not_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_health, "_refusals", disk_health._Refusals())
    with capture_logs() as told:
        for _ in range(100):
            assert isinstance(disk_error(OSError(errno.EIO, "Input/output error"), "writing"), Unavailable)
    assert [line["times"] for line in told] == [1, 2, 4, 8, 16, 32, 64]
    assert told[0] | {"event": "the disk refuses", "what": "writing", "log_level": "error"} == told[0]


@pytest.mark.parametrize("number", disk_health.FULL_DISK)
def test_a_full_disk_is_no_broken_one(number: int) -> None:
    with capture_logs() as told, pytest.raises(NoSpace, match="writing: no room"):
        with undone_on_error("writing"):
            raise OSError(number, "no room")
    assert told == []

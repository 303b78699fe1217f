"""What 'gfs top' makes of two looks at a cluster."""

from __future__ import annotations

import msgspec

from gfs.cli.top import activity
from gfs.messages.cluster import ClusterStatusReply


def _server(name: str, free_bytes: int) -> dict[str, object]:
    made: dict[str, object] = {"id": name, "alive": True, "disk_total_bytes": 1000}
    made |= {
        "disk_free_bytes": free_bytes,
        "chunk_count": 3,
        "control": "",
        "data": "",
        "last_heartbeat_seconds": 0.0,
    }
    return made


def _status(applied: int, files: int, *servers: dict[str, object]) -> ClusterStatusReply:
    master = {
        "id": "m1",
        "role": "leader",
        "term": 1,
        "applied_index": applied,
        "control": "",
        "lag_entries": 0,
    }
    whole = {"cluster": "c", "answered_by": "m1", "leader": "m1", "term": 1, "masters": [master]}
    whole |= {"chunkservers": list(servers), "health": "ok", "reasons": [], "files": files}
    return msgspec.convert(whole | {"type": "cluster_status_reply"}, ClusterStatusReply)


def test_rates_are_differences_over_the_time_between() -> None:
    before = _status(100, 10, _server("c1", 900))
    found = activity(before, _status(120, 14, _server("c1", 700), _server("c2", 500)), seconds=2.0)
    assert (found.log_entries_per_second, found.files_per_second) == (10.0, 2.0)
    assert [one.grown_bytes_per_second for one in found.chunkservers] == [100.0, 0.0]


def test_a_leader_that_knows_less_of_the_log_is_no_rate_below_zero() -> None:
    assert activity(_status(100, 0), _status(90, 0), seconds=1.0).log_entries_per_second == 0

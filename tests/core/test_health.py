"""Health in sentences: each names what is wrong, who is meant, and what may still be lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from gfs.master.core.health import ClusterView, RepairOutlook, judge_health
from gfs.master.core.replication_scan import ReplicationCount
from gfs.messages.cluster import ChunkServerStatus, MasterStatus
from gfs.vocabulary import Address, MasterId, ServerId

GIB = 2**30


def master(name: str, role: str = "follower", lag: int = 0) -> MasterStatus:
    return MasterStatus(id=MasterId(name), control=Address(f"{name}:1"), role=role, lag_entries=lag)


def server(name: str, *, alive: bool = True, free: int = 50) -> ChunkServerStatus:
    return ChunkServerStatus(
        id=ServerId(name),
        control=Address("h:1"),
        data=Address("h:2"),
        alive=alive,
        last_heartbeat_seconds=0.2 if alive else 42.0,
        disk_total_bytes=100 * GIB,
        disk_free_bytes=free * GIB,
    )


def judge(
    *,
    masters: tuple[MasterStatus, ...] = (master("m1", "leader"), master("m2"), master("m3")),
    leader: str = "m1",
    servers: tuple[ChunkServerStatus, ...] = (server("s1"), server("s2"), server("s3")),
    goal: int = 3,
    replication: ReplicationCount | None = None,
) -> tuple[str, str]:
    view = ClusterView(masters, MasterId(leader), servers, goal, replication)
    health, reasons = judge_health(view)
    return health, " | ".join(reasons)


def test_sound_cluster_is_ok_without_a_word() -> None:
    assert judge(replication=ReplicationCount(100, 0, 0, 0)) == ("ok", "")


def test_no_quorum_says_how_many_are_there_and_whom_it_waits_for() -> None:
    masters = (master("m1"), master("m2", "unreachable"), master("m3", "unreachable"))
    health, reasons = judge(masters=masters, leader="")
    assert health == "down"
    assert reasons.startswith("no quorum: 1 of 3 masters reachable (m1), waiting for m2, m3")


def test_election_under_way_is_named() -> None:
    health, reasons = judge(leader="")
    assert health == "down" and "no leader: 3 of 3 masters are reachable and are electing one" in reasons


def test_one_master_away_says_that_no_more_may_be_lost() -> None:
    masters = (master("m1", "leader"), master("m2"), master("m3", "unreachable"))
    assert judge(masters=masters) == (
        "degraded",
        "1 master cannot be reached: m3; no further master may be lost",
    )


def test_masters_with_full_disks_are_named_and_are_no_quorum() -> None:
    one = (master("m1", "leader"), master("m2", "disk full"), master("m3"))
    assert judge(masters=one) == (
        "degraded",
        "keeping no new mutations until there is disk space: m2",
    )
    two = (master("m1", "leader"), master("m2", "disk full"), master("m3", "disk full"))
    assert judge(masters=two) == (
        "down",
        "no quorum: of 3 masters only 1 can keep a mutation; free disk space on m2, m3",
    )


def test_master_out_of_service_and_master_behind_are_named_with_what_to_do() -> None:
    retired = msgspec.structs.replace(master("m2", "out of service"), reason="its state differs. Empty it")
    health, reasons = judge(masters=(master("m1", "leader"), retired, master("m3", lag=50_000)))
    assert health == "degraded"
    assert "master m2 is out of service: its state differs. Empty it" in reasons
    assert "master m3 is 50000 log entries behind" in reasons


def test_leader_whose_log_nobody_keeps_means_down_and_names_the_disks() -> None:
    why = "no quorum: only 1 of 3 masters keep what they are sent; waiting for the disks of m2, m3"
    stalled = msgspec.structs.replace(master("m1", "leader"), reason=why)
    health, reasons = judge(masters=(stalled, master("m2"), master("m3")))
    assert health == "down" and reasons.startswith(f"{why}; nothing can be written until they keep up")


def test_refused_master_is_named_and_counts_for_no_quorum() -> None:
    refused = msgspec.structs.replace(master("m2", "refused"), reason="another disk. Run readmit m2")
    health, reasons = judge(masters=(master("m1", "leader"), refused, master("m3")))
    assert health == "degraded"
    assert "master m2 is kept out by the others: another disk. Run readmit m2" in reasons
    health, reasons = judge(masters=(master("m1"), refused, master("m3", "unreachable")), leader="")
    assert health == "down"
    assert reasons.startswith("no quorum: 1 of 3 masters can take part, without m3, m2")


def test_dead_chunk_server_is_named_with_its_silence() -> None:
    health, reasons = judge(servers=(server("s1"), server("s2"), server("s3"), server("s4", alive=False)))
    assert (health, reasons) == ("degraded", "1 chunk server dead: s4 (silent for 42 s)")


def test_no_living_chunk_server_means_down() -> None:
    assert judge(servers=())[0] == "down"
    health, reasons = judge(servers=(server("s1", alive=False),), goal=1)
    assert health == "down" and "none of 1 chunk server is alive" in reasons


def test_missing_replicas_are_counted_worst_first() -> None:
    health, reasons = judge(replication=ReplicationCount(chunks=100, short=9, lonely=3, lost=1))
    assert health == "degraded"
    assert "1 chunk of 100 cannot be read" in reasons
    assert "3 chunks of 100 down to the last living replica" in reasons
    assert "5 chunks of 100 with a replica missing" in reasons


def test_goal_above_the_servers_is_said_but_is_no_fault() -> None:
    health, reasons = judge(servers=(server("s1"),), goal=3)
    assert health == "ok" and "goal is 3, but there is no more than 1 chunk server" in reasons


def test_nearly_full_disk_is_named() -> None:
    health, reasons = judge(servers=(server("s1"), server("s2"), server("s3", free=2)))
    assert health == "degraded" and "disk of chunk server s3 is nearly full: 2048 MiB free" in reasons


def test_a_small_disk_that_takes_no_new_chunks_is_no_sound_one() -> None:
    small = msgspec.structs.replace(server("s1"), disk_total_bytes=GIB, disk_free_bytes=100 * 2**20)
    health, [reason] = words(chunkservers=(small,))
    assert health == "degraded" and reason.endswith("nearly full: 100 MiB free; it gets no new chunks")


def words(**facts: Any) -> tuple[str, list[str]]:  # Any: fields of ClusterView
    view = ClusterView((master("m1", "leader"),), MasterId("m1"), (server("s1"),), 1, None)
    return judge_health(replace(view, **facts))


def test_work_under_way_is_told_and_is_no_fault() -> None:
    drained = msgspec.structs.replace(server("s2"), tenure="draining")
    outlook = RepairOutlook(2, 7, 0, 31.4, left={ServerId("s2"): 9})
    health, reasons = words(
        chunkservers=(server("s1"), drained),
        damaged_replicas=1,
        snapshots=(("/a", "/b"),),
        repair=outlook,
    )
    assert health == "ok"
    assert reasons == [
        "1 damaged replica found: not read from, and deleted once the chunk has a good copy in its place",
        "replicas are being made or moved: 2 under way, 7 waiting, done in about 31 s",
        "chunk server s2 is being emptied, 9 replicas left",
        "a snapshot of /a is being made at /b; until then neither can be changed",
    ]


def test_chunks_that_can_get_no_replica_are_told_with_the_reason_and_no_end() -> None:
    [reason] = words(repair=RepairOutlook(0, 0, 3, None, why="one more server is needed"))[1]
    assert reason.startswith("3 chunks cannot be given a replica for now: one more server is needed; see")


def test_an_emptied_server_is_told_with_the_command_that_lets_it_go() -> None:
    drained = msgspec.structs.replace(server("s1"), tenure="draining")
    outlook = RepairOutlook(0, 0, 0, None, left={ServerId("s1"): 0})
    [reason] = words(chunkservers=(drained,), repair=outlook)[1]
    assert reason == "chunk server s1 is empty: let it go with 'gfs admin chunkservers remove s1'"
    [reason] = words(chunkservers=(drained,))[1]
    assert reason == "chunk server s1 is being emptied"  # only the leader knows how much is left


def test_of_many_snapshots_some_are_named() -> None:
    reasons = words(snapshots=tuple((f"/a{n}", f"/b{n}") for n in range(5)))[1]
    assert len(reasons) == 4 and reasons[-1] == "2 more snapshots under way"

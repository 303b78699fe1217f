"""A master whose state differs from the majority's is out of service, gets a new state, and comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gfs.errors import GfsError, NotFound, NotLeader, Unavailable
from gfs.master.core.records import id_key
from gfs.master.core.tables import Table
from gfs.master.lmdb_tables import LmdbTables
from gfs.master.process import CHECKPOINT_DIRECTORY, Master
from gfs.master.quarantine import QUARANTINE_FILE, Conviction
from gfs.master.state_machine import EVIDENCE_FILE, STATE_FILE
from gfs.messages.cluster import (
    ClusterStatus,
    ClusterStatusReply,
    CompareStates,
    CompareStatesReply,
    StateDigestReply,
    TakeCheckpoint,
)
from gfs.messages.methods import DIGEST_REQUESTS
from gfs.messages.namespace import EntryReply, MakeDirectory, MutationReply, Stat
from gfs.messages.operations import LogRecord
from gfs.messages.operations import MakeDirectory as LoggedDirectory
from gfs.vocabulary import LogIndex, MasterId
from tests.master.test_process import Cluster
from tests.waiting import eventually, until


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    made = Cluster(tmp_path, 3)
    yield made
    await made.stop()


def go_astray(master: Master) -> None:
    """As if apply() had not been deterministic: one directory more, and the digest knows it."""
    state = master._state.state
    record = LogRecord(at_ms=1, operation=LoggedDirectory(path="/ghost"))
    state.apply(record, index=LogIndex(10**6))


async def mkdir(cluster: Cluster, path: str) -> int:
    async def made() -> int | None:
        leader = await cluster.leader()
        try:
            reply = await cluster.caller.call(
                leader.address, MakeDirectory(path=path, parents=True), MutationReply, deadline_seconds=5.0
            )
        except GfsError:
            return None
        return reply.applied_index

    return await eventually(made, f"{path} is made")


async def exists(cluster: Cluster, master: Master, path: str) -> bool:
    """As this master has it, whatever its age."""
    request = Stat(path=path, consistency="stale")
    try:
        await cluster.caller.call(master.address, request, EntryReply, deadline_seconds=5.0)
    except NotFound:
        return False
    return True


def reasons_of(master: Master) -> list[str]:
    """Fills with what the master says of its quarantine."""
    heard: list[str] = []
    report = master.standing.report_untrusted

    def listen(reason: str, *, step: str) -> None:
        heard.append(reason)
        report(reason, step=step)

    master.standing.report_untrusted = listen  # type: ignore[method-assign]
    return heard


async def compare(cluster: Cluster, trust: str = "") -> CompareStatesReply:
    """Asked of whoever leads the log, whether or not it may answer clients."""

    async def answered() -> CompareStatesReply | None:
        for master in cluster.masters.values():
            request = CompareStates(trust=MasterId(trust))
            try:
                return await cluster.caller.call(
                    master.address, request, CompareStatesReply, deadline_seconds=10.0
                )
            except GfsError:
                continue
        return None

    return await eventually(answered, "the masters compare their states")


async def role_of(cluster: Cluster, name: str, *, asked: Master | None = None) -> tuple[str, str]:
    master = asked or cluster.masters[name]
    status = await cluster.caller.call(
        master.address, ClusterStatus(), ClusterStatusReply, deadline_seconds=5.0
    )
    return next((m.role, m.reason) for m in status.masters if m.id == name)


async def until_back(cluster: Cluster, name: str) -> None:
    async def back() -> bool:
        master = cluster.masters[name]
        return not master.standing.reason and master.readiness()[0]

    await until(back, f"{name} serves again")


async def until_heard(heard: list[str]) -> None:
    async def some() -> bool:
        return bool(heard)

    await until(some, "the master hears the verdict")


def verdicts(found: CompareStatesReply) -> dict[str, str]:
    return {row.id: row.verdict for row in found.masters}


async def test_equal_masters_are_found_equal(cluster: Cluster) -> None:
    await cluster.start_all()
    await mkdir(cluster, "/d")
    found = await compare(cluster)
    assert verdicts(found) == {"m1": "equal", "m2": "equal", "m3": "equal"}
    assert (found.agreed, found.voters, found.split) == (3, 3, False)
    assert set((await cluster.leader()).services._digests.handlers()) == set(DIGEST_REQUESTS)


async def test_follower_astray_is_out_of_service_until_it_has_the_leaders_state(cluster: Cluster) -> None:
    await cluster.start_all()
    await mkdir(cluster, "/d")
    leader = await cluster.leader()
    name, odd = next((n, m) for n, m in cluster.masters.items() if m is not leader)
    await cluster.caller.call(odd.address, TakeCheckpoint(), StateDigestReply, deadline_seconds=5.0)
    go_astray(odd)
    await mkdir(cluster, "/e")

    async def serves_it() -> bool:
        return await exists(cluster, odd, "/ghost")

    await until(serves_it, "it serves what is nowhere else")

    heard = reasons_of(odd)
    found = await compare(cluster)
    assert verdicts(found)[name] == "differs" and found.agreed == 2
    await until_heard(heard)
    await until_back(cluster, name)
    assert "differs from the other masters'" in heard[0]
    assert not await exists(cluster, odd, "/ghost")
    assert await exists(cluster, odd, "/e")

    async def all_equal() -> bool:
        return set(verdicts(await compare(cluster)).values()) == {"equal"}

    await until(all_equal, "all are compared and equal")
    place = cluster.directory / name
    assert not (place / QUARANTINE_FILE).exists()
    assert (place / EVIDENCE_FILE).exists(), "what it had is kept to be looked at"


async def test_leader_astray_is_outvoted_and_steps_down(cluster: Cluster) -> None:
    await cluster.start_all()
    await mkdir(cluster, "/d")
    odd = await cluster.leader()
    name = next(n for n, m in cluster.masters.items() if m is odd)
    go_astray(odd)
    await mkdir(cluster, "/e")
    found = await compare(cluster)
    assert verdicts(found)[name] == "differs" and found.agreed == 2

    async def another() -> Master | None:
        return next((m for m in cluster.masters.values() if m is not odd and m.is_leading), None)

    await eventually(another, "a master with the right state leads")
    await until_back(cluster, name)
    index = await mkdir(cluster, "/f")
    await cluster.until_applied(index)
    for master in cluster.masters.values():
        assert not await exists(cluster, master, "/ghost")
        assert await exists(cluster, master, "/f")


async def test_copy_of_a_wrong_leaders_state_does_not_outvote_the_right_one(cluster: Cluster) -> None:
    await cluster.start_all()
    await mkdir(cluster, "/d")
    leader = await cluster.leader()
    copy = next(master for master in cluster.masters.values() if master is not leader)
    go_astray(leader)
    go_astray(copy)
    copy._quarantine._note_replaced()  # as if it had got all that in a checkpoint of the leader's
    await mkdir(cluster, "/e")
    assert copy.readiness()[0], "it serves"
    found = await compare(cluster)
    assert found.split and found.agreed == 0
    heard = reasons_of(copy)
    await compare(cluster, trust=next(n for n, m in cluster.masters.items() if m not in (leader, copy)))
    await until_heard(heard)
    for name in cluster.masters:
        await until_back(cluster, name)
    for master in cluster.masters.values():
        assert not await exists(cluster, master, "/ghost")
        assert not master._quarantine.is_copy


async def test_row_changed_while_a_master_was_stopped_is_found_after_its_start(cluster: Cluster) -> None:
    await cluster.start_all()
    index = await mkdir(cluster, "/d")
    await cluster.until_applied(index)
    leader = await cluster.leader()
    name = next(n for n, m in cluster.masters.items() if m is not leader)
    await cluster.masters[name].stop()
    tables = LmdbTables(str(cluster.directory / name / STATE_FILE), bytes_max=2**26)
    entry = next(iter(tables.scan(Table.DENTRIES)))
    tables.delete(Table.DENTRIES, entry[0])
    tables.put(Table.DENTRIES, id_key(1) + b"ghost", entry[1])
    tables.commit()
    tables.close()
    odd = await cluster.start(name)

    async def convicted() -> bool:
        return bool(odd.standing.reason) or (cluster.directory / name / EVIDENCE_FILE).exists()

    await until(convicted, "its rows are read")
    await until_back(cluster, name)
    assert await exists(cluster, odd, "/d")
    assert not await exists(cluster, odd, "/ghost")


async def test_quarantined_master_keeps_its_log_and_makes_no_checkpoint(cluster: Cluster) -> None:
    """The other follower is lost while it is quarantined: its acknowledgements still make the majority."""
    await cluster.start_all()
    await mkdir(cluster, "/d")
    leader = await cluster.leader()
    others = [name for name, master in cluster.masters.items() if master is not leader]
    place = cluster.directory / others[0]
    await cluster.masters[others[0]].stop()
    conviction = Conviction(format=1, phase="diverged", index=2, reason="its state differs: a test")
    (place / QUARANTINE_FILE).write_bytes(msgspec.json.encode(conviction))
    leader._node.parts.checkpointing.offer_later_than = lambda member, index_min: None  # type: ignore[method-assign]
    odd = await cluster.start(others[0])
    await cluster.masters.pop(others[1]).stop()
    await mkdir(cluster, "/while one is quarantined and one is away")
    role, reason = await role_of(cluster, others[0], asked=leader)
    assert role == "quarantined" and "a test" in reason and "diverged.lmdb" in reason
    assert odd.readiness()[0] is False
    with pytest.raises(Unavailable, match="quarantined"):
        await exists(cluster, odd, "/")
    with pytest.raises(Unavailable, match="quarantined"):
        await cluster.caller.call(odd.address, TakeCheckpoint(), StateDigestReply, deadline_seconds=5.0)
    assert "gfs_quarantined 1.0" in odd.metrics.exposition().decode()
    assert not [f for f in (place / CHECKPOINT_DIRECTORY).iterdir() if f.suffix == ".manifest"]
    del leader._node.parts.checkpointing.offer_later_than

    async def healed() -> bool:
        return odd.standing.untrusted and not odd._node.state_wanted

    await until(healed, "it takes the leader's state, but one of three cannot confirm it")
    await cluster.start(others[1])
    await until_back(cluster, others[0])


async def test_two_masters_that_differ_serve_nothing_until_an_operator_says_who_is_right(
    tmp_path: Path,
) -> None:
    cluster = Cluster(tmp_path, 2)
    await cluster.start_all()
    await mkdir(cluster, "/d")
    leader = await cluster.leader()
    wrong = next(name for name, master in cluster.masters.items() if master is leader)
    right = next(name for name, master in cluster.masters.items() if master is not leader)
    go_astray(leader)
    await mkdir(cluster, "/e")
    found = await compare(cluster)
    assert found.split

    async def all_doubt() -> bool:
        return all(master.standing.untrusted for master in cluster.masters.values())

    await until(all_doubt, "nobody serves")
    for master in cluster.masters.values():
        with pytest.raises(Unavailable, match="none has a majority"):
            await exists(cluster, master, "/d")
        with pytest.raises((Unavailable, NotLeader)):
            request = MakeDirectory(path="/written in doubt")
            await cluster.caller.call(master.address, request, MutationReply, deadline_seconds=5.0)
    status = await cluster.caller.call(
        leader.address, ClusterStatus(), ClusterStatusReply, deadline_seconds=5.0
    )
    assert status.health == "down" and "gfs admin compare --trust" in " ".join(status.reasons)
    await cluster.masters[right].stop()
    await cluster.start(right)
    assert cluster.masters[right].standing.untrusted, "a restart is no acquittal"

    assert (await compare(cluster, trust=right)).agreed == 1
    await until_back(cluster, right)
    await until_back(cluster, wrong)
    assert not await exists(cluster, cluster.masters[wrong], "/ghost")
    await mkdir(cluster, "/f")
    for master in cluster.masters.values():
        assert not await exists(cluster, master, "/written in doubt")
    await cluster.stop()


async def test_master_that_comes_back_ends_a_split(cluster: Cluster) -> None:
    await cluster.start_all()
    index = await mkdir(cluster, "/d")
    await cluster.until_applied(index)
    leader = await cluster.leader()
    away, odd = (name for name, master in cluster.masters.items() if master is not leader)
    await cluster.masters.pop(away).stop()
    go_astray(cluster.masters[odd])
    heard = reasons_of(cluster.masters[odd])
    assert (await compare(cluster)).split
    await until_heard(heard)
    await cluster.start(away)
    for name in (away, odd, *cluster.masters):
        await until_back(cluster, name)
    for master in cluster.masters.values():
        assert not await exists(cluster, master, "/ghost")


async def test_single_master_with_changed_rows_serves_nothing_until_told_to(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 1)
    await cluster.start_all()
    await mkdir(cluster, "/d")
    await cluster.masters["m1"].stop()
    tables = LmdbTables(str(tmp_path / "m1" / STATE_FILE), bytes_max=2**26)
    key, row = next(iter(tables.scan(Table.DENTRIES)))
    tables.put(Table.DENTRIES, key + b"x", row)
    tables.commit()
    tables.close()
    master = await cluster.start("m1")

    async def doubts() -> bool:
        return master.standing.untrusted

    await until(doubts, "it doubts itself")
    with pytest.raises(Unavailable, match="not those of the digest"):
        await exists(cluster, master, "/d")
    await compare(cluster, trust="m1")
    await until_back(cluster, "m1")
    await cluster.stop()

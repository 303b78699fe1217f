"""What is seen of real programs: each grant once, none told of too late, nothing that is guessed."""

from __future__ import annotations

import time
from typing import Any, TypeVar

from chaos.sightings import Sightings
from gfs.errors import Unavailable
from gfs.messages.base import Reply, Request
from gfs.messages.cluster import (
    ChunkServerStatus,
    ClusterStatus,
    ClusterStatusReply,
    MasterStatus,
    StateDigest,
    StateDigestReply,
)
from gfs.messages.diagnosis import EventPage, EventRecord, ReadEvents, ReadRpcLog, RpcLogPage, RpcRecord
from gfs.verification.history import History
from gfs.verification.recorder import Recorder
from gfs.vocabulary import Address, ClusterId, MasterId, ServerId, Term

R = TypeVar("R", bound=Reply)
MASTER, SERVER = Address("127.0.0.1:1"), Address("127.0.0.1:2")
SET = [["id-c1", SERVER, "127.0.0.1:3", ""]]


class Programs:
    """One master and one chunk server that answer from lists; an RpcCaller."""

    def __init__(self) -> None:
        self.calls: dict[Address, list[RpcRecord]] = {MASTER: [], SERVER: []}
        self.events: list[EventRecord] = []
        self.dropped = 0
        self.down = False

    async def call(
        self, address: Address, request: Request, expected: type[R], *, deadline_seconds: float
    ) -> R:
        if self.down:
            raise Unavailable("it is down")
        answer = self._answer(address, request)
        assert isinstance(answer, expected)
        return answer

    def _answer(self, address: Address, request: Request) -> Reply:
        match request:
            case ClusterStatus():
                me = MasterStatus(id=MasterId("m1"), control=MASTER, role="leader", term=Term(3))
                server = ChunkServerStatus(id=ServerId("id-c1"), control=SERVER, data=Address("127.0.0.1:3"))
                return ClusterStatusReply(
                    cluster=ClusterId("c"),
                    answered_by=MasterId("m1"),
                    leader=MasterId("m1"),
                    term=Term(3),
                    masters=[me],
                    chunkservers=[server],
                    health="ok",
                    reasons=[],
                )
            case StateDigest():
                return StateDigestReply(applied_index=7, digest="d7")
            case ReadRpcLog():
                calls = self.calls[address]
                some = calls[request.after : request.after + 1]  # a page holds one record
                after = request.after + len(some)
                return RpcLogPage(
                    node="", records=some, next_after=after, more=after < len(calls), dropped=self.dropped
                )
            case ReadEvents():
                some_events = self.events[request.after :]
                return EventPage(node="", records=some_events, next_after=request.after + len(some_events))
        raise AssertionError(request)

    async def close(self) -> None: ...


def record(method: str, *, code: str = "ok", request: Any = None, reply: Any = None) -> RpcRecord:
    now = time.time_ns() // 1000
    return RpcRecord(
        at_us=now, method=method, trace="", peer="", code=code, seconds=0.0, request=request, reply=reply
    )


def bump(version: int, primary: str = "id-c1", code: str = "ok") -> RpcRecord:
    return record(
        "bump", code=code, request={"handle": 9, "version": version, "primary": primary, "replicas": SET}
    )


def lease(version: int, primary: str = "id-c1") -> RpcRecord:
    return record(
        "acquire_lease", reply={"handle": 9, "version": version, "primary": primary, "replicas": SET}
    )


async def seen(programs: Programs) -> list[tuple[str, str, dict[str, Any]]]:
    history = History()
    clock = time.monotonic_ns()
    recorder = Recorder(history, lambda: time.monotonic_ns() - clock)
    watching = Sightings(programs, lambda: {"m1": MASTER}, lambda: {"c1": SERVER}, recorder)
    await watching._look_at("m1", MASTER)
    await watching._read_logs()
    programs.down = True
    await watching._look_at("m1", MASTER)
    await watching._read_logs()
    programs.down = False
    await watching._read_logs()
    return [(s.node, s.what, s.values) for s in history.sightings]


def grants(found: list[tuple[str, str, dict[str, Any]]]) -> list[tuple[int, str]]:
    return [(values["version"], values["primary"]) for _, what, values in found if what == "granted"]


async def test_roles_and_states_are_told_when_they_change_and_when_a_master_is_silent() -> None:
    found = await seen(Programs())
    roles = [(node, values["role"], values["term"]) for node, what, values in found if what == "role"]
    assert roles == [("m1", "leader", 3), ("m1", "down", 0)]
    assert ("m1", "state", {"index": 7, "digest": "d7"}) in found


async def test_a_grant_is_told_once_with_names_of_nodes_whoever_tells_of_it() -> None:
    programs = Programs()
    programs.calls[SERVER] = [bump(1), bump(1), bump(2, primary="")]
    programs.calls[MASTER] = [lease(1), lease(1)]
    found = await seen(programs)
    assert grants(found) == [(1, "c1"), (2, "")]
    assert [values["version"] for _, what, values in found if what == "raised"] == [1, 1, 2]
    assert all(values["replicas"] == ["c1"] for _, what, values in found if what == "granted")


async def test_two_primaries_of_one_version_are_both_told() -> None:
    programs = Programs()
    programs.calls[SERVER] = [bump(1), bump(1, primary="id-c2")]
    assert grants(await seen(programs)) == [(1, "c1"), (1, "id-c2")]


async def test_a_grant_that_a_log_tells_of_after_a_newer_one_is_left_out() -> None:
    programs = Programs()
    programs.calls[MASTER] = [lease(3), lease(2)]
    assert grants(await seen(programs)) == [(3, "c1")]


async def test_a_bump_that_was_refused_or_whose_answer_was_lost_is_not_told() -> None:
    programs = Programs()
    programs.calls[SERVER] = [bump(1, code="stale_version"), bump(2, code="cancelled")]
    found = await seen(programs)
    assert not grants(found) and not [what for _, what, _ in found if what == "raised"]


async def test_a_deletion_is_told_with_the_version_that_was_meant() -> None:
    programs = Programs()
    fields = {"chunk": "1f", "named_version": 4}
    programs.events = [
        EventRecord(
            at_us=1, level="info", room="", event="replica deleted on the leader's word", fields=fields
        ),
        EventRecord(at_us=1, level="info", room="", event="something else", fields={}),
    ]
    found = await seen(programs)
    assert [one for one in found if one[1] == "deleted"] == [("c1", "deleted", {"chunk": 0x1F, "version": 4})]


async def test_what_a_program_could_not_keep_is_told() -> None:
    programs = Programs()
    programs.dropped = 5
    programs.calls[SERVER] = [record("bump", request=None)]
    unseen = [
        values["records"] for node, what, values in await seen(programs) if what == "unseen" and node == "c1"
    ]
    assert sorted(unseen) == [1, 5]

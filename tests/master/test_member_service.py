"""Members as an operator sees and changes them: who is listed, what is refused, what a repeat finds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gfs.client.core.retry_plan import may_pass
from gfs.errors import (
    AlreadyExists,
    DeadlineExceeded,
    GfsError,
    InvalidArgument,
    NotFound,
    NotLeader,
    PartlyDone,
    Superseded,
    WrongCluster,
)
from gfs.master.member_service import ANSWER_SECONDS, TOLD_SECONDS_MAX
from gfs.master.replication.replicator import Member
from gfs.messages.cluster import ClusterStatus, ClusterStatusReply
from gfs.messages.heartbeat import HeartbeatReply
from gfs.messages.members import (
    AddMember,
    FindMasters,
    ListMembers,
    MastersReply,
    MemberChangeReply,
    MembersReply,
    RemoveMember,
    TransferLeadership,
)
from gfs.messages.methods import MEMBER_REQUESTS
from gfs.messages.namespace import EntryReply, Stat
from gfs.vocabulary import Address, MasterId, ServerId
from tests.fakes.replicator import member_at
from tests.master.lease_world import FakeMaster, LeaseWorld


async def world(masters: int = 3, **kind: bool) -> LeaseWorld:
    return await LeaseWorld(masters=masters, **kind).start()  # type: ignore[arg-type]


def newcomer(here: LeaseWorld, name: str, part: str = "stranger") -> FakeMaster:
    """A master that runs and is in nobody's configuration."""
    found = FakeMaster(here, name, [*here.masters], goal=3, servers=4)
    found.replicator.part = part
    return found


async def add(here: LeaseWorld, name: str, *, control: str = "", raft: str = "") -> MemberChangeReply:
    request = AddMember(
        member=MasterId(name), control=Address(control or f"{name}:1"), raft=Address(raft or f"{name}:2")
    )
    return await here.call(request, MemberChangeReply)


async def remove(here: LeaseWorld, name: str) -> MemberChangeReply:
    return await here.call(RemoveMember(member=MasterId(name)), MemberChangeReply)


async def listed(here: LeaseWorld, master: str = "") -> MembersReply:
    return await here.call(ListMembers(), MembersReply, master=master)


async def test_every_request_of_members_has_a_handler() -> None:
    here = await world()
    assert set(here.leader.members.handlers()) == set(MEMBER_REQUESTS)


class TestListing:
    async def test_who_leads_who_votes_and_how_many_more_may_fail(self) -> None:
        here = await world()
        found = await listed(here)
        assert [(row.id, row.role, row.voter) for row in found.members] == [
            ("m1", "leader", True),
            ("m2", "follower", True),
            ("m3", "follower", True),
        ]
        assert (found.leader, found.spare) == ("m1", 1)
        assert found.notes == ["3 of 3 voters take part: 1 more may fail"]

    async def test_any_master_lists_them_and_one_that_is_dead_is_unreachable(self) -> None:
        here = await world()
        await here.network.servers[Address("m3:1")].stop()
        found = await listed(here, "m2")
        assert [row.role for row in found.members] == ["leader", "follower", "unreachable"]
        assert (found.answered_by, found.leader, found.spare) == ("m2", "m1", 0)

    async def test_a_learner_counts_in_no_quorum(self) -> None:
        here = await world()
        newcomer(here, "m4", part="")
        here.log.configure([*here.log.configuration, member_at("m4")._replace(voter=False)])
        found = await listed(here)
        assert [(row.role, row.voter) for row in found.members][3] == ("learner", False)
        assert found.spare == 1 and "m4 is a learner" in " ".join(found.notes)
        status = await here.call(ClusterStatus(), ClusterStatusReply)
        assert [m.role for m in status.masters][3] == "learner"
        assert status.health == "ok" and "m4 is a learner" in " ".join(status.reasons)
        await here.network.servers[Address("m4:1")].stop()
        status = await here.call(ClusterStatus(), ClusterStatusReply)
        assert status.health == "ok"  # a learner that is away costs nothing


class TestAdding:
    async def test_a_waiting_master_becomes_a_voter_that_everybody_is_told_of(self) -> None:
        here = await world()
        m4 = newcomer(here, "m4")
        found = await here.call(ClusterStatus(alone=True), ClusterStatusReply, master="m4")
        assert found.masters[0].role == "waiting"
        assert "gfs admin members add m4 --control m4:1 --raft m4:2" in found.masters[0].reason
        done = await add(here, "m4")
        assert done.done and done.state == "m4 is a voter"
        m4.replicator.part = ""
        assert [row.id for row in (await listed(here)).members] == ["m1", "m2", "m3", "m4"]
        reply = await here.call(here.servers[ServerId("s1")].heartbeat(), HeartbeatReply)
        assert reply.masters == ["m1:1", "m2:1", "m3:1", "m4:1"]
        masters = await here.call(FindMasters(), MastersReply, master="m2")
        assert masters.masters == reply.masters and not masters.is_leader

    async def test_whoever_stops_the_old_masters_as_soon_as_it_is_in_leaves_no_chunk_server_behind(
        self,
    ) -> None:
        here = await world(1)
        await here.heartbeats()
        newcomer(here, "m4")
        adding = asyncio.ensure_future(add(here, "m4"))
        await here.clock.advance(0.5)
        assert [member.id for member in here.log.configuration] == ["m1", "m4"] and not adding.done()
        await here.heartbeats()
        assert (await adding).done
        assert here.clock.monotonic() - here.leader.locations.servers()[0].heard_at < TOLD_SECONDS_MAX / 2

    async def test_a_chunk_server_that_is_silent_holds_nothing_up(self) -> None:
        here = await world(1)
        await here.heartbeats()
        newcomer(here, "m4")
        assert (await add(here, "m4")).done

    async def test_adding_it_again_finds_it_done(self) -> None:
        here = await world()
        newcomer(here, "m4")
        await add(here, "m4")
        await here.network.servers[Address("m4:1")].stop()
        assert (await add(here, "m4")).done

    async def test_a_change_that_takes_long_is_answered_with_how_far_it_is_and_goes_on(self) -> None:
        here = await world()
        newcomer(here, "m4", part="stranger")
        caught_up, adding = asyncio.Event(), here.leader.replicator.add_member
        begun: list[Member] = []

        async def slow(member: Member) -> None:
            begun.append(member)
            here.log.configure([*here.log.configuration, member._replace(voter=False)])
            await caught_up.wait()
            await adding(member)

        here.leader.replicator.add_member = slow  # type: ignore[method-assign]
        started = here.clock.monotonic()
        first = await add(here, "m4")
        assert not first.done and "m4 is a learner" in first.state
        assert here.clock.monotonic() - started < ANSWER_SECONDS + 1
        caught_up.set()
        second = await add(here, "m4")
        assert second.done and begun == [member_at("m4")]  # one change, whoever asks how often

    async def test_a_learner_that_does_not_catch_up_ends_the_command_with_a_clear_word(self) -> None:
        here = await world()
        newcomer(here, "m4")

        async def stuck(member: Member) -> None:
            here.log.configure([*here.log.configuration, member._replace(voter=False)])
            raise DeadlineExceeded("m4 is 7 entries behind: it stays a learner", hint="See its log.")

        here.leader.replicator.add_member = stuck  # type: ignore[method-assign]
        with pytest.raises(PartlyDone, match="stays a learner") as raised:
            await add(here, "m4")
        assert not may_pass(raised.value)  # or clients would try it for ever

    async def test_a_learner_is_removed_although_it_is_being_added(self) -> None:
        here = await world()
        newcomer(here, "m4")

        async def for_ever(member: Member) -> None:
            here.log.configure([*here.log.configuration, member._replace(voter=False)])
            await asyncio.get_running_loop().create_future()

        here.leader.replicator.add_member = for_ever  # type: ignore[method-assign]
        assert not (await add(here, "m4")).done
        adding = asyncio.ensure_future(add(here, "m4"))
        await here.clock.advance(0.5)
        assert (await remove(here, "m4")).done
        with pytest.raises(Superseded, match="m4 is to be removed"):
            await adding
        assert [member.id for member in here.log.configuration] == ["m1", "m2", "m3"]

    async def test_a_new_leader_goes_on_with_a_learner(self) -> None:
        here = await world()
        newcomer(here, "m4", part="")
        here.log.configure([*here.log.configuration, member_at("m4")._replace(voter=False)])
        await here.crash_leader()
        assert (await add(here, "m4")).done

    @pytest.mark.parametrize(
        ("name", "addresses", "error", "words"),
        [
            ("M4", {}, InvalidArgument, "is no id"),
            ("m4", {"control": "m4"}, InvalidArgument, "'m4' is not host:port"),
            ("m4", {"raft": "m4:1"}, InvalidArgument, "m4:1 is given twice"),
            ("m4", {"raft": "m2:2"}, AlreadyExists, "m2:2 is the address of m2"),
            ("m2", {"control": "m4:1"}, AlreadyExists, "m2 is a member already, at m2:1"),
            ("m4", {}, NotFound, "no master m4 answers at m4:1"),
            ("m4", {"control": "x:1"}, InvalidArgument, "the master at x:1 is x, not m4"),
        ],
    )
    async def test_what_cannot_be_added(
        self, name: str, addresses: dict[str, str], error: type[GfsError], words: str
    ) -> None:
        here = await world()
        newcomer(here, "x")
        with pytest.raises(error, match=words) as raised:
            await add(here, name, **addresses)
        assert raised.value.definite
        assert len(here.log.configuration) == 3

    async def test_a_removed_master_must_begin_with_an_empty_directory(self) -> None:
        here = await world()
        newcomer(here, "m4", part="removed")
        with pytest.raises(InvalidArgument, match="m4 was removed") as raised:
            await add(here, "m4")
        assert "empty its directory" in raised.value.hint

    async def test_a_master_that_began_a_cluster_of_its_own_is_not_taken_in(self) -> None:
        here = await world()
        newcomer(here, "m4", part="voter")
        with pytest.raises(InvalidArgument, match="m4 does not wait to be added") as raised:
            await add(here, "m4")
        assert "joins = true" in raised.value.hint

    async def test_a_cluster_without_a_secret_says_so_before_anything_is_changed(self) -> None:
        here = await world(1, has_secret=False)
        newcomer(here, "m4")
        with pytest.raises(InvalidArgument, match="secret_file"):
            await add(here, "m4")

    async def test_a_program_of_another_cluster_is_not_taken_in(self) -> None:
        here = await world()

        async def foreign(_request: object, _context: object) -> ClusterStatusReply:
            raise WrongCluster("this is another cluster")

        here.network.server("m4:1", {ClusterStatus: foreign}, name="m4", role="master")
        with pytest.raises(WrongCluster):
            await add(here, "m4")


class TestRemoving:
    async def test_a_follower_goes_and_everybody_is_told(self) -> None:
        here = await world()
        assert (await remove(here, "m3")).done
        reply = await here.call(here.servers[ServerId("s1")].heartbeat(), HeartbeatReply)
        assert reply.masters == ["m1:1", "m2:1"]
        assert (await remove(here, "m3")).state == "m3 is no member"  # as after a lost answer

    async def test_the_leader_hands_over_and_the_next_one_removes_it(self) -> None:
        here = await world()
        with pytest.raises(NotLeader) as raised:
            await remove(here, "m1")
        assert raised.value.details["leader"] == "m2:1"
        here.leader = here.masters["m2"]
        assert (await remove(here, "m1")).done

    @pytest.mark.parametrize("masters", [1, 3])
    async def test_a_removal_that_would_end_all_writing_is_refused(self, masters: int) -> None:
        here = await world(masters)
        victim = "m1"
        if masters == 3:
            await here.network.servers[Address("m3:1")].stop()
            victim = "m2"
        with pytest.raises(InvalidArgument, match=f"{victim} cannot be removed"):
            await remove(here, victim)
        assert len(here.log.configuration) == masters

    async def test_a_removed_master_answers_no_reads_and_sends_everybody_to_the_others(self) -> None:
        here = await world()
        await remove(here, "m3")
        here.masters["m3"].replicator.part = "removed"
        for consistency in ("stale", "session", "linearizable"):
            with pytest.raises(NotLeader, match="m3 was removed from the cluster") as raised:
                await here.call(Stat(path="/f", consistency=consistency), EntryReply, master="m3")  # type: ignore[arg-type]
            assert raised.value.details["masters"] == "m1:1,m2:1"
        found = await here.call(ClusterStatus(alone=True), ClusterStatusReply, master="m3")
        assert found.masters[0].role == "removed" and "stop it" in found.masters[0].reason


class TestHandingOver:
    async def hand_over(self, here: LeaseWorld, source: str, target: str = "") -> MemberChangeReply:
        request = TransferLeadership(source=MasterId(source), target=MasterId(target))
        return await here.call(request, MemberChangeReply)

    async def test_the_one_that_is_named_leads(self) -> None:
        here = await world()
        assert (await self.hand_over(here, "m1", "m3")).state == "m3 leads"
        assert here.log.leader is here.masters["m3"].replicator

    async def test_a_repeat_at_the_new_leader_does_not_hand_on(self) -> None:
        here = await world()
        await self.hand_over(here, "m1")
        here.leader = here.masters["m2"]
        assert (await self.hand_over(here, "m1")).state == "m2 leads"
        assert here.log.leader is here.masters["m2"].replicator

    @pytest.mark.parametrize("target", ["m9", "m4"])
    async def test_who_is_no_voter_cannot_lead(self, target: str) -> None:
        here = await world()
        here.log.configure([*here.log.configuration, member_at("m4")._replace(voter=False)])
        with pytest.raises(InvalidArgument, match=f"{target} is no voter"):
            await self.hand_over(here, "m1", target)

    async def test_a_single_master_has_nobody_to_hand_over_to(self) -> None:
        here = await world(1)
        with pytest.raises(InvalidArgument, match="no other voter"):
            await self.hand_over(here, "m1")


@pytest.mark.parametrize(
    "request_of",
    [
        lambda: AddMember(member=MasterId("m4"), control=Address("m4:1"), raft=Address("m4:2")),
        lambda: RemoveMember(member=MasterId("m2")),
        lambda: TransferLeadership(source=MasterId("m1")),
    ],
)
async def test_a_follower_names_the_leader_and_all_masters(request_of: Callable[[], AddMember]) -> None:
    here = await world()
    with pytest.raises(NotLeader) as raised:
        await here.call(request_of(), MemberChangeReply, master="m2")
    assert raised.value.details["leader"] == "m1:1"
    assert raised.value.details["masters"] == "m1:1,m2:1,m3:1"

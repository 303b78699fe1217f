"""A local cluster's masters come and go: gfs.toml, processes and membership in step, whatever interrupts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from gfs.client.operating import Operator, Progress
from gfs.errors import ConfigInvalid, InvalidArgument, NotFound, Unavailable
from gfs.local.layout import Layout, make_layout, open_layout
from gfs.local.layout_changes import add_master, drop_master, one_at_a_time
from gfs.local.resizing import LocalMasters
from gfs.messages.members import MemberChangeReply, MemberRow, MembersReply
from gfs.vocabulary import Address, ClusterId, MasterId, Term


def laid_out(directory: Path, masters: int = 1) -> Layout:
    return make_layout(str(directory), masters=masters, chunkservers=1, first_port=0)


class TestConfiguration:
    def test_a_new_master_is_written_down_and_all_else_stays_as_it_was(self, tmp_path: Path) -> None:
        before = laid_out(tmp_path)
        path = tmp_path / "gfs.toml"
        path.write_text(path.read_text() + "\n[client]  # mine\nretry_seconds = 7\n")
        after, name = add_master(before)
        assert name == "m2" and list(after.settings.masters) == ["m1", "m2"]
        assert after.settings.masters["m1"] == before.settings.masters["m1"]
        made = after.settings.masters["m2"]
        assert made.joins and made.directory == str(tmp_path / "masters" / "m2")
        ports = {a for n in after.settings.masters.values() for a in (n.control, n.raft)}
        assert len(ports) == 4
        assert "[client]  # mine" in path.read_text() and after.settings.client.retry_seconds == 7

    def test_a_number_is_never_used_twice_while_a_directory_of_it_is_left(self, tmp_path: Path) -> None:
        layout = laid_out(tmp_path, 3)
        (tmp_path / "masters" / "m7").mkdir(parents=True)
        layout, name = add_master(layout)
        assert name == "m8"
        layout = drop_master(layout, "m8")
        assert list(layout.settings.masters) == ["m1", "m2", "m3"]
        (tmp_path / "masters" / "m2" / "log").mkdir(parents=True)
        layout = drop_master(layout, "m2")
        with pytest.raises(ConfigInvalid, match="is not empty: a master of that name was here"):
            add_master(layout, "m2")

    def test_what_goes_takes_its_own_section_along_and_no_other(self, tmp_path: Path) -> None:
        layout = laid_out(tmp_path, 3)
        path = tmp_path / "gfs.toml"
        path.write_text(
            path.read_text() + '\n[masters.m2.dial]\nm1 = "127.0.0.1:7"\n[telemetry]\nlevel = "error"\n'
        )
        after = drop_master(open_layout(str(tmp_path)), "m2")
        assert list(after.settings.masters) == ["m1", "m3"]
        assert after.settings.masters["m3"] == layout.settings.masters["m3"]
        assert after.settings.telemetry.level == "error" and "m2" not in path.read_text()

    def test_a_file_written_in_another_way_is_left_alone(self, tmp_path: Path) -> None:
        laid_out(tmp_path)
        path = tmp_path / "gfs.toml"
        text = path.read_text()
        inline = 'masters.m9 = {control = "127.0.0.1:7", raft = "127.0.0.1:8"}\n' + text
        path.write_text(inline)
        with pytest.raises(ConfigInvalid, match="cannot be changed here"):
            drop_master(open_layout(str(tmp_path)), "m9")
        assert path.read_text() == inline

    def test_two_who_change_it_at_once_do_so_one_after_the_other(self, tmp_path: Path) -> None:
        layout = laid_out(tmp_path)
        with (
            one_at_a_time(layout),
            pytest.raises(Unavailable, match="another command"),
            one_at_a_time(layout),
        ):
            pass
        with one_at_a_time(layout):
            pass


class FakeCluster:
    """Membership and processes: what runs is what gfs.toml named at the last reload."""

    def __init__(self, directory: Path, masters: int) -> None:
        self.directory = directory
        layout = laid_out(directory, masters)
        self.members_now = list(layout.settings.masters)
        self.removed: set[str] = set()
        self.running: list[str] = []
        self.away: set[str] = set()
        self.leader = "m1"
        self.said: list[str] = []
        self.starting = 0  # how many times a new master does not answer yet
        self.before: Callable[[str], None] = lambda what: None  # dies here when it raises
        self.reload()

    def reload(self) -> None:
        self.running = list(open_layout(str(self.directory)).settings.masters)
        for name in self.running:
            (self.directory / "masters" / name / "log").mkdir(parents=True, exist_ok=True)

    def masters(self) -> LocalMasters:
        return LocalMasters(
            str(self.directory), cast(Operator, self), reload=self.reload, say=self.said.append
        )

    @property
    def written(self) -> list[str]:
        return list(open_layout(str(self.directory)).settings.masters)

    # --- what LocalMasters needs of an Operator ---------------------------------------------------

    async def members(self) -> MembersReply:
        rows = [
            MemberRow(
                id=MasterId(name),
                role="leader" if name == self.leader else "unreachable" if name in self.away else "follower",
                control=Address("x:1"),
                raft=Address("x:2"),
            )
            for name in self.members_now
        ]
        return MembersReply(
            cluster=ClusterId("c"),
            answered_by=MasterId("m1"),
            leader=MasterId(self.leader),
            term=Term(1),
            members=rows,
            spare=1,
            notes=[],
        )

    async def add_member(
        self, member: str, *, control: str, raft: str, progress: Progress
    ) -> MemberChangeReply:
        self.before(f"add {member}")
        assert member in self.running, "it is added before it runs"
        if self.starting > 0:
            self.starting -= 1
            raise NotFound("no master answers")
        if member in self.removed:
            raise InvalidArgument(f"{member} was removed")
        self.members_now.append(member)
        return MemberChangeReply(member=MasterId(member), done=True, state="")

    async def remove_member(self, member: str, *, progress: Progress) -> MemberChangeReply:
        self.before(f"remove {member}")
        if member not in self.members_now:
            raise NotFound(f"no master {member}")
        if len(self.members_now) == 1:
            raise InvalidArgument("the last voter")
        self.members_now.remove(member)
        self.removed.add(member)
        self.before(f"removed {member}")
        return MemberChangeReply(member=MasterId(member), done=True, state="")


async def test_one_grows_to_three_and_five_and_back(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path, 1)
    cluster.starting = 2
    for count, names in (
        (3, ["m1", "m2", "m3"]),
        (5, ["m1", "m2", "m3", "m4", "m5"]),
        (3, ["m1", "m2", "m3"]),
    ):
        await cluster.masters().resize(count)
        assert cluster.members_now == cluster.written == cluster.running == names
    await cluster.masters().resize(1)
    assert cluster.members_now == cluster.running == ["m1"]
    assert any("may be deleted" in said for said in cluster.said)


async def test_who_is_dead_goes_first_and_the_leader_last(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path, 5)
    cluster.away, cluster.leader = {"m2"}, "m5"
    await cluster.masters().resize(3)
    assert cluster.members_now == ["m1", "m3", "m5"]
    await cluster.masters().resize(1)
    assert cluster.members_now == ["m5"]


@pytest.mark.parametrize("died_at", ["add m2", "add m3", "remove m3", "removed m3"])
async def test_whatever_interrupts_it_the_next_command_goes_on(tmp_path: Path, died_at: str) -> None:
    cluster = FakeCluster(tmp_path, 1)

    def die(what: str) -> None:
        if what == died_at:
            raise Unavailable("interrupted")

    cluster.before = die
    with pytest.raises(Unavailable):
        await cluster.masters().resize(3)
        await cluster.masters().resize(1)
    cluster.before = lambda what: None
    await cluster.masters().resize(3)
    assert sorted(cluster.members_now) == sorted(cluster.written) == sorted(cluster.running)
    assert len(cluster.members_now) == 3


async def test_a_count_that_makes_no_quorum_is_refused(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path, 1)
    for count in (0, 2, 4, 7):
        with pytest.raises(InvalidArgument, match="no sensible quorum"):
            await cluster.masters().resize(count)
    assert cluster.written == ["m1"]


async def test_one_is_added_and_removed_by_name(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path, 3)
    assert await cluster.masters().add() == "m4"
    assert await cluster.masters().add("spare") == "spare"
    await cluster.masters().remove("m2")
    assert sorted(cluster.members_now) == sorted(cluster.running) == ["m1", "m3", "m4", "spare"]
    with pytest.raises(NotFound):
        await cluster.masters().remove("m9")

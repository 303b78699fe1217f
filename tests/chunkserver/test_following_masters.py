"""A chunk server follows the masters wherever they go: it tells whom the leader names, and remembers them."""

from __future__ import annotations

import json
from pathlib import Path

from chaos.simulation.disk import ForgetfulDisk
from gfs.chunkserver.known_masters import MASTERS_FILE, KnownMasters
from gfs.disk import SystemDisk
from gfs.settings import MASTERS_NAMED_MAX
from gfs.vocabulary import Address, ClusterId, Term
from tests.chunkserver.rig import CLUSTER, Rig
from tests.chunkserver.test_heartbeat import INTERVAL, Beating, Master

A, B, C = Address("a:1"), Address("b:1"), Address("c:1")


def known(disk: ForgetfulDisk, *seeds: Address, cluster: ClusterId = CLUSTER) -> KnownMasters:
    return KnownMasters(disk, "/data", seeds=seeds, cluster=cluster)


def led_by(master: Master, *names: str, term: int = 1) -> None:
    master.is_leader, master.term, master.names = True, Term(term), list(names)


class TestOnDisk:
    def disk(self) -> ForgetfulDisk:
        disk = ForgetfulDisk()
        disk.make_directory("/data")
        return disk

    def test_what_the_leader_named_outlives_a_power_cut_and_the_settings(self) -> None:
        disk = self.disk()
        known(disk, A).remember([B, C], CLUSTER)
        disk.power_cut()
        disk.power_on()
        assert known(disk, A).at_start == (B, C, A)

    def test_the_masters_of_another_cluster_are_not_asked(self) -> None:
        disk = self.disk()
        known(disk, A).remember([B], ClusterId("another"))
        assert known(disk, A).at_start == (A,)

    def test_a_damaged_file_is_as_good_as_none(self, tmp_path: Path) -> None:
        for content in (
            b"",
            b"\x00\xff",
            b'{"format": 9, "cluster": "c", "masters": []}',
            b'{"format": "x"}',
        ):
            (tmp_path / MASTERS_FILE).write_bytes(content)
            found = KnownMasters(SystemDisk(), str(tmp_path), seeds=[A], cluster=CLUSTER)
            assert found.at_start == (A,)
            found.remember([B], CLUSTER)
            assert json.loads((tmp_path / MASTERS_FILE).read_text())["masters"] == [B]

    def test_a_full_disk_is_no_trouble_and_the_next_word_is_kept(self) -> None:
        disk = self.disk()
        masters = known(disk, A)
        disk.space_bytes_left = 0
        masters.remember([B], CLUSTER)
        assert known(disk, A).at_start == (A,)
        disk.space_bytes_left = None
        masters.remember([B], CLUSTER)
        assert known(disk, A).at_start == (B, A)


async def test_a_master_that_the_leader_names_is_told_at_once_with_all_chunks(rig: Rig) -> None:
    a, *_ = await rig.three()
    await rig.put(b"data")
    beating = Beating(rig, a, "m1", "m2", "m3", "m4")
    m1, _, _, m4 = beating.masters
    beating.heartbeats.start()
    await rig.clock.advance(INTERVAL)
    assert not m4.beats
    led_by(m1, "m1", "m2", "m3", "m4")
    await rig.clock.advance(INTERVAL + 0.02)
    assert m4.knows(a) == 1 and sorted(beating.heartbeats.masters) == ["m1", "m2", "m3", "m4"]
    await beating.heartbeats.stop()


async def test_a_removed_master_is_told_no_more(rig: Rig) -> None:
    a, *_ = await rig.three()
    beating = Beating(rig, a, "m1", "m2", "m3")
    m1, m2, m3 = beating.masters
    beating.heartbeats.start()
    led_by(m1, "m1", "m3")
    await rig.clock.advance(INTERVAL)
    told = len(m2.beats)
    await rig.clock.advance(20 * INTERVAL)
    assert len(m2.beats) == told and len(m3.beats) > 20
    await beating.heartbeats.stop()


async def test_a_leader_that_names_a_set_without_itself_is_obeyed_too(rig: Rig) -> None:
    a, *_ = await rig.three()
    beating = Beating(rig, a, "m1", "m2", "m3")
    m1, m2, _ = beating.masters
    beating.heartbeats.start()
    led_by(m1, "m2", "m3")
    await rig.clock.advance(INTERVAL)
    told = len(m1.beats)
    led_by(m2, "m2", "m3", term=2)
    await rig.clock.advance(20 * INTERVAL)
    assert len(m1.beats) == told and beating.heartbeats.readiness()[0]
    await beating.heartbeats.stop()


async def test_an_old_leaders_word_does_not_bring_back_what_a_newer_one_has_dropped(rig: Rig) -> None:
    a, *_ = await rig.three()
    beating = Beating(rig, a, "m1", "m2", "m3", "m4")
    m1, m2, m3, m4 = beating.masters
    beating.heartbeats.start()
    led_by(m2, "m1", "m2", "m4", term=2)
    led_by(m1, "m1", "m2", "m3", term=1)  # cut off from the others, and does not know
    await rig.clock.advance(2 * INTERVAL)
    told = len(m3.beats)
    await rig.clock.advance(10 * INTERVAL)
    assert len(m3.beats) == told
    assert sorted(beating.heartbeats.masters) == ["m1", "m2", "m4"]
    assert len(m4.beats) > 5
    await beating.heartbeats.stop()


async def test_a_follower_adds_what_it_knows_only_while_no_leader_is_heard(rig: Rig) -> None:
    a, *_ = await rig.three()
    beating = Beating(rig, a, "m1", "m2", "m3", "m4")
    m1, m2, _, m4 = beating.masters
    m2.names = ["m2", "m4"]
    led_by(m1, "m1", "m2", "m3")
    beating.heartbeats.start()
    await rig.clock.advance(4 * INTERVAL)
    assert sorted(beating.heartbeats.masters) == ["m1", "m2", "m3"]  # the lagging one was not believed
    m1.is_leader = False
    await rig.clock.advance(6.0)  # … until the leader had been silent for long
    assert m4.beats
    led_by(m4, "m4", term=3)
    await rig.clock.advance(2 * INTERVAL)
    assert beating.heartbeats.masters == ["m4"]
    await beating.heartbeats.stop()


async def test_the_masters_of_the_settings_are_asked_again_when_all_that_were_named_are_gone(
    rig: Rig,
) -> None:
    a, *_ = await rig.three()
    beating = Beating(rig, a, "m1", "m2", "m3", "m4")
    m1, m2, _, m4 = beating.masters
    beating.heartbeats.start()
    led_by(m1, "m4")
    await rig.clock.advance(INTERVAL)
    assert beating.heartbeats.masters == ["m4"]
    await m4.server.stop()
    m1.is_leader = False
    told = len(m2.beats)
    await rig.clock.advance(10.0)
    assert len(m2.beats) > told
    await beating.heartbeats.stop()


async def test_a_restarted_server_finds_masters_that_its_settings_never_named(rig: Rig) -> None:
    a, *_ = await rig.three()
    beating = Beating(rig, a, "m1", "m2", "m3", "m4")
    m1, m2, m3, m4 = beating.masters
    beating.heartbeats.start()
    led_by(m1, "m4")
    await rig.clock.advance(INTERVAL)
    await beating.heartbeats.stop()
    for gone in (m1, m2, m3, m4):
        await gone.server.stop()
    again = Beating(rig, a, "m4")
    again.heartbeats.start()
    await rig.clock.advance(INTERVAL)
    assert again.heartbeats.readiness()[0] and again.masters[0].beats
    await again.heartbeats.stop()


async def test_a_leader_that_names_endlessly_many_makes_no_endlessly_many_connections(rig: Rig) -> None:
    a, *_ = await rig.three()
    beating = Beating(rig, a, "m1", "m2", "m3")
    beating.heartbeats.start()
    led_by(beating.masters[0], "m1", *(f"x{number}" for number in range(1000)))
    await rig.clock.advance(4 * INTERVAL)
    assert len(beating.heartbeats.masters) <= MASTERS_NAMED_MAX
    await beating.heartbeats.stop()

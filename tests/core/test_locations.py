"""Locations: what chunk servers say they hold, as a master remembers it (GFS §2.6.2, §4.5)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfs.errors import AlreadyExists
from gfs.master.core.locations import SEGMENT_ENTRIES_MAX, Locations, VersionMap
from gfs.messages.heartbeat import Heartbeat, HeldChunk
from gfs.vocabulary import Address, ChunkHandle, ChunkVersion, ClusterId, ServerId

S1, S2 = ServerId("s1"), ServerId("s2")


def chunk(handle: int, version: int) -> HeldChunk:
    return HeldChunk(ChunkHandle(handle), ChunkVersion(version), 0)


def beat(server: ServerId = S1, incarnation: str = "a", control: str = "h:1", **fields: object) -> Heartbeat:
    return Heartbeat(
        server=server,
        cluster=ClusterId("c"),
        incarnation=incarnation,
        control=Address(control),
        data=Address("h:2"),
        **fields,  # type: ignore[arg-type]
    )


def held(locations: Locations, handle: int, server: ServerId = S1) -> int:
    return locations.version_at(server, ChunkHandle(handle))


def damaged(locations: Locations, oldest: int, newest: int, now: float = 0.2) -> tuple[int, list[ServerId]]:
    version, servers = locations.damaged(
        ChunkHandle(1), [S1, S2], oldest=ChunkVersion(oldest), newest=ChunkVersion(newest), now=now
    )
    return version, [server.id for server in servers]


def reported(*chunks: HeldChunk) -> Locations:
    locations = Locations(dead_seconds=5.0)
    locations.hear(beat(report_page=0, report_last=True, report=list(chunks)), now=0.0)
    return locations


class TestReports:
    def test_unknown_server_is_asked_for_a_full_report_until_it_is_complete(self) -> None:
        locations = Locations(dead_seconds=5.0)
        assert locations.hear(beat(), now=0.0)
        assert not locations.hear(beat(report_page=0, report=[chunk(1, 1)]), now=0.1)
        assert held(locations, 1) == 0  # half a report is no report
        assert not locations.hear(beat(report_page=1, report_last=True, report=[chunk(2, 3)]), now=0.2)
        assert (held(locations, 1), held(locations, 2)) == (1, 3)
        assert not locations.hear(beat(), now=0.3)

    def test_lost_page_starts_the_report_over(self) -> None:
        locations = Locations(dead_seconds=5.0)
        locations.hear(beat(report_page=0, report=[chunk(1, 1)]), now=0.0)
        assert locations.hear(beat(report_page=2, report_last=True, report=[chunk(3, 1)]), now=0.1)
        assert held(locations, 3) == 0

    def test_page_sent_twice_because_its_answer_was_lost_is_harmless(self) -> None:
        locations = Locations(dead_seconds=5.0)
        first = beat(report_page=0, report=[chunk(1, 1)])
        last = beat(report_page=1, report_last=True, report=[chunk(2, 1)])
        for heartbeat in (first, last, last):
            assert not locations.hear(heartbeat, now=0.0)
        assert (held(locations, 1), held(locations, 2)) == (1, 1)

    def test_new_incarnation_is_asked_again_and_its_report_replaces_the_old_one(self) -> None:
        locations = reported(chunk(1, 1), chunk(2, 1))
        assert locations.hear(beat(incarnation="b"), now=1.0)
        assert held(locations, 1) == 1  # stands until the new report is whole
        locations.hear(beat(incarnation="b", report_page=0, report_last=True, report=[chunk(2, 1)]), now=1.1)
        assert (held(locations, 1), held(locations, 2)) == (0, 1)

    def test_changes_and_removals_amend_the_report(self) -> None:
        locations = reported(chunk(1, 1), chunk(2, 1))
        locations.hear(beat(changed=[chunk(1, 2), chunk(9, 1)], removed=[ChunkHandle(2)]), now=1.0)
        assert [held(locations, h) for h in (1, 2, 9)] == [2, 0, 1]

    def test_chunk_bumped_while_a_report_is_under_way_is_not_forgotten(self) -> None:
        locations = Locations(dead_seconds=5.0)
        locations.hear(beat(report_page=0, report=[chunk(1, 1)]), now=0.0)
        locations.note_bump(S1, ChunkHandle(7), ChunkVersion(1))
        locations.hear(beat(report_page=1, report_last=True), now=0.1)
        assert held(locations, 7) == 1

    def test_late_news_never_lowers_a_version(self) -> None:
        locations = reported(chunk(1, 1))
        locations.note_bump(S1, ChunkHandle(1), ChunkVersion(4))
        locations.hear(beat(changed=[chunk(1, 3)]), now=0.1)
        assert held(locations, 1) == 4

    def test_corrupt_replica_counts_as_none_until_it_is_removed_and_made_anew(self) -> None:
        locations = reported(chunk(1, 1))
        locations.hear(beat(corrupt=[ChunkHandle(1)]), now=0.1)
        assert held(locations, 1) == 0
        locations.hear(beat(removed=[ChunkHandle(1)]), now=0.2)
        locations.hear(beat(changed=[chunk(1, 1)]), now=0.3)
        assert held(locations, 1) == 1

    def test_replica_made_anew_between_two_heartbeats_is_whole_again(self) -> None:
        locations = reported(chunk(1, 1))
        locations.hear(beat(corrupt=[ChunkHandle(1)], changed=[chunk(1, 1)]), now=0.1)
        assert held(locations, 1) == 0
        locations.hear(beat(changed=[chunk(1, 1)]), now=0.2)
        assert held(locations, 1) == 1

    def test_damage_outlives_a_restart_and_a_full_report_says_what_is_left_of_it(self) -> None:
        locations = reported(chunk(1, 1), chunk(2, 1), chunk(3, 1))
        both = [ChunkHandle(1), ChunkHandle(2)]
        locations.hear(beat(corrupt=both), now=0.1)
        locations.hear(beat(incarnation="b"), now=0.2)
        assert [held(locations, h) for h in (1, 2, 3)] == [0, 0, 1]
        locations.hear(
            beat(incarnation="b", report_page=0, report=[chunk(1, 1), chunk(2, 1)], corrupt=[ChunkHandle(2)]),
            now=0.3,
        )
        assert held(locations, 1) == 0  # stands until the new report is whole
        locations.hear(beat(incarnation="b", report_page=1, report_last=True, report=[chunk(3, 1)]), now=0.4)
        assert [held(locations, h) for h in (1, 2, 3)] == [1, 0, 1]

    def test_replica_whose_version_cannot_be_told_is_corrupt_and_held_in_none(self) -> None:
        locations = reported(chunk(1, 0), chunk(2, 1))
        locations.hear(beat(changed=[chunk(1, 0)], corrupt=[ChunkHandle(1)]), now=0.1)
        assert locations.is_corrupt(S1, ChunkHandle(1)) and held(locations, 1) == 0
        assert damaged(locations, 1, 1) == (0, [])

    def test_damaged_members_are_named_apart_at_the_newest_version_that_is_not_stale(self) -> None:
        locations = reported(chunk(1, 2))
        locations.hear(beat(corrupt=[ChunkHandle(1)]), now=0.1)
        assert damaged(locations, 1, 2) == damaged(locations, 1, 9) == (2, [S1])
        assert damaged(locations, 3, 9) == (0, [])  # it has missed what was acknowledged since
        assert damaged(locations, 1, 2, now=99.0) == (0, [])


class TestLiving:
    def test_silent_server_is_dead_after_the_time_and_alive_again_with_its_next_heartbeat(self) -> None:
        locations = reported()
        assert locations.is_alive(S1, now=4.9)
        assert not locations.is_alive(S1, now=5.0)
        locations.hear(beat(), now=9.0)
        assert locations.is_alive(S1, now=9.1)

    def test_second_living_server_with_the_same_id_is_refused(self) -> None:
        locations = reported()
        with pytest.raises(AlreadyExists, match=r"s1 is already alive at h:1.*h:9"):
            locations.hear(beat(incarnation="b", control="h:9"), now=1.0)
        assert locations.get(S1).control == "h:1"  # type: ignore[union-attr]

    def test_server_that_moved_is_accepted_once_its_old_address_is_dead(self) -> None:
        locations = reported()
        locations.hear(beat(incarnation="b", control="h:9"), now=6.0)
        assert locations.get(S1).control == "h:9"  # type: ignore[union-attr]

    def test_replica_behind_or_dead_or_ahead_is_never_handed_out(self) -> None:
        locations = reported(chunk(1, 2), chunk(2, 1), chunk(3, 3))
        members = [S1, S2]

        def present(handle: int, now: float = 1.0) -> list[ServerId]:
            good, missing = locations.current(ChunkHandle(handle), ChunkVersion(2), members, now=now)
            assert [s.id for s in good] + missing == sorted([s.id for s in good] + missing)
            return [server.id for server in good]

        assert present(1) == [S1]
        assert present(2) == present(3) == []
        assert present(1, now=99.0) == []
        assert locations.stale(S1, ChunkHandle(2), ChunkVersion(2))
        assert not locations.stale(S1, ChunkHandle(1), ChunkVersion(2))

    def test_holders_names_every_server_with_its_version(self) -> None:
        locations = reported(chunk(1, 2))
        locations.hear(
            beat(S2, control="h:5", report_page=0, report_last=True, report=[chunk(1, 1)]), now=0.0
        )
        assert locations.holders(ChunkHandle(1)) == {S1: 2, S2: 1}


class TestVersionMap:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), max_size=120))
    def test_behaves_like_a_dict_whose_values_only_rise(self, steps: list[tuple[int, int]]) -> None:
        compact, model = VersionMap(), dict[int, int]()
        for handle, version in steps:
            if version == 0:
                compact.discard(ChunkHandle(handle))
                model.pop(handle, None)
            else:
                compact.raise_to(ChunkHandle(handle), ChunkVersion(version))
                model[handle] = max(version, model.get(handle, 0))
            compact.check_invariants()
        assert dict(compact.items()) == model
        assert all(compact.get(ChunkHandle(h)) == model.get(h, 0) for h in range(41))

    def test_many_segments_in_any_order_stay_sorted(self) -> None:
        compact = VersionMap()
        handles = [(n * 7919) % 20_011 for n in range(20_011)]
        assert len(handles) > 4 * SEGMENT_ENTRIES_MAX
        for handle in handles:
            compact.raise_to(ChunkHandle(handle), ChunkVersion(1))
        for handle in range(0, 20_011, 2):
            compact.discard(ChunkHandle(handle))
        compact.check_invariants()
        assert [h for h, _ in compact.items()] == list(range(1, 20_011, 2))

"""A state that was put back harms no id, version or chunk of a later time (I1, I5, I6, GFS §4.5)."""

from __future__ import annotations

import pytest

from gfs.master.core.adoption import adoptions, awaited_servers
from gfs.master.core.incarnation import ID_SHIFT, NUMBER_MAX, read_incarnation, unsettled_below
from gfs.master.core.lookup import chunk_by_handle, read_counters
from gfs.master.core.records import ID_MAX
from gfs.master.core.state import MasterState
from gfs.master.core.tables import Table
from gfs.messages import operations as op
from gfs.vocabulary import ChunkHandle, ChunkVersion, ServerId
from tests.core.master_records import A, B, C, D, add_chunk, change, create, grant, record, seal
from tests.core.test_garbage import Cluster

NUMBER = 1_795_000_000
FIRST = ChunkHandle(1)


def begin(number: int = NUMBER, name: str = "second") -> op.BeginIncarnation:
    return op.BeginIncarnation(name=name, number=number)


def adopt(version: int, *replicas: ServerId, of: int = 1, from_version: int = 1) -> op.AdoptReplicas:
    return op.AdoptReplicas(
        handle=ChunkHandle(of),
        from_version=ChunkVersion(from_version),
        version=ChunkVersion(version),
        replicas=replicas,
        primary=replicas[0],
    )


class PutBack(Cluster):
    """/f, whose one chunk is on a, b, c at version 1, in a state that was put back."""

    def __init__(self) -> None:
        super().__init__()
        self(begin())

    def refused(self, operation: op.AnyOperation) -> op.Refused:
        before = list(self.tables.scan(Table.CHUNKS))
        outcome = self.state.apply(record(operation))
        assert isinstance(outcome, op.Refused), outcome
        self.state.save()
        assert list(self.tables.scan(Table.CHUNKS)) == before
        return outcome

    def chunk(self) -> tuple[int, tuple[ServerId, ...]]:
        found = chunk_by_handle(self.tables, FIRST)
        assert found is not None
        return found.version, found.replicas


@pytest.fixture
def here() -> PutBack:
    return PutBack()


def test_ids_of_a_new_life_are_above_all_that_an_earlier_one_can_have_given_out(here: PutBack) -> None:
    counters = read_counters(here.tables)
    assert counters.next_handle == counters.next_inode == NUMBER << ID_SHIFT
    made = here(create("/g"))
    assert isinstance(made, op.Done)
    assert made.inode == NUMBER << ID_SHIFT
    granted = here(add_chunk(made.inode, 0))
    assert isinstance(granted, op.ChunkGranted)
    assert granted.handle == NUMBER << ID_SHIFT
    # Put back once more from the same old state, a second later: still none twice.
    again = Cluster()
    again(begin(NUMBER + 1))
    assert read_counters(again.tables).next_handle > granted.handle + 32_000


def test_a_clock_that_went_wrong_does_not_give_ids_out_again(here: PutBack) -> None:
    before = read_counters(here.tables).next_handle
    here(begin(NUMBER + 1, "third"))
    assert read_counters(here.tables).next_handle > before + 2**31


@pytest.mark.parametrize("number", [0, -1, NUMBER, NUMBER - 1, NUMBER_MAX + 1, 2**64 - 1])
def test_a_life_that_does_not_come_after_the_last_is_refused(here: PutBack, number: int) -> None:
    here.refused(begin(number))
    assert read_incarnation(here.tables).number == NUMBER


def test_lives_end_before_the_ids_do() -> None:
    here = Cluster()
    here(begin(NUMBER_MAX))
    assert read_counters(here.tables).next_handle < ID_MAX - 2**40


def test_no_chunk_from_before_is_granted_moved_sealed_or_copied_before_servers_were_heard(
    here: PutBack,
) -> None:
    for operation in (
        grant(here.inode, 0, 1, 1, A, B),
        change(1, 1, A, B),
        seal(1, 1, 0),
        op.ReserveChunkCopy(inode=here.inode, index=0, handle=FIRST, version=ChunkVersion(1)),  # type: ignore[arg-type]
    ):
        assert here.refused(operation).code == "unavailable"
    assert unsettled_below(here.tables) == 2
    here(op.SettleIncarnation())
    assert unsettled_below(here.tables) == 0
    here(grant(here.inode, 0, 1, 1, A, B))


def test_a_new_file_is_written_while_those_from_before_are_not_settled(here: PutBack) -> None:
    made = here(create("/g"))
    assert isinstance(made, op.Done)
    added = here(add_chunk(made.inode, 0))
    assert isinstance(added, op.ChunkGranted)
    here(grant(made.inode, 0, added.handle, 1, A, B))


def test_a_grant_after_it_has_a_version_above_all_that_anybody_may_hold(here: PutBack) -> None:
    here(op.SettleIncarnation())
    granted = here(grant(here.inode, 0, 1, 1, A, B))
    assert isinstance(granted, op.ChunkGranted)
    assert granted.version == NUMBER
    quiet = here(change(1, NUMBER, A))
    assert isinstance(quiet, op.ChunkGranted)
    assert quiet.version == NUMBER + 1


def test_what_servers_hold_above_the_logged_version_takes_its_place(here: PutBack) -> None:
    here.report(A, (1, 1))
    here.report(B, (1, 4))
    here.report(D, (1, 4))
    here.report(C, (1, 3))
    found, more = adoptions(here.tables, here.locations, after=ChunkHandle(0), below=2, chunks_max=10)
    assert more is None
    assert found == [adopt(4, B, D)]
    here(found[0])
    assert here.chunk() == (4, (B, D))
    kept = chunk_by_handle(here.tables, FIRST)
    assert kept is not None and kept.held_version == 4 and not kept.quiet
    here(op.SettleIncarnation())
    # The one that was behind is no member: no later set can contain it but by a copy.
    assert here.refused(grant(here.inode, 0, 1, 4, A)).code == "invalid_argument"


def test_a_primary_that_holds_the_newer_version_stays_primary(here: PutBack) -> None:
    for server in (C, B, A):
        here.report(server, (1, 2))
    found, _ = adoptions(here.tables, here.locations, after=ChunkHandle(0), below=2, chunks_max=10)
    assert found[0].primary == A


def test_damaged_bytes_are_not_taken_over(here: PutBack) -> None:
    here.report(A, (1, 1))
    here.report(B, (1, 4), corrupt=(1,))
    found, _ = adoptions(here.tables, here.locations, after=ChunkHandle(0), below=2, chunks_max=10)
    assert found == []


def test_nothing_is_taken_over_that_this_life_has_granted(here: PutBack) -> None:
    here(op.SettleIncarnation())
    here(grant(here.inode, 0, 1, 1, A, B))
    assert here.refused(adopt(NUMBER + 7, C, from_version=NUMBER)).code == "invalid_argument"
    assert here.refused(adopt(5, C)).code == "stale_version"
    made = here(create("/g"))
    assert isinstance(made, op.Done)
    added = here(add_chunk(made.inode, 0))
    assert isinstance(added, op.ChunkGranted)
    assert here.refused(adopt(5, C, of=added.handle)).code == "invalid_argument"


def test_in_a_first_life_nothing_is_ever_taken_over() -> None:
    here = Cluster()
    outcome = here.state.apply(record(adopt(5, C)))
    assert isinstance(outcome, op.Refused)


def test_a_late_server_with_newer_replicas_is_believed_as_long_as_nobody_was_granted_the_chunk(
    here: PutBack,
) -> None:
    here(op.SettleIncarnation())
    here(adopt(5, D))
    assert here.chunk() == (5, (D,))


def test_walking_goes_on_where_it_stopped(here: PutBack) -> None:
    here = PutBack.__new__(PutBack)
    Cluster.__init__(here)
    here(add_chunk(here.inode, 1))
    here(add_chunk(here.inode, 2))
    here(begin())
    here.report(D, (1, 2), (2, 2), (3, 2))
    seen: list[int] = []
    after: ChunkHandle | None = ChunkHandle(0)
    while after is not None:
        found, after = adoptions(here.tables, here.locations, after=after, below=4, chunks_max=1)
        seen += [one.handle for one in found]
    assert seen == [1, 2, 3]


def test_servers_that_chunks_may_be_on_are_awaited_until_they_have_reported_or_were_removed(
    here: PutBack,
) -> None:
    assert awaited_servers(here.tables, here.locations) == [A, B, C]
    here.report(B, (1, 1))
    assert awaited_servers(here.tables, here.locations) == [A, C]
    here(op.SetTenure(server=A, tenure="removed"))
    assert awaited_servers(here.tables, here.locations) == [C]


def test_garbage_stays_held_until_all_is_settled_and_somebody_says_so(here: PutBack) -> None:
    assert read_incarnation(here.tables).garbage_held
    assert here.refused(op.HoldGarbage(held=False)).code == "unavailable"
    here(op.SettleIncarnation())
    assert read_incarnation(here.tables).garbage_held
    here(op.HoldGarbage(held=False))
    assert not read_incarnation(here.tables).garbage_held


def test_garbage_can_be_held_in_a_first_life_too() -> None:
    here = Cluster()
    here(op.HoldGarbage(held=True))
    assert read_incarnation(here.tables).garbage_held
    assert unsettled_below(here.tables) == 0
    here(op.HoldGarbage(held=False))


def test_once_garbage_is_collected_again_what_only_a_lost_time_knew_is_named(here: PutBack) -> None:
    """Chunks from between the backup and the loss: kept while held, orphans of a known time afterwards."""
    here.report(A, (1, 1), (1_000, 3))
    assert here.named(A) == [(1_000, 3)]  # what core/garbage says; the collection asks whether it is held


def test_two_states_that_applied_the_same_are_equal_and_one_reopened_goes_on(here: PutBack) -> None:
    other = PutBack()
    assert here.state.digest() == other.state.digest()
    reopened = MasterState(here.tables)
    assert isinstance(reopened.apply(record(grant(here.inode, 0, 1, 1, A))), op.Refused)
    assert isinstance(reopened.apply(record(op.SettleIncarnation())), op.Done)
    outcome = reopened.apply(record(grant(here.inode, 0, 1, 1, A)))
    assert isinstance(outcome, op.ChunkGranted) and outcome.version == NUMBER

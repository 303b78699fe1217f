"""Request de-duplication: a repeat is answered as at first, and memory of requests is bounded."""

from __future__ import annotations

import pytest

from gfs.master.core import sessions
from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import read_counters, stat
from gfs.master.core.sessions import DROP_BATCH
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables, Table
from gfs.messages import operations as op
from gfs.settings import SESSION_WINDOW
from tests.core.master_records import NOW_MS, create, delete, mkdir, record


class Master:
    def __init__(self) -> None:
        self.tables = MemoryTables()
        self.state = MasterState(self.tables)

    def __call__(self, entry: op.LogRecord) -> op.AnyOutcome:
        outcome = self.state.apply(entry)
        self.state.save()
        return outcome

    def rows(self) -> int:
        check_invariants(self.tables)
        return sum(1 for _ in self.tables.scan(Table.SESSIONS))


@pytest.fixture
def master() -> Master:
    return Master()


def test_a_retried_create_is_not_told_that_its_own_first_try_exists(master: Master) -> None:
    first = master(record(create("/f"), sequence=1))
    assert isinstance(first, op.Done)
    assert master(record(create("/f"), sequence=1)) == first
    assert isinstance(master(record(create("/f"), sequence=2)), op.Refused)
    assert read_counters(master.tables).files == 1


def test_a_refusal_is_repeated_even_when_the_operation_would_succeed_now(master: Master) -> None:
    refused = master(record(create("/d/f"), sequence=1))
    assert isinstance(refused, op.Refused)
    master(record(mkdir("/d")))
    assert master(record(create("/d/f"), sequence=1)) == refused


def test_a_retry_repeats_even_when_the_effect_is_undone(master: Master) -> None:
    first = master(record(create("/f"), sequence=1))
    master(record(delete("/f"), sequence=2))
    assert master(record(create("/f"), sequence=1)) == first
    assert read_counters(master.tables).files == 1


def test_requests_may_arrive_out_of_order(master: Master) -> None:
    for sequence in (5, 2, 9, 1):
        outcome = master(record(mkdir(f"/d{sequence}"), sequence=sequence))
        assert isinstance(outcome, op.Done)
    again = master(record(mkdir("/d2"), sequence=2))
    assert again == op.Done(inode=stat(master.tables, "/d2").inode)


def test_clients_do_not_share_sequences(master: Master) -> None:
    master(record(create("/f"), sequence=1, client=1))
    assert isinstance(master(record(create("/g"), sequence=1, client=2)), op.Done)
    assert stat(master.tables, "/g").kind == "file"


def test_a_late_duplicate_of_a_finished_request_is_not_carried_out_again(master: Master) -> None:
    master(record(create("/f"), sequence=1))
    master(record(delete("/f"), sequence=2))
    master(record(mkdir("/d"), sequence=3, first_open=3))
    late = master(record(create("/f"), sequence=1))
    assert isinstance(late, op.Refused)
    assert late.code == "outcome_unknown"
    assert read_counters(master.tables).files == 1


def test_outcomes_a_client_is_done_with_are_dropped(master: Master) -> None:
    for sequence in range(1, 1000):
        master(record(mkdir("/d", parents=True), sequence=sequence, first_open=max(1, sequence - 3)))
        assert sum(1 for _ in master.tables.scan(Table.SESSIONS)) <= 1 + 4 + DROP_BATCH
    master.rows()


def test_no_client_keeps_more_outcomes_than_the_window_and_the_oldest_go_first(master: Master) -> None:
    for sequence in range(1, SESSION_WINDOW + 11):
        master.state.apply(record(mkdir("/d", parents=True), sequence=sequence))
    master.state.save()
    assert master.rows() == SESSION_WINDOW + 1
    kept = master(record(create("/kept"), sequence=11))
    assert kept == op.Done(inode=stat(master.tables, "/d").inode)
    dropped = master(record(create("/dropped"), sequence=10))
    assert isinstance(dropped, op.Refused)
    assert dropped.code == "outcome_unknown"


@pytest.mark.parametrize(
    ("client", "sequence", "first_open"),
    [(-1, 1, 0), (2**63, 1, 0), (7, -1, -1), (7, 2**63, 0), (7, 3, 4), (7, 3, -1)],
)
def test_an_impossible_request_id_is_refused_and_leaves_nothing(
    master: Master, client: int, sequence: int, first_open: int
) -> None:
    outcome = master(record(create("/f"), client=client, sequence=sequence, first_open=first_open))
    assert isinstance(outcome, op.Refused)
    assert outcome.code == "invalid_argument"
    assert master.rows() == 0
    assert read_counters(master.tables).files == 0


def test_idle_clients_are_forgotten_and_active_ones_kept(master: Master) -> None:
    for client in range(10):
        at_ms = NOW_MS + (1000 if client % 2 else 0)
        master(record(mkdir("/d", parents=True), client=client, sequence=1, at_ms=at_ms))
    master(record(op.ForgetSessions(idle_since_ms=NOW_MS + 500, limit=100)))
    assert read_counters(master.tables).sessions == 5
    assert master.rows() == 10
    assert isinstance(master(record(create("/d"), client=1, sequence=1)), op.Done), "still remembered"
    assert isinstance(master(record(create("/d"), client=0, sequence=1)), op.Refused), "new again"


def test_forgetting_goes_on_where_it_ended_and_begins_anew_at_the_end(master: Master) -> None:
    for client in range(10):
        master(record(mkdir("/d", parents=True), client=client, sequence=1))
    forget = record(op.ForgetSessions(idle_since_ms=NOW_MS + 1, limit=3))
    left = []
    for _ in range(4):
        master(forget)
        left.append(read_counters(master.tables).sessions)
    assert left == [7, 4, 1, 0]
    master(record(mkdir("/d", parents=True), client=0, sequence=1))
    master(forget)
    assert read_counters(master.tables).sessions == 0


def test_one_record_forgets_a_bounded_number_of_rows(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "FORGET_ROWS_MAX", 100)
    for client in range(5):
        for sequence in range(1, 41):
            master.state.apply(record(mkdir("/d", parents=True), client=client, sequence=sequence))
    forget = record(op.ForgetSessions(idle_since_ms=NOW_MS + 1, limit=100))
    master(forget)
    assert read_counters(master.tables).sessions == 3
    master(forget)
    master(forget)
    assert master.rows() == 0


def test_a_clock_that_steps_back_does_not_make_a_client_look_idle(master: Master) -> None:
    master(record(mkdir("/a"), sequence=1, at_ms=NOW_MS + 1000))
    master(record(mkdir("/b"), sequence=2, at_ms=NOW_MS))
    master(record(op.ForgetSessions(idle_since_ms=NOW_MS + 500, limit=10)))
    assert read_counters(master.tables).sessions == 1

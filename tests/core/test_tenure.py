"""Tenure: an operator's word on a chunk server is part of the state, and nothing is placed against it."""

from __future__ import annotations

from random import Random

import pytest

from gfs.master.core.invariants import check_invariants
from gfs.master.core.placement import Candidate, choose_servers, explain
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables
from gfs.master.core.tenure import tenure_of, tenures
from gfs.messages import operations as op
from gfs.vocabulary import ServerId
from tests.core.master_records import A, B, C, D, add_chunk, create, grant, record


def state_with_file() -> tuple[MasterState, MemoryTables, int]:
    tables = MemoryTables()
    state = MasterState(tables)
    made = state.apply(record(create("/f")))
    assert isinstance(made, op.Done)
    return state, tables, made.inode


def say(state: MasterState, server: ServerId, tenure: str) -> op.AnyOutcome:
    return state.apply(record(op.SetTenure(server=server, tenure=tenure)))


def test_tenure_is_kept_changed_and_taken_back() -> None:
    state, tables, _ = state_with_file()
    assert (tenure_of(tables, A), tenures(tables)) == ("serving", {})
    say(state, A, "draining")
    say(state, B, "removed")
    assert tenures(tables) == {A: "draining", B: "removed"}
    say(state, A, "removed")
    say(state, B, "serving")
    say(state, B, "serving")
    assert tenures(tables) == {A: "removed"}
    state.save()
    check_invariants(tables)


@pytest.mark.parametrize(("server", "tenure"), [("", "draining"), ("s" * 129, "draining"), ("s", "retired")])
def test_nonsense_is_refused(server: str, tenure: str) -> None:
    state, tables, _ = state_with_file()
    outcome = say(state, ServerId(server), tenure)
    assert isinstance(outcome, op.Refused) and outcome.code == "invalid_argument"
    assert tenures(tables) == {}


@pytest.mark.parametrize("tenure", ["draining", "removed"])
def test_replica_chosen_before_the_drain_was_logged_is_refused_after_it(tenure: str) -> None:
    state, _, inode = state_with_file()
    say(state, B, tenure)
    refused = state.apply(record(add_chunk(inode, 0, A, B)))
    assert isinstance(refused, op.Refused) and refused.code == "unavailable"
    added = state.apply(record(add_chunk(inode, 0, A, C)))
    assert isinstance(added, op.ChunkGranted)
    refused = state.apply(record(grant(inode, 0, added.handle, 1, C, B, fresh=True)))
    assert isinstance(refused, op.Refused) and refused.code == "unavailable"


def test_replicas_on_a_draining_server_stay_in_use() -> None:
    state, _, inode = state_with_file()
    added = state.apply(record(add_chunk(inode, 0, A, B)))
    assert isinstance(added, op.ChunkGranted)
    say(state, B, "draining")
    assert isinstance(state.apply(record(grant(inode, 0, added.handle, 1, B, A))), op.ChunkGranted)


def test_a_draining_server_is_chosen_for_nothing() -> None:
    gib = 2**30
    candidates = [Candidate(s, "", 100 * gib, 50 * gib, True, 0.0, leaving=s == B) for s in (A, B, C, D)]
    assert set(choose_servers(candidates, 4, excluded=(), chance=Random(1))) == {A, C, D}
    assert explain(candidates, excluded=())[B].startswith("draining")


def test_a_replica_goes_to_a_rack_that_has_none_of_the_chunk() -> None:
    gib = 2**30
    racks = {A: "r1", B: "r1", C: "r2", D: "r2"}
    candidates = [Candidate(s, racks[s], 100 * gib, 50 * gib, True, 0.0) for s in racks]
    for seed in range(20):
        chosen = choose_servers(candidates, 1, excluded=[A], chance=Random(seed), beside=["r1"])
        assert racks[chosen[0]] == "r2"

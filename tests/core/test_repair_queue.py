"""The queue of clones: order, limits, retries, whatever is found and whatever fails (GFS §4.3)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gfs.master.core.clone_task import CloneTask
from gfs.master.core.repair import LAST_COPY
from gfs.master.core.repair_queue import (
    RETRY_SECONDS_FIRST,
    RETRY_SECONDS_LAST,
    Limits,
    Need,
    RepairQueue,
)
from gfs.settings import CLONES_WAITING_MAX
from gfs.vocabulary import ChunkHandle, ChunkIndex, InodeId, ServerId

LIMITS = Limits(active_max=3, per_server_max=2, rebalancing_max=1)


def need(handle: int, priority: int, since: float = 0.0) -> Need:
    return Need(InodeId(handle), ChunkIndex(0), ChunkHandle(handle), priority, since)


def task(handle: int, priority: int, target: str = "t") -> CloneTask:
    return CloneTask(
        InodeId(handle), ChunkIndex(0), ChunkHandle(handle), ServerId(target), None, "lost replica", priority
    )


def due(queue: RepairQueue, now: float = 0.0) -> list[int]:
    return [one.handle for one in queue.due(now=now, look_at_max=100)]


def test_the_most_urgent_come_first_and_equals_in_the_order_they_were_found() -> None:
    queue = RepairQueue(LIMITS)
    for handle, priority in ((1, 15), (2, 25), (3, 15), (4, 1)):
        queue.want(need(handle, priority))
    assert due(queue) == [2, 1, 3, 4]
    assert [queue.position(ChunkHandle(h)) for h in (2, 1, 3, 4)] == [0, 1, 2, 3]


def test_no_clone_of_another_chunk_begins_while_one_with_a_single_replica_waits_or_is_copied() -> None:
    queue = RepairQueue(LIMITS)
    queue.want(need(1, 15))
    queue.want(need(2, LAST_COPY + 25))
    assert due(queue) == [2]
    queue.begin(task(2, LAST_COPY + 25), ServerId("s"), now=0.0)
    assert due(queue) == []
    queue.succeed(ChunkHandle(2), now=1.0)
    assert due(queue) == [1]


def test_a_single_replica_that_cannot_be_copied_holds_up_no_other() -> None:
    queue = RepairQueue(LIMITS)
    queue.want(need(1, 15))
    queue.want(need(2, LAST_COPY + 25))
    queue.fail(ChunkHandle(2), "its server is cross", now=0.0)
    assert due(queue) == [1]
    assert due(queue, now=RETRY_SECONDS_FIRST) == [2, 1]


def test_failures_are_tried_again_ever_more_seldom_until_the_servers_change() -> None:
    queue = RepairQueue(LIMITS)
    queue.want(need(1, 15))
    now = 0.0
    waits = []
    for _ in range(12):
        queue.fail(ChunkHandle(1), "no", now=now)
        failure = queue.failure(ChunkHandle(1))
        assert failure is not None and due(queue, now=failure.again_at - 0.01) == []
        waits.append(failure.again_at - now)
        now = failure.again_at
    assert waits[:3] == [1.0, 2.0, 4.0] and waits[-1] == RETRY_SECONDS_LAST
    assert not queue.has_hope()
    queue.fail(ChunkHandle(1), "no", now=now)
    queue.retry_soon()
    assert due(queue, now=now) == [1]


def test_a_full_queue_keeps_the_most_urgent_and_says_that_some_were_left_out() -> None:
    queue = RepairQueue(LIMITS)
    for handle in range(1, CLONES_WAITING_MAX + 1):
        queue.want(need(handle, 15))
    queue.want(need(CLONES_WAITING_MAX + 1, 15))
    assert queue.left_out == 1 and queue.waiting == CLONES_WAITING_MAX
    queue.want(need(CLONES_WAITING_MAX + 2, 25))
    assert queue.left_out == 2 and due(queue)[0] == CLONES_WAITING_MAX + 2
    queue.check_invariants()


def test_how_long_it_takes_follows_from_the_rate() -> None:
    queue = RepairQueue(LIMITS)
    assert queue.seconds_left(10, now=0.0) is None
    for at in range(11):
        queue.begin(task(at + 1, 15), ServerId("s"), now=float(at))
        queue.succeed(ChunkHandle(at + 1), now=float(at))
    left = queue.seconds_left(10, now=10.0)
    assert left is not None and 8 < left < 11


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["want", "want", "discard", "begin", "succeed", "fail", "soon"]),
        st.integers(1, 8),
        st.sampled_from([0, 1, 15, 25, LAST_COPY + 25]),
        st.integers(0, 3),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(STEPS)
def test_invariants_hold_whatever_happens(steps: list[tuple[str, int, int, int]]) -> None:
    queue = RepairQueue(LIMITS)
    for now, (step, number, priority, server) in enumerate(steps):
        handle = ChunkHandle(number)
        match step:
            case "want":
                queue.want(need(number, priority, float(now)))
            case "discard":
                queue.discard(handle)
            case "begin":
                ready = queue.due(now=float(now), look_at_max=1)
                target, source = ServerId(f"s{server}"), ServerId(f"s{server + 1}")
                if ready and queue.has_room() and not queue.is_busy(target) and not queue.is_busy(source):
                    queue.begin(task(ready[0].handle, ready[0].priority, target), source, now=float(now))
            case "succeed" if queue.is_active(handle):
                queue.succeed(handle, now=float(now))
            case "fail":
                queue.fail(handle, "no", now=float(now))
            case "soon":
                queue.retry_soon()
        queue.check_invariants()
        assert len({one.handle for one in queue.in_order()}) == queue.waiting

"""The thread that writes the operation log: order, results, failures, its end."""

from __future__ import annotations

import threading

import pytest

from gfs.master.replication.worker_thread import WorkerThread


async def test_results_and_failures_come_back_to_who_asked() -> None:
    worker = WorkerThread("test")
    assert await worker.run(lambda: threading.current_thread().name) == "test"

    def fail() -> None:
        raise OSError(5, "no such luck")

    with pytest.raises(OSError, match="no such luck"):
        await worker.run(fail)
    assert await worker.run(lambda: 7) == 7, "it goes on after a failure"
    worker.stop()


async def test_work_is_done_in_order_and_to_the_end_though_its_caller_has_gone() -> None:
    worker = WorkerThread("test")
    gate, done = threading.Event(), list[int]()
    first = worker.run(gate.wait)
    worker.run(lambda: done.append(1)).cancel()
    last = worker.run(lambda: done.append(2))
    first.cancel()
    gate.set()
    await last
    assert done == [1, 2]
    worker.stop()


async def test_stop_waits_for_what_was_asked() -> None:
    worker = WorkerThread("test")
    done: list[int] = []
    for number in range(100):
        worker.run(lambda number=number: done.append(number))  # type: ignore[misc]
    worker.stop()
    assert done == list(range(100))

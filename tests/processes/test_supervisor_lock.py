"""The lock of a data directory: one supervisor holds it, and those who only ask never stand in its way."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from gfs.errors import Unavailable
from gfs.local.layout import SupervisorLock


def test_who_only_asks_never_keeps_a_supervisor_from_starting(tmp_path: Path) -> None:
    """`gfs status` and `gfs down` ask while `gfs up` starts."""
    lock = SupervisorLock(str(tmp_path))
    over = threading.Event()
    held_by: set[int] = set()

    def ask() -> None:
        while not over.is_set():
            held_by.add(SupervisorLock(str(tmp_path)).holder())

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    try:
        for _ in range(300):
            lock.acquire()
            lock.release()
    finally:
        over.set()
        for asker in askers:
            asker.join()
    assert held_by <= {0, os.getpid()}


def test_a_killed_supervisor_is_no_holder_however_many_ask(tmp_path: Path) -> None:
    (tmp_path / "supervisor.lock").write_text("123\n")  # what it wrote before it was killed
    held_by: set[int] = set()

    def ask() -> None:
        for _ in range(2000):
            held_by.add(SupervisorLock(str(tmp_path)).holder())

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert held_by == {0}


def test_a_second_supervisor_is_told_who_runs_already(tmp_path: Path) -> None:
    lock = SupervisorLock(str(tmp_path))
    lock.acquire()
    with pytest.raises(Unavailable, match=f"already running, under process {os.getpid()}"):
        SupervisorLock(str(tmp_path)).acquire()
    lock.release()

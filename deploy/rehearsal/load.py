"""Clients of a rehearsal: they store files and records, remember what was acknowledged, and read it back."""

from __future__ import annotations

import threading
import time
from collections import Counter
from random import Random

import gfs
from gfs.errors import GfsError
from gfs.settings import ClientSettings

WRITERS = 2
FILE_BYTES_MAX = 100_000
PAUSE_SECONDS = 0.25  # between the steps of a client: programs of eight hosts share this machine
LOG = "/load/log"


class Load:
    """`failed`: what a client was told instead of an answer, or read that was never written."""

    def __init__(self, masters: str, settings: ClientSettings, seed: int) -> None:
        self._masters, self._settings, self._seed = masters, settings, seed
        self._client = gfs.connect(masters, settings=settings)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._slowest_seconds = 0.0
        self.files: dict[str, bytes] = {}
        self.records: list[bytes] = []
        self.calls = 0
        self.failed: list[str] = []
        self._client.mkdir("/load", parents=True)
        self._client.write_bytes(LOG, b"")
        self._threads = [threading.Thread(target=self._write, args=(n,), daemon=True) for n in range(WRITERS)]
        self._threads.append(threading.Thread(target=self._append, daemon=True))
        for thread in self._threads:
            thread.start()

    def slowest_seconds(self) -> float:
        """Of the calls that ended since this was asked last."""
        with self._lock:
            slowest, self._slowest_seconds = self._slowest_seconds, 0.0
        return slowest

    def stop(self) -> None:
        """Returns when the last call has been answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def lost(self) -> list[str]:
        """By a client that has cached nothing: what cannot be read, or is not as it was acknowledged."""
        wrong = []
        with gfs.connect(self._masters, settings=self._settings) as client:
            for path, content in self.files.items():
                try:
                    if client.read_bytes(path) != content:
                        wrong.append(f"{path} has other bytes than were acknowledged")
                except GfsError as error:
                    wrong.append(f"{path}: {error.code}: {error.message}")
            try:
                found = Counter(bytes(record.payload) for record in client.records(LOG))
            except GfsError as error:
                return [*wrong, f"{LOG}: {error.code}: {error.message}"]
        wrong += [f"a record of {LOG} is there {found[one]} times" for one in self.records if found[one] != 1]
        return wrong

    def _write(self, writer: int) -> None:
        chance = Random(self._seed * WRITERS + writer)
        number = 0
        while not self._stop.wait(PAUSE_SECONDS):
            path, content = f"/load/{writer}-{number}", chance.randbytes(chance.randrange(1, FILE_BYTES_MAX))
            before = f"/load/{writer}-{chance.randrange(number + 1)}"
            number += 1
            try:
                began = time.monotonic()
                self._client.write_bytes(path, content)
                self._answered(began)
                self.files[path] = content
                began = time.monotonic()
                expected = self.files.get(before)
                if expected is not None and self._client.read_bytes(before) != expected:
                    self.failed.append(f"{before} was read with other bytes than were acknowledged")
                self._answered(began)
            except GfsError as error:
                self.failed.append(f"{path} or {before}: {error.code}: {error.message}")

    def _append(self) -> None:
        number = 0
        while not self._stop.wait(PAUSE_SECONDS):
            record = f"record {number}".encode()
            number += 1
            try:
                began = time.monotonic()
                self._client.record_append(LOG, record, framed=True)
                self._answered(began)
                self.records.append(record)
            except GfsError as error:
                self.failed.append(f"{record.decode()}: {error.code}: {error.message}")

    def _answered(self, began: float) -> None:
        with self._lock:
            self.calls += 1
            self._slowest_seconds = max(self._slowest_seconds, time.monotonic() - began)

"""A real master, alone in its cluster, started on a state that big_state has made. No measuring."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import msgspec

from gfs.bench.big_state import STATE_BYTES_MAX, write_checkpoint
from gfs.bench.processes import gfs
from gfs.disk import SystemDisk
from gfs.local.layout import Layout
from gfs.master.lmdb_tables import LmdbTables
from gfs.master.replication.member_disks import MemberDisks
from gfs.vocabulary import ClusterId, MasterId

CHECKPOINTS = 3  # made one after the other of a state that is to be measured
CHECKPOINT_INDEX = 1_000_000
LOG_BYTES_FOR_A_CHECKPOINT = 16 * 2**10  # one every second or so of steady work
START_SECONDS_MAX = 300.0
POLL_SECONDS = 0.01
MASTER = "m1"


def give_checkpoint(layout: Layout, source: str) -> None:
    """Put the newest checkpoint of the folder `source` in the place of the master's state; `source` goes."""
    directory = layout.node_directory(MASTER)
    cluster = layout.settings.cluster.id
    disks = MemberDisks(
        f"{directory}/log", SystemDisk(), me=MasterId(MASTER), cluster=ClusterId(cluster), has_history=True
    )
    # The bytes are those of another cluster's checkpoint; what is in them says nothing of clusters.
    tables = LmdbTables(_newest(source), bytes_max=STATE_BYTES_MAX)
    write_checkpoint(
        tables,
        f"{directory}/checkpoints",
        index=CHECKPOINT_INDEX + CHECKPOINTS,
        cluster=cluster,
        members=disks.all(),
    )
    tables.close()
    shutil.rmtree(source)
    for name in ("state.lmdb", "state.lmdb-lock"):
        Path(directory, name).unlink(missing_ok=True)


def _newest(folder: str) -> str:
    return str(max(Path(folder).glob("*.lmdb")))


class LoneMaster:
    """The one master of a layout, as a process."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.control = layout.settings.masters[MASTER].control
        self.checkpoints = f"{layout.node_directory(MASTER)}/checkpoints"
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> int:
        assert self._running is not None
        return self._running.pid

    async def start(self, path: str) -> float:
        """Seconds from its start until it has answered a linearizable lookup of `path`."""
        began = time.monotonic()
        environment = os.environ | {"GFS__RAFT__CHECKPOINT_LOG_BYTES": str(LOG_BYTES_FOR_A_CHECKPOINT)}
        with open(self.layout.log_path(MASTER), "ab") as log:
            self._running = subprocess.Popen(  # noqa: ASYNC220 - nothing else is on this loop
                gfs("--config", self.layout.config_path, "master", MASTER),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        body = msgspec.json.encode({"path": path})
        while not await asyncio.to_thread(_answers, f"http://{self.control}/v1/stat", body):
            assert self._running.poll() is None, f"the master has ended; see {self.layout.log_path(MASTER)}"
            assert time.monotonic() - began < START_SECONDS_MAX, "the master does not answer"
            await asyncio.sleep(POLL_SECONDS)
        return time.monotonic() - began

    def kill(self) -> None:
        if self._running is not None:
            self._running.send_signal(signal.SIGKILL)
            self._running.wait()
            self._running = None


def _answers(url: str, body: bytes) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=START_SECONDS_MAX):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False

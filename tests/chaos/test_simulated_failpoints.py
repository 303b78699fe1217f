"""Simulated programs that die at a named place of their code, and what was acknowledged outlives it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from chaos import testbed as beds
from chaos.plan import Configuration, Plan
from chaos.simulation import entry
from gfs import failpoints
from gfs.errors import GfsError
from gfs.verification.history import History, Sighting
from gfs.verification.recorder import Recorder

FILES_MAX = 40


def in_a_cluster(
    directory: Path, body: Callable[[beds.Testbed, History], Awaitable[None]], seed: int = 1
) -> None:
    plan = Plan(
        seed=seed,
        layer="sim",
        scenario="failpoints",
        configuration=Configuration(masters=1, chunkservers=1, replication_goal=1),
    )

    async def started(testbed: beds.Testbed) -> None:
        history = History()
        await testbed.start(Recorder(history, testbed.now_ns))
        await body(testbed, history)

    entry.run(plan, str(directory), started)


def deaths_and_starts(history: History, node: str) -> list[Sighting]:
    return [seen for seen in history.sightings if seen.node == node and seen.what == "started"]


@pytest.mark.parametrize("seed", [1, 2, 3])  # some are started anew to be armed, others are not
@pytest.mark.parametrize(
    ("node", "failpoint"),
    [("m1", "oplog.synced"), ("m1", "state.before_commit"), ("c1", "chunk.data_written")],
)
def test_what_was_acknowledged_outlives_a_death_at_a_failpoint(
    node: str, failpoint: str, seed: int, tmp_path: Path
) -> None:
    async def body(testbed: beds.Testbed, history: History) -> None:
        client = await testbed.client("one")
        await client.create("/before")
        await testbed.arm(node, f"{failpoint}=kill@3")
        starts = len(deaths_and_starts(history, node))
        written: list[str] = []
        for number in range(FILES_MAX):
            try:
                await client.write_bytes(path := f"/{number}", path.encode())
            except GfsError:
                break
            written.append(path)
        assert len(written) < FILES_MAX, "it did not die"
        assert len(deaths_and_starts(history, node)) == starts
        await testbed.restart(node)
        for path in written:
            assert await client.read_bytes(path) == path.encode()
        await client.write_bytes("/after", b"/after")
        await client.close()

    in_a_cluster(tmp_path, body, seed)
    assert failpoints._interceptor is None


def test_a_failpoint_that_is_not_there_is_refused(tmp_path: Path) -> None:
    async def body(testbed: beds.Testbed, _history: History) -> None:
        with pytest.raises(beds.CannotHere, match=r"no\.such"):
            await testbed.arm("m1", "no.such=kill")
        with pytest.raises(beds.CannotHere, match="only be killed"):
            await testbed.arm("m1", "oplog.synced=raise")

    in_a_cluster(tmp_path, body)


def test_reads_of_a_failing_disk_fail_too_and_those_of_a_mended_one_do_not(tmp_path: Path) -> None:
    async def body(testbed: beds.Testbed, _history: History) -> None:
        client = await testbed.client("one")
        await client.write_bytes("/file", b"bytes")
        await testbed.disk_errors("c1", share=1.0)
        with pytest.raises(GfsError):
            await client.read_bytes("/file")
        await testbed.heal_all()
        await testbed.restart("c1")
        assert await client.read_bytes("/file") == b"bytes"
        await client.close()

    in_a_cluster(tmp_path, body)

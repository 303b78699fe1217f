"""Bad input to what the paper has beyond a file system: records, offsets, snapshots, the trash, policies and
quotas. Each is answered by a sentence and an exit code, and costs nothing that was there (§3.3, §3.4, §7)."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gfs.client.client import AsyncClient
from gfs.errors import InvalidArgument, QuotaExceeded
from gfs.messages.policies import PolicyFields
from gfs.settings import APPEND_BYTES_MAX
from gfs.vocabulary import CHUNK_BYTES, MIB
from tests.processes import test_trash
from tests.processes.cluster import ProcessCluster

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]


class Shell:
    """The command line on one cluster, beside a client."""

    def __init__(self, cluster: ProcessCluster, client: AsyncClient) -> None:
        self.cluster, self.client = cluster, client

    async def run(self, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        return await asyncio.to_thread(test_trash.run, self.cluster, *arguments, stdin=stdin)

    async def ok(self, *arguments: str, stdin: bytes = b"") -> str:
        status, out, err = await self.run(*arguments, stdin=stdin)
        assert status == 0, (arguments, err)
        return out

    async def refused(self, status: int, says: str, *arguments: str, stdin: bytes = b"") -> None:
        """It ends with `status` and one sentence, perhaps what to do next, and where to look for more."""
        found, _, err = await self.run(*arguments, stdin=stdin)
        assert (found, says in err) == (status, True), (arguments, found, err)
        lines = err.splitlines()
        assert len(lines) <= 3 or lines[0].startswith("Usage: "), err
        assert "fault" not in err and "Error(" not in err, err


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gfs(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shell]:
    directory = tmp_path_factory.mktemp("bad-input-paper")
    cluster = ProcessCluster(directory, masters=1, chunkservers=3)
    cluster.start()
    async with await cluster.connect() as client:
        await cluster.ready(client)
        yield Shell(cluster, client)
    for node in cluster.processes:
        assert cluster.processes[node].poll() is None, node
        assert "Traceback" not in cluster.log(node), node
    cluster.stop()
    shutil.rmtree(directory)


async def test_records_too_large_and_empty_ones_are_refused_and_the_others_kept(
    gfs: Shell, tmp_path: Path
) -> None:
    await gfs.ok("append", "--create", "--record", "/log", stdin=b"one\ntwo\n")
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(APPEND_BYTES_MAX + 1)
    await gfs.refused(2, f"1 to {APPEND_BYTES_MAX}", "append", "/log", str(huge))
    await gfs.refused(2, "fit into one", "append", "--record", "/log", str(huge))
    await gfs.refused(2, "nothing to append", "append", "/log")
    await gfs.refused(3, "/none does not exist", "append", "/none", stdin=b"x")
    await gfs.refused(3, "no local file", "append", "/log", str(tmp_path / "none"))
    await gfs.refused(4, "is a directory", "append", "/", stdin=b"x")
    long_line = b"three\n" + bytes(APPEND_BYTES_MAX)
    await gfs.refused(2, "line 2 of standard input", "append", "--record", "/log", stdin=long_line)
    await gfs.ok("append", "--record", "/log", stdin=b"four\n\nsix")
    for record in (b"", bytes(APPEND_BYTES_MAX + 1)):
        with pytest.raises(InvalidArgument, match=f"1 to {APPEND_BYTES_MAX}"):
            await gfs.client.record_append("/log", record)
    assert await gfs.ok("cat", "--records", "/log") == "one\ntwo\nthree\nfour\n\nsix\n"


async def test_offsets_before_the_start_are_refused_and_beyond_the_end_there_is_nothing(gfs: Shell) -> None:
    client = gfs.client
    await gfs.ok("put", "-", "/read", stdin=b"0123456789")
    assert await gfs.ok("cat", "--offset", "8", "--length", "100", "/read") == "89"
    for beyond in ("10", str(CHUNK_BYTES), str(2**80)):
        assert await gfs.ok("cat", "--offset", beyond, "/read") == ""
    assert await gfs.ok("cat", "--records", "--offset", str(2**80), "/read") == ""
    assert await gfs.ok("cat", "--length", str(2**80), "/read") == "0123456789"
    await gfs.refused(2, "--offset", "cat", "--offset=-1", "/read")
    await gfs.refused(2, "--length", "cat", "--length=-1", "/read")
    for offset, length in ((3, 2**60), (3, 2**80), (10, 1), (2**80, 2**80)):
        assert await client.read("/read", offset, length) == b"0123456789"[offset:]
    with pytest.raises(InvalidArgument, match="cannot read 5 bytes at -1"):
        await client.read("/read", -1, 5)
    with pytest.raises(InvalidArgument, match="cannot seek to -1"):
        await client.read("/read", -1)
    with pytest.raises(InvalidArgument, match="cannot read at -1"):
        await anext(client.records("/read", offset=-1))


async def test_a_write_beyond_the_end_leaves_zeros_and_none_leaves_out_a_chunk(gfs: Shell) -> None:
    client = gfs.client
    await client.write_bytes("/written", b"0123456789")
    with pytest.raises(InvalidArgument, match="cannot write at -1: that is before the start"):
        await client.write("/written", -1, b"x")
    for far in (2 * CHUNK_BYTES, 2**63, 2**80):
        with pytest.raises(
            InvalidArgument, match="/written has 1 chunks, and the next one ends at 134217728"
        ):
            await client.write("/written", far, b"x")
    assert await client.read_bytes("/written") == b"0123456789"
    await client.write("/written", 20, b"x")
    assert await client.read_bytes("/written") == b"0123456789" + bytes(10) + b"x"
    await client.write("/written", CHUNK_BYTES + 5, b"y")
    assert await client.read("/written", CHUNK_BYTES - 1) == bytes(6) + b"y"


async def test_what_stands_in_the_way_of_a_snapshot_or_an_undeletion_stays_as_it_is(gfs: Shell) -> None:
    await gfs.ok("mkdir", "-p", "/tree/below")
    await gfs.ok("put", "-", "/tree/f", stdin=b"f")
    await gfs.ok("put", "-", "/other", stdin=b"other")
    for source, target, status, says in (
        ("/tree", "/tree/below/copy", 2, "/tree cannot be copied into itself"),
        ("/", "/copy", 2, "root"),
        ("/tree", "/tree", 4, "/tree exists"),
        ("/tree", "/other", 4, "/other exists"),
        ("/other", "/tree", 4, "/tree exists"),
        ("/none", "/copy", 3, "/none does not exist"),
        ("/tree", "/none/copy", 3, "/none does not exist"),
        ("/tree", "/other/copy", 4, "/other is a file"),
        ("/tree", "/.trash/copy", 2, "trash"),
    ):
        await gfs.refused(status, says, "snapshot", source, target)
    await gfs.ok("rm", "-r", "/tree")
    await gfs.ok("put", "-", "/tree", stdin=b"a file of that name")
    await gfs.refused(4, "/tree exists", "undelete", "/tree")
    await gfs.refused(4, "/other exists", "undelete", "/tree", "--to", "/other")
    assert await gfs.ok("cat", "/tree", "/other") == "a file of that nameother"
    await gfs.ok("undelete", "/tree", "--to", "/back")
    assert await gfs.ok("cat", "/back/f") == "f"


async def test_nonsense_in_a_policy_is_refused_and_the_policy_stays_as_it_is(gfs: Shell) -> None:
    await gfs.ok("mkdir", "/policy")
    await gfs.ok("policy", "set", "/policy", "replicas=2", "bytes=1GiB")
    before = await gfs.ok("policy", "show", "/policy")
    for value, says in (
        ("replicas=-1", "whole number"),
        ("replicas=17", "1..16"),
        (f"replicas={2**80}", "too much"),
        ("replicas=2.5", "whole number"),
        ("racks=0", "1..16"),
        ("trash=-1h", "duration"),
        ("trash=99999d", "within"),
        ("bytes=-1", "size"),
        ("bytes=1e99", "not a size"),
        ("bytes=9999999PiB", "too much"),
        ("files=" + "9" * 5000, "longer than any value"),
        ("files=", "whole number"),
        ("durability=", "flush or sync"),
        ("=3", "a policy has no"),
    ):
        # What is right beside it is not set either.
        beside = ["trash=5h"] if value.startswith("racks") else ["racks=1"]
        await gfs.refused(2, says, "policy", "set", "/policy", *beside, value)
    await gfs.refused(2, "nonsense", "policy", "unset", "/policy", "nonsense")
    await gfs.refused(3, "/none does not exist", "policy", "set", "/none", "replicas=2")
    await gfs.ok("put", "-", "/policy/f", stdin=b"f")
    await gfs.refused(4, "is a file", "policy", "set", "/policy/f", "replicas=2")
    for fields in (PolicyFields(replicas=2**80), PolicyFields(trash_ms=2**63), PolicyFields(bytes_max=-7)):
        with pytest.raises(InvalidArgument):
            await gfs.client.set_policy("/policy", fields)
    await gfs.ok("rm", "/policy/f", "--skip-trash")
    assert await gfs.ok("policy", "show", "/policy") == before


async def test_what_was_acknowledged_before_a_quota_was_reached_stays_readable(gfs: Shell) -> None:
    """Appends and a replacement run into it: the records so far and the old file are there as they were."""
    client = gfs.client
    await client.mkdir("/quota")
    await client.set_policy("/quota", PolicyFields(bytes_max=2 * CHUNK_BYTES))
    await client.create("/quota/log")
    old = b"old" * 1000
    await client.write_bytes("/quota/old", old)
    record, told = bytes(range(250)) * 60_000, []
    with pytest.raises(QuotaExceeded, match="the quota of /quota is 134217728 bytes"):
        while True:
            told.append(await client.record_append("/quota/log", record, framed=True))
            assert len(told) < 20
    assert len(told) >= 4
    found = [one async for one in client.records("/quota/log")]
    assert [one.offset_bytes for one in found] == told
    assert all(one.payload == record for one in found)
    await gfs.refused(
        8, "the quota of /quota", "put", "--force", "-", "/quota/old", stdin=bytes(CHUNK_BYTES + MIB)
    )
    assert await client.read_bytes("/quota/old") == old
    await gfs.refused(8, "the quota of /quota", "put", "-", "/quota/new", stdin=bytes(CHUNK_BYTES + MIB))
    assert await client.listdir("/quota") == ["log", "old"]
    await gfs.ok("rm", "--skip-trash", "/quota/log")
    await gfs.ok("put", "--force", "-", "/quota/old", stdin=b"room again")
    assert await gfs.ok("cat", "/quota/old") == "room again"

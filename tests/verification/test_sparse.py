"""Records of files with holes: read chunk by chunk they are those that a reader of all of it finds."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from gfs.verification.workloads.marks import CELL_BYTES, find_records, make_record
from gfs.verification.workloads.sparse import Reached, records_and_end
from gfs.vocabulary import CHUNK_BYTES
from tests.client.real_cluster import RealCluster
from tests.verification.local_subject import SETTINGS

LEFT_BYTES = 4096


def test_records_on_both_sides_of_a_hole_are_found_where_a_reader_of_all_bytes_finds_them(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with RealCluster(tmp_path) as cluster, await cluster.client(SETTINGS) as client:
            await client.create("/f")
            await client.write("/f", CHUNK_BYTES - LEFT_BYTES, bytes(CELL_BYTES))
            chance, ends = random.Random(1), []
            for sequence in range(4):
                record = make_record(1, sequence, 1500, chance)
                ends.append(await client.record_append("/f", record) + len(record))
            whole = await client.read_bytes("/f")
            records, end = await records_and_end(client, "/f")
            assert ends[0] < CHUNK_BYTES < ends[-1], "records lie on both sides of a chunk's end"
            assert records == find_records(whole).records and len(records) == 4
            assert end == len(whole)

    asyncio.run(main())


def test_a_file_is_known_to_have_holes_once_an_append_beyond_its_first_chunk_was_acknowledged() -> None:
    reached = Reached()
    reached.note("/f", CHUNK_BYTES)
    assert not reached.has_holes("/f")
    reached.note("/f", CHUNK_BYTES + 10)
    reached.note("/f", 20)
    assert reached.has_holes("/f") and not reached.has_holes("/g")

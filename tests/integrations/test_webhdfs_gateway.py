"""HDFS's REST interface: with the clients of PyPI's hdfs and of fsspec, and step by step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import fsspec
import pytest
import requests

import gfs
from gfs.client.blocking import Client
from gfs.integrations.gateways.webhdfs_checksum import FileChecksum
from gfs.vocabulary import CHUNK_BYTES, MIB
from tests.integrations.gateways import running_webhdfs

hdfs = pytest.importorskip("hdfs")


@pytest.fixture(scope="module")
def gateway(masters: str) -> Iterator[str]:
    with running_webhdfs(masters) as url:
        yield url


@pytest.fixture(scope="module")
def client(masters: str) -> Iterator[Client]:
    with gfs.connect(masters) as client:
        yield client


@pytest.fixture
def folder(client: Client, request: pytest.FixtureRequest) -> str:
    client.mkdir(f"/{request.node.name}")
    return f"/{request.node.name}"


def test_client_of_pypi_writes_reads_lists_and_changes_names(
    gateway: str, folder: str, tmp_path: os.PathLike[str]
) -> None:
    user = hdfs.InsecureClient(gateway, user="somebody", root=folder)
    content = os.urandom(5 * MIB)
    user.write("deep/a", content)
    with user.write("deep/b", encoding="utf-8") as writer:
        writer.write("wörter\n")
    with user.read("deep/a") as reader:
        assert reader.read() == content
    with user.read("deep/a", offset=100, length=50) as reader:
        assert reader.read() == content[100:150]
    with user.read("deep/b", encoding="utf-8", delimiter="\n") as reader:
        assert next(iter(reader)) == "wörter"
    assert user.list("deep") == ["a", "b"]
    status = user.status("deep/a")
    assert (status["length"], status["type"], status["replication"]) == (len(content), "FILE", 3)
    summary = user.content("/" + folder.strip("/"))
    assert (summary["fileCount"], summary["length"]) == (2, len(content) + len("wörter\n".encode()))
    assert [name for _, _, names in user.walk("") for name in names] == ["a", "b"]
    user.write("deep/b", b"more", append=True)
    with user.read("deep/b") as reader:
        assert reader.read() == "wörter\nmore".encode()
    user.rename("deep/a", "deep/c")
    assert user.status("deep/a", strict=False) is None
    user.makedirs("empty", permission=750)
    assert user.status("empty")["permission"] == "750"
    user.set_permission("deep/c", "600")
    assert user.status("deep/c")["permission"] == "600"
    assert user.checksum("deep/c")["algorithm"] == "MD5-of-0MD5-of-512CRC32C"
    local = os.path.join(tmp_path, "copy")
    user.download("deep/c", local)
    user.upload("uploaded", local)
    assert user.status("uploaded")["length"] == len(content)
    assert user.delete("deep/c") is True
    assert user.delete("deep/c") is False
    with pytest.raises(hdfs.HdfsError, match="not empty"):
        user.delete("deep")
    assert user.delete("deep", recursive=True) is True
    assert user.resolve("x").startswith("/")


def test_refusals_have_the_names_that_clients_of_hdfs_know(gateway: str, folder: str) -> None:
    user = hdfs.InsecureClient(gateway, root=folder)
    user.write("a", b"first")
    for work, exception in (
        (lambda: user.write("a", b"second"), "FileAlreadyExistsException"),
        (lambda: user.status("nothing"), "FileNotFoundException"),
        (lambda: user.write("nothing", b"", append=True), "FileNotFoundException"),
        (lambda: user.set_times("a", access_time=1), "UnsupportedOperationException"),
        (lambda: user.set_replication("a", 2), "UnsupportedOperationException"),
        (lambda: user.set_replication("nothing", 3), "FileNotFoundException"),
        (lambda: user.makedirs("a/below"), "ParentNotDirectoryException"),
    ):
        with pytest.raises(hdfs.HdfsError) as refused:
            work()
        assert refused.value.exception == exception
    concat = requests.post(f"{gateway}/webhdfs/v1{folder}/a?op=CONCAT&sources={folder}/b")
    assert concat.json()["RemoteException"]["exception"] == "UnsupportedOperationException"
    with user.read("a") as reader:
        assert reader.read() == b"first"


def test_the_replication_that_a_file_has_is_granted_again(gateway: str, folder: str) -> None:
    user = hdfs.InsecureClient(gateway, root=folder)
    user.write("a", b"x", replication=2)
    assert user.status("a")["replication"] == 2
    user.set_replication("a", 2)
    with pytest.raises(hdfs.HdfsError, match="not a file"):
        user.set_replication("", 2)


def test_fsspecs_webhdfs_reads_writes_and_moves(gateway: str, folder: str) -> None:
    address = urlsplit(gateway)
    user = fsspec.filesystem("webhdfs", host=address.hostname, port=address.port, user="somebody")
    content = os.urandom(3 * MIB)
    with user.open(f"{folder}/a", "wb", block_size=MIB) as file:
        file.write(content)
    assert user.cat_file(f"{folder}/a") == content
    with user.open(f"{folder}/a", "rb") as file:
        file.seek(-10, 2)
        assert file.read() == content[-10:]
    assert user.info(f"{folder}/a")["size"] == len(content)
    user.mkdir(f"{folder}/below")
    user.mv(f"{folder}/a", f"{folder}/below/b")
    assert [one["name"] for one in user.ls(folder, detail=True)] == [f"{folder}/below"]
    assert user.find(folder) == [f"{folder}/below/b"]
    assert user.content_summary(folder)["length"] == len(content)
    assert user.ukey(f"{folder}/below/b")["length"] == 28
    assert user.home_directory() == "/user/somebody"
    with pytest.raises(FileNotFoundError):
        user.info(f"{folder}/nothing")
    user.rm(f"{folder}/below", recursive=True)
    assert user.ls(folder) == []


def test_bytes_are_sent_in_a_second_step_to_where_the_first_one_says(
    gateway: str, folder: str, client: Client
) -> None:
    url = f"{gateway}/webhdfs/v1{folder}/a%20b"
    first = requests.put(f"{url}?op=CREATE&user.name=x", allow_redirects=False)
    assert (first.status_code, client.exists(f"{folder}/a b")) == (307, False)
    second = requests.put(first.headers["Location"], data=b"content")
    assert second.status_code == 201
    assert client.read_bytes(f"{folder}/a b") == b"content"
    told = requests.post(f"{url}?op=append&noredirect=true").json()
    assert requests.post(told["Location"], data=b" and more").status_code == 200
    assert client.read_bytes(f"{folder}/a b") == b"content and more"
    refused = requests.put(f"{url}?op=CREATE", allow_redirects=False)
    assert (refused.status_code, refused.json()["RemoteException"]["exception"]) == (
        403,
        "FileAlreadyExistsException",
    )


def test_appends_through_one_gateway_follow_each_other(gateway: str, folder: str, client: Client) -> None:
    client.create(f"{folder}/log")
    url = f"{gateway}/webhdfs/v1{folder}/log?op=APPEND&data=true"
    blocks = [bytes([65 + n]) * 1000 for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda block: requests.post(url, data=block).status_code, blocks))
    assert answers == [200] * 8
    content = client.read_bytes(f"{folder}/log")
    assert sorted(content[at : at + 1000] for at in range(0, len(content), 1000)) == blocks


def test_blocks_are_told_with_where_they_lie(gateway: str, folder: str, client: Client) -> None:
    client.write_bytes(f"{folder}/a", b"x" * 1000)
    told = requests.get(f"{gateway}/webhdfs/v1{folder}/a?op=GETFILEBLOCKLOCATIONS").json()
    (block,) = told["BlockLocations"]["BlockLocation"]
    assert (block["offset"], block["length"], len(block["names"])) == (0, 1000, 3)


def test_numbers_and_modes_that_are_none_are_refused(gateway: str, folder: str, client: Client) -> None:
    client.write_bytes(f"{folder}/a", b"x")
    for query in ("op=OPEN&offset=-1", "op=OPEN&offset=5", "op=OPEN&length=many", "op=NOTHING", ""):
        refused = requests.get(f"{gateway}/webhdfs/v1{folder}/a?{query}")
        assert (refused.status_code, "RemoteException" in refused.json()) == (400, True), query
    refused = requests.put(f"{gateway}/webhdfs/v1{folder}/a?op=SETPERMISSION&permission=999")
    assert refused.status_code == 400


def test_a_checksum_is_what_hdfs_tells_of_the_same_bytes() -> None:
    empty = FileChecksum().answer()
    assert empty["algorithm"] == "MD5-of-0MD5-of-0CRC32"
    assert empty["bytes"] == "00" * 12 + "70bc8f4b72a86921468bf8e8441dce51", (
        "what HDFS tells of every empty file"
    )
    content = os.urandom(70_001)
    whole, in_pieces = FileChecksum(), FileChecksum()
    whole.feed(content)
    for start in range(0, len(content), 999):
        in_pieces.feed(content[start : start + 999])
    assert whole.answer() == in_pieces.answer()
    long = FileChecksum()
    for _ in range(CHUNK_BYTES // MIB):
        long.feed(bytes(MIB))
    long.feed(b"x")
    assert long.answer()["algorithm"] == f"MD5-of-{CHUNK_BYTES // 512}MD5-of-512CRC32C"


def test_places_of_bytes_and_pieces_of_listings_are_told_as_hadoops_client_asks(
    gateway: str, folder: str, client: Client
) -> None:
    client.write_bytes(f"{folder}/b", b"12345")
    client.write_bytes(f"{folder}/a", b"")

    def ask(path: str, op: str, **more: str) -> dict[str, Any]:
        return dict(requests.get(f"{gateway}/webhdfs/v1{path}", params={"op": op, **more}).json())

    located = ask(f"{folder}/b", "GET_BLOCK_LOCATIONS")["LocatedBlocks"]
    assert (located["fileLength"], len(located["locatedBlocks"])) == (5, 1)
    block = located["locatedBlocks"][0]
    assert (block["startOffset"], block["block"]["numBytes"], len(block["locations"])) == (0, 5, 3)
    beyond = ask(f"{folder}/b", "GET_BLOCK_LOCATIONS", offset=str(CHUNK_BYTES))["LocatedBlocks"]
    assert beyond["locatedBlocks"] == [] and beyond["lastLocatedBlock"] is None
    places = ask(f"{folder}/b", "GETFILEBLOCKLOCATIONS")["BlockLocations"]["BlockLocation"]
    assert [(place["offset"], place["length"]) for place in places] == [(0, 5)]
    listed = ask(folder, "LISTSTATUS_BATCH")["DirectoryListing"]
    rows = listed["partialListing"]["FileStatuses"]["FileStatus"]
    assert ([row["pathSuffix"] for row in rows], listed["remainingEntries"]) == (["a", "b"], 0)
    rest = ask(folder, "LISTSTATUS_BATCH", startAfter="a")["DirectoryListing"]["partialListing"]
    assert [row["pathSuffix"] for row in rest["FileStatuses"]["FileStatus"]] == ["b"]

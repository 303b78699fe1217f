"""The sync face: the same verbs from any thread, files as the io module knows them."""

from __future__ import annotations

import hashlib
import inspect
import io
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import gfs
from gfs.client.blocking import BlockingOperator, Client
from gfs.client.client import AsyncClient
from gfs.client.operating import Operator
from gfs.errors import InvalidArgument, NotFound, Unavailable
from gfs.settings import ClientSettings
from gfs.vocabulary import MIB
from tests.client.mini_cluster import PIECE_BYTES, MiniCluster
from tests.client.test_writing import _bytes


@pytest.fixture
def cluster() -> MiniCluster:
    return MiniCluster()


@pytest.fixture
def client(cluster: MiniCluster) -> Iterator[Client]:
    async def connecting() -> AsyncClient:
        return cluster.client(ClientSettings(piece_bytes=PIECE_BYTES))

    with Client(connecting) as client:
        yield client


def test_every_verb_of_the_namespace_works_without_an_event_loop(client: Client) -> None:
    client.mkdir("/d")
    client.create("/d/a")
    client.rename("/d/a", "/d/b")
    assert client.exists("/d/b") and not client.exists("/d/a")
    assert client.listdir("/d") == ["b"]
    assert [entry.path for entry in client.list("/d")] == ["/d/b"]
    assert client.stat("/d/b").length_bytes == 0
    client.delete("/d/b")
    with pytest.raises(NotFound):
        client.stat("/d/b")


def test_operators_verbs_are_those_of_the_asynchronous_face() -> None:
    def public(kind: type) -> dict[str, inspect.Signature]:
        methods = {name: getattr(kind, name) for name in vars(kind) if not name.startswith("_")}
        return {name: inspect.signature(m) for name, m in methods.items() if callable(m)}

    ours, theirs = public(BlockingOperator), public(Operator)
    assert {n: list(s.parameters.values()) for n, s in ours.items()} == {
        n: list(s.parameters.values()) for n, s in theirs.items()
    }
    verbs, theirs = public(Client), public(AsyncClient)
    assert set(theirs) <= set(verbs), set(theirs) - set(verbs)


def test_a_file_is_continued_where_it_ends(client: Client) -> None:
    for part in (b"one\n", b"two\n"):
        with client.open("/f", "ab") as file:
            file.write(part)
    assert client.read_bytes("/f") == b"one\ntwo\n"


def test_shutil_copies_into_and_out_of_the_cluster(client: Client, tmp_path: Path) -> None:
    data = _bytes(3 * MIB + 17)
    (tmp_path / "in").write_bytes(data)
    with (tmp_path / "in").open("rb") as source, client.open("/a", "wb") as target:
        shutil.copyfileobj(source, target)
    with client.open("/a") as stored, (tmp_path / "out").open("wb") as out:
        shutil.copyfileobj(stored, out)
    assert (tmp_path / "out").read_bytes() == data
    assert client.read_bytes("/a") == data


def test_a_file_reads_seeks_and_iterates_like_a_local_one(client: Client) -> None:
    lines = b"".join(b"line %d\n" % n for n in range(1000))
    client.write_bytes("/a", lines)
    local = io.BytesIO(lines)
    with client.open("/a", "rb") as file:
        assert file.seekable() and file.readable() and not file.writable()
        assert file.readline() == local.readline()
        assert file.seek(-10, io.SEEK_END) == local.seek(-10, io.SEEK_END)
        assert file.read() == local.read()
        assert file.seek(100) == local.seek(100)
        assert file.read(7) == local.read(7)
        assert file.seek(5, io.SEEK_CUR) == local.seek(5, io.SEEK_CUR)
        assert list(file) == list(local)


def test_small_writes_are_gathered_and_flush_makes_them_readable(
    client: Client, cluster: MiniCluster
) -> None:
    def ordered() -> list[int]:
        return [offset for server in cluster.servers.values() for offset in server.offsets_ordered]

    with client.open("/a", "wb") as file:
        for n in range(1000):
            assert file.write(b"%04d" % n) == 4
        assert file.tell() == 4000
        assert ordered() == []
        file.flush()
        assert client.read_bytes("/a") == b"".join(b"%04d" % n for n in range(1000))
    assert ordered() == [0]


def test_an_atomic_file_left_by_an_exception_or_dropped_never_appears(client: Client) -> None:
    with pytest.raises(ZeroDivisionError):
        with client.open("/a", "wb", atomic=True) as file:
            file.write(b"half")
            raise ZeroDivisionError
    dropped = client.open("/b", "wb", atomic=True)
    dropped.write(b"half")
    del dropped
    assert not client.exists("/a") and not client.exists("/b")


def test_many_threads_share_one_client_and_each_gets_its_own_bytes_back(client: Client) -> None:
    def work(n: int) -> str:
        data = _bytes(PIECE_BYTES + n * 1000, seed=n)
        client.write_bytes(f"/{n}", data)
        with client.open(f"/{n}") as file:
            assert hashlib.sha256(file.read()).digest() == hashlib.sha256(data).digest()
        return f"{n}"

    with ThreadPoolExecutor(12) as threads:
        done = list(threads.map(work, range(36)))
    assert sorted(client.listdir("/")) == sorted(done)


def test_a_closed_client_refuses_and_may_be_closed_again(client: Client) -> None:
    client.close()
    client.close()
    with pytest.raises(Unavailable):
        client.exists("/")


def test_using_a_closed_file_is_the_error_the_io_module_promises(client: Client) -> None:
    file = client.open("/a", "wb")
    file.close()
    file.close()
    assert file.closed
    with pytest.raises(ValueError, match="closed"):
        file.write(b"x")


@pytest.mark.parametrize("masters", ["", "gfs://", "m1:0", "m1:99999", "http://m1:9500", [], ["a b:1"]])
def test_what_is_no_address_is_refused_before_anything_is_dialled(masters: str | list[str]) -> None:
    with pytest.raises(InvalidArgument):
        gfs.connect(masters)


def test_addresses_may_be_a_url_a_list_or_without_a_port() -> None:
    expected = ["m1:9500", "m2:9501", "[::1]:9500"]
    assert gfs.aio.parse_masters("gfs://m1,m2:9501,[::1]:9500/") == expected
    assert gfs.aio.parse_masters(["m1:9500", "m2:9501", "[::1]", "m1"]) == expected


def test_text_is_read_and_written_as_with_pythons_own_open(client: Client, tmp_path: Path) -> None:
    lines = "eins\r\nzw\u00f6lf\n"
    for newline in (None, "", "\n"):
        with (
            client.open("/t", "w", newline=newline) as file,
            (tmp_path / "t").open("w", encoding="utf-8", newline=newline) as local,
        ):
            assert file.write(lines) == local.write(lines)
        assert client.read_bytes("/t") == (tmp_path / "t").read_bytes()
        with (
            client.open("/t", "rt", newline=newline) as file,
            (tmp_path / "t").open(encoding="utf-8", newline=newline) as local,
        ):
            assert list(file) == list(local)
        client.delete("/t")
    for mode in ("xt", "a"):
        with client.open("/latin", mode, encoding="latin-1") as file:
            file.write("\u00e9")
    assert client.read_bytes("/latin") == b"\xe9\xe9"
    with client.open("/latin", "r", errors="replace") as file:
        assert file.read() == "\ufffd\ufffd"


def test_text_that_cannot_be_is_refused_before_a_file_is_made(client: Client) -> None:
    for mode, how in (("w", {"encoding": "klingon"}), ("w", {"newline": "x"}), ("wb", {"encoding": "utf-8"})):
        with pytest.raises(InvalidArgument):
            client.open("/never", mode, **how)  # type: ignore[call-overload]
    with pytest.raises(InvalidArgument):
        client.open("/never", "w", errors="no such handler")
    assert not client.exists("/never")

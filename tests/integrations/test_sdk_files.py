"""The sync SDK's files are files of the io module; its clients go through pickles and forks."""

from __future__ import annotations

import csv
import gc
import io
import multiprocessing
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

import gfs
from gfs.client.blocking import Client
from gfs.errors import GfsError, Unavailable
from gfs.vocabulary import MIB

CHILD_SECONDS = 60.0


@pytest.fixture(scope="module")
def client(masters: str) -> Iterator[Client]:
    with gfs.connect(masters) as client:
        yield client


def test_text_is_written_and_read_line_by_line_through_the_io_modules_own_wrappers(client: Client) -> None:
    with io.TextIOWrapper(client.open("/text", "wb"), encoding="utf-8", newline="") as text:
        csv.writer(text).writerows([["ä", "1"], ["ö", "2"]])
    with io.TextIOWrapper(client.open("/text"), encoding="utf-8", newline="") as text:
        assert list(csv.reader(text)) == [["ä", "1"], ["ö", "2"]]
        text.seek(0)
        assert text.readline() == "ä,1\r\n"


def test_binary_lines_seeks_and_peeks_are_those_of_a_local_file(client: Client) -> None:
    content = b"".join(b"line %d\n" % n for n in range(1000))
    client.write_bytes("/lines", content)
    with client.open("/lines") as file:
        local = io.BytesIO(content)
        assert isinstance(file, io.BufferedReader)
        assert next(file) == next(local)
        assert file.seek(-20, io.SEEK_END) == local.seek(-20, io.SEEK_END)
        assert list(file) == list(local)
        assert file.seek(5) == 5
        assert file.seek(5, io.SEEK_CUR) == 10
        assert file.peek(4)[:4] == content[10:14]
        buffer = bytearray(7)
        assert file.readinto(buffer) == 7
        assert bytes(buffer) == content[10:17]
        assert file.read() == content[17:]
        assert file.read(1) == b""
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
        with pytest.raises(ValueError, match="before the start"):
            file.raw.seek(-1)
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")


def test_closed_files_refuse_with_the_error_of_the_io_module(client: Client) -> None:
    client.write_bytes("/closed", b"content")
    reader = client.open("/closed")
    raw = reader.raw
    reader.close()
    writer = client.open("/closed", "wb")
    writer.close()
    writer.close()
    for refused in (
        reader.read,
        raw.readall,
        raw.tell,
        lambda: raw.readinto(bytearray(1)),
        lambda: raw.seek(0),
        lambda: writer.write(b"x"),
    ):
        with pytest.raises(ValueError, match="closed"):
            refused()


def test_archives_are_written_and_read_in_place(client: Client) -> None:
    with client.open("/archive.zip", "wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", b"x" * MIB)
    with client.open("/archive.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.read("a") == b"x" * MIB
    with client.open("/archive.tar", "wb") as file, tarfile.open(fileobj=file, mode="w|gz") as tar:
        member = tarfile.TarInfo("a")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"12345"))
    with client.open("/archive.tar") as file, tarfile.open(fileobj=file, mode="r:gz") as tar:
        assert tar.extractfile("a").read() == b"12345"  # type: ignore[union-attr]


def test_copyfileobj_copies_between_two_files_of_the_cluster(client: Client) -> None:
    client.write_bytes("/source", bytes(range(256)) * 8192)
    with client.open("/source") as source, client.open("/target", "wb", atomic=True) as target:
        shutil.copyfileobj(source, target)
    assert client.read_bytes("/target") == client.read_bytes("/source")


def test_reader_that_is_dropped_unclosed_lets_go_of_its_connection_quietly(
    client: Client, recwarn: pytest.WarningsRecorder
) -> None:
    client.write_bytes("/dropped", b"content")
    file = client.open("/dropped")
    assert file.read(1) == b"c"
    del file
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []
    assert client.read_bytes("/dropped") == b"content"


def test_pickled_client_connects_anew_as_the_first_did(client: Client) -> None:
    client.write_bytes("/pickled", b"content")
    with pickle.loads(pickle.dumps(client)) as again:
        assert again.read_bytes("/pickled") == b"content"
    assert client.read_bytes("/pickled") == b"content"  # closing one does not close the other


def _use_in_child(client: Client, file: io.BufferedReader, to: Connection) -> None:
    try:
        file.raw.seek(0, io.SEEK_END)
    except GfsError as error:
        to.send(type(error))
    file.close()
    client.write_bytes("/of-the-child", b"written by the child")
    to.send(client.read_bytes("/of-the-parent"))
    client.close()
    to.close()


def test_forked_child_uses_the_client_and_leaves_the_parents_files_alone(client: Client) -> None:
    client.write_bytes("/of-the-parent", b"content")
    with client.open("/of-the-parent") as file:
        processes = multiprocessing.get_context("fork")
        mine, theirs = processes.Pipe()
        child = processes.Process(target=_use_in_child, args=(client, file, theirs))
        child.start()
        theirs.close()
        heard = []
        for _ in range(2):
            assert mine.poll(CHILD_SECONDS)
            heard.append(mine.recv())
        child.join(CHILD_SECONDS)
        assert (heard, child.exitcode) == ([Unavailable, b"content"], 0)
        assert file.read() == b"content"
    assert client.read_bytes("/of-the-child") == b"written by the child"


def test_closed_client_stays_closed_in_a_child(masters: str) -> None:
    client = gfs.connect(masters)
    client.close()
    processes = multiprocessing.get_context("fork")
    child = processes.Process(target=_must_be_closed, args=(client,))
    child.start()
    child.join(CHILD_SECONDS)
    assert child.exitcode == 0


def _must_be_closed(client: Client) -> None:
    with pytest.raises(Unavailable):
        client.exists("/")

"""Clients that put and get bytes under names, with their own defaults: of the gateways, a mount, the SDK."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

import fsspec
import pytest

import gfs
from gfs import aio
from gfs.client.blocking import Client
from gfs.client.loop_thread import LoopThread
from gfs.vocabulary import MIB
from tests.foreign.conftest import tool
from tests.processes.cluster import ProcessCluster

KEY, SECRET = "AKforeign", "a secret of some length"
BIG_BYTES = 20 * MIB + 7  # several parts for each of them


class Work(Protocol):
    """What a client does over and over, by two threads at once."""

    def step(self, name: str, *, big: bool) -> None:
        """Store something under a name, read it back, look for it. Raises what the client raises."""

    def compare(self, client: Client, name: str) -> None:
        """Fail when the SDK finds anything else than what the step stored."""


class Verbs(NamedTuple):
    """How a client works within one directory of the cluster (a bucket, at the S3 gateway)."""

    put: Callable[[str, bytes], object]
    get: Callable[[str], bytes]
    names: Callable[[], list[str]]


class Places(NamedTuple):
    """Where a client finds the cluster. `local`: a directory of the test's own."""

    cluster: ProcessCluster
    s3: str
    webhdfs: str
    http: str
    local: Path

    @property
    def masters(self) -> str:
        return ",".join(self.cluster.addresses)


ByteClient = Callable[[Places, str], AbstractContextManager[Verbs]]


class BytesWork:
    """Puts, gets and lists by a client's verbs in `folder`."""

    def __init__(self, verbs: Verbs, folder: str) -> None:
        self._verbs, self._folder = verbs, folder
        self._stored: dict[str, bytes] = {}

    def step(self, name: str, *, big: bool) -> None:
        content = os.urandom(BIG_BYTES) if big else f"what {name} stores".encode()
        self._verbs.put(name, content)
        self._stored[name] = content
        assert self._verbs.get(name) == content
        assert name in self._verbs.names()

    def compare(self, client: Client, name: str) -> None:
        assert client.read_bytes(f"/{self._folder}/{name}") == self._stored[name]


@contextmanager
def boto3(places: Places, folder: str) -> Iterator[Verbs]:
    s3 = pytest.importorskip("boto3").client(
        "s3",
        endpoint_url=places.s3,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )

    def put(name: str, content: bytes) -> None:
        local = places.local / name
        local.write_bytes(content)
        s3.upload_file(str(local), folder, name)  # big ones in parts, several at once

    def names() -> list[str]:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=folder)
        return [one["Key"] for page in pages for one in page["Contents"]]

    yield Verbs(put, lambda name: s3.get_object(Bucket=folder, Key=name)["Body"].read(), names)
    s3.close()


@contextmanager
def pyarrow_s3(places: Places, folder: str) -> Iterator[Verbs]:
    pytest.importorskip("pyarrow")
    from pyarrow import fs

    remote = fs.S3FileSystem(
        access_key=KEY,
        secret_key=SECRET,
        endpoint_override=urlsplit(places.s3).netloc,
        scheme="http",
        region="us-east-1",
    )

    def put(name: str, content: bytes) -> None:
        with remote.open_output_stream(f"{folder}/{name}") as stream:
            stream.write(content)

    def get(name: str) -> bytes:
        with remote.open_input_stream(f"{folder}/{name}") as stream:
            return bytes(stream.read())

    yield Verbs(put, get, lambda: [info.base_name for info in remote.get_file_info(fs.FileSelector(folder))])


@contextmanager
def obstore(places: Places, folder: str) -> Iterator[Verbs]:
    obstore = pytest.importorskip("obstore")
    from obstore.store import S3Store

    store = S3Store(
        folder,
        endpoint=places.s3,
        access_key_id=KEY,
        secret_access_key=SECRET,
        region="us-east-1",
        client_options={"allow_http": True},
    )
    yield Verbs(
        lambda name, content: obstore.put(store, name, content),
        lambda name: bytes(obstore.get(store, name).bytes()),
        lambda: [one["path"] for page in obstore.list(store) for one in page],
    )


@contextmanager
def hdfs(places: Places, folder: str) -> Iterator[Verbs]:
    user = pytest.importorskip("hdfs").InsecureClient(places.webhdfs, user="somebody", root=f"/{folder}")

    def get(name: str) -> bytes:
        with user.read(name) as reader:
            return bytes(reader.read())

    yield Verbs(lambda name, content: user.write(name, content), get, lambda: user.list(""))


@contextmanager
def fsspec_webhdfs(places: Places, folder: str) -> Iterator[Verbs]:
    at = urlsplit(places.webhdfs)
    where = {"host": at.hostname, "port": at.port, "user": "somebody"}
    user = fsspec.filesystem("webhdfs", **where, skip_instance_cache=True)

    def put(name: str, content: bytes) -> None:
        with user.open(f"/{folder}/{name}", "wb", block_size=5 * MIB) as file:
            file.write(content)

    def names() -> list[str]:
        return [path.rpartition("/")[2] for path in user.ls(f"/{folder}", detail=False)]

    yield Verbs(put, lambda name: user.cat_file(f"/{folder}/{name}"), names)


def names_of_listing(answer: bytes) -> list[str]:
    """What the HTTP gateway tells of a directory, in JSON."""
    return [entry["path"].rpartition("/")[2] for entry in json.loads(answer)["entries"]]


@contextmanager
def python_http(places: Places, folder: str) -> Iterator[Verbs]:
    def ask(name: str, method: str = "GET", content: bytes | None = None) -> bytes:
        wanted = urllib.request.Request(f"{places.http}/v1/fs/{folder}/{name}", data=content, method=method)
        with urllib.request.urlopen(wanted) as response:
            return bytes(response.read())

    def put(name: str, content: bytes) -> None:
        ask(name, "PUT", content)

    yield Verbs(put, ask, lambda: names_of_listing(ask("?format=json")))


@contextmanager
def curl(places: Places, folder: str) -> Iterator[Verbs]:
    command = [tool("curl"), "--silent", "--show-error", "--fail"]

    def say(name: str, *options: str) -> bytes:
        url = f"{places.http}/v1/fs/{folder}/{name}"
        ran = subprocess.run([*command, *options, url], capture_output=True, cwd=places.local)
        assert ran.returncode == 0, (ran.args, ran.stderr.decode())
        return ran.stdout

    def put(name: str, content: bytes) -> None:
        local = places.local / name
        local.write_bytes(content)
        say(name, "--upload-file", str(local))

    yield Verbs(put, say, lambda: names_of_listing(say("?format=json")))


@contextmanager
def mount(places: Places, folder: str) -> Iterator[Verbs]:
    if not os.path.exists("/dev/fuse"):
        pytest.skip("a mount needs /dev/fuse")
    tool("fusermount3")
    here = places.local / "here"
    here.mkdir()
    command = [*places.cluster.command("mount", f"/{folder}"), str(here)]
    subprocess.run(command, check=True, capture_output=True)

    def put(name: str, content: bytes) -> None:
        with open(here / name, "wb") as file:
            file.write(content)
            os.fsync(file.fileno())

    try:
        yield Verbs(put, lambda name: (here / name).read_bytes(), lambda: os.listdir(here))
    finally:
        subprocess.run([tool("fusermount3"), "-u", str(here)], check=True, capture_output=True)


@contextmanager
def sdk(places: Places, folder: str) -> Iterator[Verbs]:
    with gfs.connect(places.masters) as client:
        yield Verbs(
            lambda name, content: client.write_bytes(f"/{folder}/{name}", content),
            lambda name: client.read_bytes(f"/{folder}/{name}"),
            lambda: list(client.listdir(f"/{folder}")),
        )


@contextmanager
def async_sdk(places: Places, folder: str) -> Iterator[Verbs]:
    """Eight of everything at once."""
    thread = LoopThread()
    client = thread.run(aio.connect(places.masters))
    others = [f"beside-{number}" for number in range(7)]

    async def put(name: str, content: bytes) -> None:
        beside = (client.write_bytes(f"/{folder}/{name}-{other}", other.encode()) for other in others)
        await asyncio.gather(client.write_bytes(f"/{folder}/{name}", content), *beside)

    async def get(name: str) -> bytes:
        beside = (client.read_bytes(f"/{folder}/{name}-{other}") for other in others)
        content, *found = await asyncio.gather(client.read_bytes(f"/{folder}/{name}"), *beside)
        assert found == [other.encode() for other in others]
        return content

    async def names() -> list[str]:
        return list(await client.listdir(f"/{folder}"))

    try:
        yield Verbs(
            lambda name, content: thread.run(put(name, content)),
            lambda name: thread.run(get(name)),
            lambda: thread.run(names()),
        )
    finally:
        thread.run(client.close())
        thread.stop()


BYTE_CLIENTS: dict[str, ByteClient] = {
    "boto3": boto3,
    "pyarrow's S3FileSystem": pyarrow_s3,
    "obstore": obstore,
    "hdfs": hdfs,
    "fsspec's webhdfs": fsspec_webhdfs,
    "urllib": python_http,
    "curl": curl,
    "a mount": mount,
    "the SDK": sdk,
    "the async SDK": async_sdk,
}

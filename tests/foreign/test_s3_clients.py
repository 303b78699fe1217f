"""aws, s3cmd and rclone at the S3 gateway while the leader is killed: each sees at worst a pause."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

import gfs
from gfs.client.blocking import Client
from tests.foreign.byte_clients import BIG_BYTES, KEY, SECRET
from tests.foreign.conftest import leader_of, tool, until_ready
from tests.integrations.gateways import running_s3
from tests.processes.cluster import ProcessCluster

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

COMMAND_SECONDS = 120.0


class S3Client(NamedTuple):
    """How one client says the verbs of a script. `at(path)`: a bucket, or an object, as it writes them."""

    name: str
    prefix: Sequence[str]
    scheme: str
    verbs: dict[str, Sequence[str]]

    def say(self, verb: str, **places: str) -> list[str]:
        at = {name: self.scheme + value if name.startswith("at") else value for name, value in places.items()}
        return [*self.prefix, *(word.format(**at) for word in self.verbs[verb])]


AWS = {
    "make": ("s3", "mb", "{at}"),
    "put": ("s3", "cp", "{local}", "{at}"),
    "get": ("s3", "cp", "{at}", "{local}"),
    "list": ("s3", "ls", "--recursive", "{at}"),
    "send": ("s3", "sync", "{local}", "{at}"),
    "copy": ("s3", "cp", "{at}", "{at_new}"),
    "delete": ("s3", "rm", "{at}"),
    "clear": ("s3", "rb", "--force", "{at}"),
}
S3CMD = {
    "make": ("mb", "{at}"),
    "put": ("put", "{local}", "{at}"),
    "get": ("get", "--force", "{at}", "{local}"),
    "list": ("ls", "--recursive", "{at}"),
    "send": ("sync", "{local}/", "{at}/"),
    "copy": ("cp", "{at}", "{at_new}"),
    "delete": ("del", "{at}"),
    "clear": ("rb", "--recursive", "--force", "{at}"),
}
RCLONE = {
    "make": ("mkdir", "{at}"),
    "put": ("copyto", "{local}", "{at}"),
    "get": ("copyto", "{at}", "{local}"),
    "list": ("lsf", "--recursive", "{at}"),
    "send": ("sync", "{local}", "{at}"),
    "copy": ("copyto", "{at}", "{at_new}"),
    "delete": ("deletefile", "{at}"),
    "clear": ("purge", "{at}"),
}


@pytest.fixture(scope="module")
def gateway(cluster: ProcessCluster) -> Iterator[str]:
    with running_s3(",".join(cluster.addresses), {KEY: SECRET}) as url:
        yield url


@pytest.fixture
def client(cluster: ProcessCluster) -> Iterator[Client]:
    with gfs.connect(cluster.addresses) as client:
        yield client


def aws(url: str, _: Path) -> S3Client:
    return S3Client("aws", (tool("aws"), "--endpoint-url", url), "s3://", AWS)


def s3cmd(url: str, directory: Path) -> S3Client:
    host = urlsplit(url).netloc
    config = directory / "s3cfg"
    settings = {
        "access_key": KEY, "secret_key": SECRET, "host_base": host, "host_bucket": host,
        "use_https": "False", "multipart_chunk_size_mb": "5",
    }  # fmt: skip
    config.write_text("[default]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    return S3Client("s3cmd", (tool("s3cmd"), "--config", str(config), "--no-progress"), "s3://", S3CMD)


def rclone(url: str, directory: Path) -> S3Client:
    config = directory / "rclone.conf"
    settings = {
        "type": "s3", "provider": "Other", "access_key_id": KEY, "secret_access_key": SECRET,
        "endpoint": url, "region": "us-east-1", "upload_cutoff": "5M", "chunk_size": "5M",
    }  # fmt: skip
    config.write_text("[gfs]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    return S3Client("rclone", (tool("rclone"), "--config", str(config)), "gfs:", RCLONE)


def environment(home: Path) -> dict[str, str]:
    """Nothing of the machine's own accounts, proxies and certificates."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def start(command: Sequence[str], home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env=environment(home),
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> str:
    """What it said. It has to end well."""
    try:
        out, err = process.communicate(timeout=COMMAND_SECONDS)
    except BaseException:
        process.kill()
        raise
    assert process.returncode == 0, (process.args, out, err)
    return out


def run(command: Sequence[str], home: Path) -> str:
    return end(start(command, home))


@pytest.mark.parametrize("make", [aws, s3cmd, rclone], ids=["aws", "s3cmd", "rclone"])
def test_a_client_works_on_while_the_leader_is_killed(
    make: Callable[[str, Path], S3Client],
    cluster: ProcessCluster,
    gateway: str,
    client: Client,
    tmp_path: Path,
) -> None:
    s3 = make(gateway, tmp_path)
    bucket = f"with-{s3.name}"
    tree = tmp_path / "tree"
    (tree / "d" / "e").mkdir(parents=True)
    content = os.urandom(BIG_BYTES)
    (tmp_path / "big").write_bytes(content)
    for name in ("a", "d/b", "d/e/c c"):
        (tree / name).write_bytes(name.encode())

    run(s3.say("make", at=bucket), tmp_path)
    sending = start(s3.say("put", local=str(tmp_path / "big"), at=f"{bucket}/big"), tmp_path)
    leader = leader_of(cluster)
    cluster.kill([leader])
    try:
        end(sending)
        run(s3.say("send", local=str(tree), at=f"{bucket}/tree"), tmp_path)
        run(s3.say("copy", at=f"{bucket}/big", at_new=f"{bucket}/twin"), tmp_path)
        run(s3.say("get", at=f"{bucket}/twin", local=str(tmp_path / "back")), tmp_path)
        listed = run(s3.say("list", at=bucket), tmp_path)
        run(s3.say("delete", at=f"{bucket}/big"), tmp_path)
        assert (tmp_path / "back").read_bytes() == content == client.read_bytes(f"/{bucket}/twin")
        for name in ("big", "twin", "tree/a", "tree/d/b", "tree/d/e/c c"):
            assert name in listed, listed
        found = {entry.path for entry in client.glob(f"/{bucket}/**") if entry.kind == "file"}
        assert found == {f"/{bucket}/{name}" for name in ("twin", "tree/a", "tree/d/b", "tree/d/e/c c")}
        run(s3.say("clear", at=bucket), tmp_path)
        assert not client.exists(f"/{bucket}")
    finally:
        cluster.start([leader])
        until_ready(cluster)

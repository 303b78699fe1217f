"""Hadoop's own shell, and a Spark job that writes and reads Parquet, through the WebHDFS gateway."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import gfs
from gfs.client.blocking import Client
from gfs.vocabulary import MIB
from tests.foreign import hadoop
from tests.integrations.gateways import running_webhdfs
from tests.processes.cluster import ProcessCluster

pytestmark = [pytest.mark.heavy, pytest.mark.processes, pytest.mark.timeout(600)]

Say = Callable[..., str]

JOB = """
import sys
from pyspark.sql import SparkSession, functions
url = sys.argv[1]
spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.ui.enabled", "false")
    .config("spark.driver.memory", "512m")
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")
rows = spark.range(20000).withColumn("part", functions.col("id") % 3)
for mode in ("error", "overwrite"):
    rows.repartition(2).write.mode(mode).partitionBy("part").parquet(url + "/table")
rows.limit(10).write.mode("append").partitionBy("part").parquet(url + "/table")
table = spark.read.parquet(url + "/table")
print("ROWS", table.count(), "SUM", table.agg({"id": "sum"}).first()[0])
print("PART", table.where("part = 1").count())
spark.stop()
"""


@pytest.fixture(scope="module")
def address(cluster: ProcessCluster) -> Iterator[str]:
    hadoop.hadoop_jars()

    with running_webhdfs(",".join(cluster.addresses)) as url:
        yield urlsplit(url).netloc


@pytest.fixture
def client(cluster: ProcessCluster) -> Iterator[Client]:
    with gfs.connect(cluster.addresses) as client:
        yield client


@pytest.fixture
def say(address: str, tmp_path: Path) -> Say:
    """What a command of the shell prints; with `fails`, what it says when it is refused."""

    def said(*arguments: str, fails: bool = False) -> str:
        ran = hadoop.shell(address, *arguments, home=tmp_path)
        assert bool(ran.returncode) == fails, (arguments, ran.stdout, ran.stderr)
        return ran.stderr if fails else ran.stdout

    return said


def test_hadoops_shell_does_what_it_does_on_hdfs(say: Say, client: Client, tmp_path: Path) -> None:
    content = os.urandom(3 * MIB)
    (tmp_path / "a").write_bytes(content)
    say("-mkdir", "-p", "/user/somebody/d/e")
    say("-put", f"{tmp_path}/a", "/user/somebody/d/a")
    assert client.read_bytes("/user/somebody/d/a") == content
    say("-put", "-f", f"{tmp_path}/a", "d/a")
    assert "File exists" in say("-put", f"{tmp_path}/a", "d/a", fails=True)
    say("-cp", "d/a", "d/e/b")
    say("-mv", "d/e/b", "d/e/c")
    listed = say("-ls", "-R", "/user/somebody")
    assert "/user/somebody/d/e/c" in listed and f"{len(content)}" in listed
    say("-get", "d/e/c", f"{tmp_path}/back")
    assert (tmp_path / "back").read_bytes() == content
    say("-appendToFile", f"{tmp_path}/a", "d/e/c")
    assert client.read_bytes("/user/somebody/d/e/c") == content + content
    assert say("-du", "-s", "d").split()[0] == str(3 * len(content))
    assert say("-count", "d").split()[:2] == ["2", "2"]
    assert "MD5-of-0MD5-of-512CRC32C" in say("-checksum", "d/a")
    say("-chmod", "640", "d/a")
    assert say("-stat", "%a %r %b %n", "d/a").split() == ["640", "3", str(len(content)), "a"]
    say("-test", "-e", "d/a")
    say("-test", "-d", "d/a", fails=True)
    say("-setrep", "3", "d/a")
    assert "replication" in say("-setrep", "2", "d/a", fails=True)
    say("-touchz", "d/empty")
    assert "No such file" in say("-cat", "d/missing", fails=True)
    assert say("-cat", "d/empty") == ""
    say("-rm", "-skipTrash", "d/empty")
    say("-rm", "-r", "-skipTrash", "d")
    assert not client.exists("/user/somebody/d")


def test_a_spark_job_writes_replaces_adds_to_and_reads_parquet(
    address: str, client: Client, tmp_path: Path
) -> None:
    ran = hadoop.spark(JOB, f"webhdfs://{address}/spark", home=tmp_path)
    assert ran.returncode == 0, ran.stderr[-4000:]
    rows = 20_010
    assert f"ROWS {rows} SUM {sum(range(20_000)) + sum(range(10))}" in ran.stdout
    assert "PART 6670" in ran.stdout
    names = {entry.path.rpartition("/")[2] for entry in client.list("/spark/table")}
    assert names == {"_SUCCESS", "part=0", "part=1", "part=2"}

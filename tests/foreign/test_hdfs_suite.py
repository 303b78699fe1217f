"""The tests that PyPI's `hdfs` keeps for its own client, from its source package, at the WebHDFS gateway.

They come with the sdist only, and want a base class of theirs that is not in it: it is written here anew.
What does not hold at this gateway stands in hdfs_exclusions.txt, a reason with each.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.foreign.exclusions import Exclusions
from tests.integrations.gateways import running_webhdfs
from tests.processes.cluster import ProcessCluster

pytestmark = [pytest.mark.heavy, pytest.mark.processes, pytest.mark.timeout(600)]

SUITE = ("test_client.py", "test_util.py", "test_ext_kerberos.py")
SUITE_SECONDS = 400.0
EXCLUSIONS = Path(__file__).with_name("hdfs_exclusions.txt")

BASE = """
import os, os.path as osp, posixpath, shutil, tempfile, uuid
import pytest
from hdfs import InsecureClient

class _IntegrationTest(object):
  root = None
  client = None

  @classmethod
  def setup_class(cls):
    root = "/suite/" + uuid.uuid4().hex
    cls.client = InsecureClient(os.environ["GATEWAY"], root=cls.root or root, user="somebody")

  def setup_method(self):
    self.client.delete("", recursive=True)

  def _read(self, hdfs_path, encoding=None):
    with self.client.read(hdfs_path, encoding=encoding) as reader:
      return reader.read()

  def _write(self, hdfs_path, data, encoding=None):
    with self.client.write(hdfs_path, encoding=encoding) as writer:
      writer.write(data)

  def _exists(self, hdfs_path):
    return bool(self.client.status(hdfs_path, strict=False))
"""


@pytest.fixture(scope="module")
def gateway(cluster: ProcessCluster) -> Iterator[str]:
    with running_webhdfs(",".join(cluster.addresses)) as url:
        yield url


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source package of the client that is installed here. Skips where it is not to be had."""
    directory = tmp_path_factory.mktemp("sources")
    version = importlib.metadata.version("hdfs")
    wanted = ["download", "-q", "--no-deps", "--no-binary", "hdfs", f"hdfs=={version}"]
    got = subprocess.run(
        [sys.executable, "-m", "pip", *wanted], cwd=directory, capture_output=True, text=True
    )
    if got.returncode:
        pytest.skip(f"the source package of hdfs {version} cannot be downloaded: {got.stderr[-300:]}")
    with tarfile.open(next(directory.glob("hdfs-*.tar.gz"))) as archive:
        archive.extractall(directory, filter="data")
    found = next(path for path in directory.iterdir() if path.is_dir())
    (found / "test" / "__init__.py").touch()
    (found / "test" / "util.py").write_text(BASE)
    return found


def test_the_clients_own_tests_pass_but_for_those_that_are_listed(gateway: str, sources: Path) -> None:
    exclusions = Exclusions.read(EXCLUSIONS)
    pytest_alone = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull]
    ran = subprocess.run(
        [*pytest_alone, "-q", "-rA", "--tb=line", "--rootdir", ".", *(f"test/{name}" for name in SUITE)],
        cwd=sources,
        env={**os.environ, "GATEWAY": gateway, "PYTHONPATH": str(sources)},
        capture_output=True,
        text=True,
        timeout=SUITE_SECONDS,
    )
    lines = re.findall(r"^(PASSED|FAILED|ERROR) (\S+)", ran.stdout, re.M)
    ended = {name: outcome for outcome, name in lines}
    assert len(ended) > 150, (ran.stdout[-3000:], ran.stderr[-3000:])
    exclusions.check(ended, told=ran.stdout[-6000:])

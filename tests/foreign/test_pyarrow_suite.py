"""The tests that pyarrow keeps for file systems, from its wheel, on gfs:// by its fsspec handler.

Those of its tests are taken that ask for a file system, whichever; they are given ours instead of theirs. All
of them hold: nothing is excluded.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.foreign.exclusions import Exclusions

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

SUITE_SECONDS = 240.0

TAKEN = """
import inspect, os, uuid
import pytest
from gfs.integrations.fsspec_filesystem import GFSFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem
from pyarrow.tests import test_fs as theirs
from pyarrow.tests.test_fs import (
    allow_append_to_file, allow_move_dir, fs, pathfn, pickle_with_and_without_subtree_filesystem,
)

@pytest.fixture
def filesystem_config():
    ours = GFSFileSystem(masters=os.environ["MASTERS"])
    root = "/arrow-" + uuid.uuid4().hex
    ours.mkdir(root)
    yield dict(
        fs=PyFileSystem(FSSpecHandler(ours)),
        pathfn=lambda path: root + "/" + path,
        allow_move_dir=True,
        allow_append_to_file=True,
    )
    ours.rm(root, recursive=True)

for name, found in vars(theirs).items():
    if name.startswith("test_") and "fs" in inspect.signature(found).parameters:
        globals()[name] = found
"""


def test_pyarrows_own_tests_pass(one_cluster: list[str], tmp_path: Path) -> None:
    if importlib.util.find_spec("pyarrow") is None or importlib.util.find_spec("pyarrow.tests") is None:
        pytest.skip("pyarrow is not installed, or its wheel has no tests")
    (tmp_path / "test_ours.py").write_text(TAKEN)
    alone = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "pyarrow.tests.conftest"]
    ran = subprocess.run(
        [*alone, "-c", os.devnull, "-q", "-rA", "--tb=short", "--rootdir", ".", "test_ours.py"],
        cwd=tmp_path,
        env={**os.environ, "MASTERS": ",".join(one_cluster), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=SUITE_SECONDS,
    )
    lines = re.findall(r"^(PASSED|FAILED|ERROR|XFAIL) \S+::(\S+)", ran.stdout, re.M)
    ended = {name: outcome for outcome, name in lines}
    assert len(ended) > 30, (ran.stdout[-3000:], ran.stderr[-3000:])
    Exclusions({}).check(ended, told=ran.stdout[-6000:])

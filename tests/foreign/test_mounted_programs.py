"""rsync, fio's verification, tail -f and CPython's own file tests in a mounted directory.

What CPython expects of a disk and a mount does not do stands in mount_exclusions.txt, a reason with each.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.foreign.conftest import tool
from tests.foreign.exclusions import Exclusions
from tests.processes.test_command_line import Shell

HAS_FUSE = os.path.exists("/dev/fuse") and shutil.which("fusermount3") is not None
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.processes,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not HAS_FUSE, reason="a mount needs /dev/fuse and fusermount3 (the fuse3 package)"),
]

SOURCES = Path(__file__).parents[2] / "gfs" / "client"
EXCLUSIONS = Path(__file__).with_name("mount_exclusions.txt")
# Tests that work on the files of the current directory.
PYTHON_MODULES = ("test_fileio", "test_file", "test_os", "test_glob", "test_mmap")
COMMAND_SECONDS = 300.0


@pytest.fixture(scope="module")
def gfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("mounted") / "cluster")
    shell.ok("up", "--port", "0", "--masters", "1", "--chunkservers", "2", "--detach")
    yield shell
    shell("down")


@pytest.fixture
def here(gfs: Shell, tmp_path: Path) -> Iterator[Path]:
    """A mounted directory of the test's own."""
    local = tmp_path / "here"
    local.mkdir()
    gfs.ok("mkdir", f"/{tmp_path.name}")
    gfs.ok("mount", f"/{tmp_path.name}", str(local))
    yield local
    gfs.ok("umount", str(local))


def run(*command: str, cwd: Path | None = None) -> str:
    ran = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=COMMAND_SECONDS
    )
    assert ran.returncode == 0, (command, ran.stdout[-3000:], ran.stderr[-3000:])
    return ran.stdout


def test_rsync_brings_a_tree_up_to_date(here: Path, tmp_path: Path) -> None:
    rsync = [tool("rsync"), "-r", "--checksum", "--delete", "--stats"]
    tree = tmp_path / "tree"
    shutil.copytree(SOURCES, tree, ignore=shutil.ignore_patterns("__pycache__"))
    run(*rsync, f"{tree}/", f"{here}/copy/")
    run("diff", "-r", str(tree), str(here / "copy"))
    (tree / "client.py").write_text("changed")
    (tree / "file.py").unlink()
    told = run(*rsync, f"{tree}/", f"{here}/copy/")
    assert "Number of regular files transferred: 1\n" in told, told
    run("diff", "-r", str(tree), str(here / "copy"))
    run(*rsync, "--inplace", "--append", f"{tree}/", f"{here}/copy/")


def test_fio_finds_what_it_wrote_at_every_offset(here: Path, tmp_path: Path) -> None:
    for pattern in ("write", "randwrite"):
        run(
            *(
                tool("fio"),
                "--name",
                pattern,
                "--directory",
                str(here),
                "--rw",
                pattern,
                "--ioengine",
                "psync",
            ),
            *("--size", "8m", "--bs", "64k", "--verify", "crc32c", "--do_verify", "1", "--verify_fatal", "1"),
            *("--randseed", "7", "--fallocate", "none", "--output-format", "terse"),
            cwd=tmp_path,  # where it leaves notes of its own
        )


def test_tail_follows_what_is_appended_elsewhere(gfs: Shell, here: Path) -> None:
    gfs.ok("put", "-", f"/{here.parent.name}/log", stdin=b"one\n")
    follow = subprocess.Popen(
        [tool("tail"), "-n", "+1", "-s", "0.1", "-f", str(here / "log")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert follow.stdout is not None
        assert follow.stdout.readline() == "one\n"
        with open(here / "log", "a") as file:
            file.write("two\n")
        assert follow.stdout.readline() == "two\n"  # the test's own limit ends a wait for ever
    finally:
        follow.kill()
        follow.wait()


def test_pythons_own_file_tests_pass_but_for_those_that_are_listed(here: Path) -> None:
    exclusions = Exclusions.read(EXCLUSIONS)
    ended: dict[str, str] = {}
    told = ""
    for module in PYTHON_MODULES:
        ran = subprocess.run(
            [sys.executable, "-m", "unittest", "-v", f"test.{module}"],
            cwd=here,
            env={**os.environ, "TMPDIR": str(here), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
        )
        # A verdict may stand behind what a test itself printed; the summary names what failed once more.
        found = re.findall(r"^(\w+) \((test[\w.]+)\)", ran.stderr, re.M)
        assert found, (module, ran.stderr[-3000:])
        ended |= {f"{where.removeprefix('test.')}": "PASSED" for _, where in found}
        failed = re.findall(r"^(FAIL|ERROR): \w+ \((test[\w.]+)\)", ran.stderr, re.M)
        ended |= {where.removeprefix("test."): verdict for verdict, where in failed}
        told += "".join(re.findall(r"^(?:FAIL|ERROR): .*?(?=^=====|\Z)", ran.stderr, re.M | re.S))
    exclusions.check(ended, told=told[-8000:])

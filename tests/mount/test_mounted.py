"""Programs that know nothing of gfs, on a real mount: cp, tar, git, sqlite, shells; and how a mount fails."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.processes.test_command_line import Shell

HAS_FUSE = os.path.exists("/dev/fuse") and shutil.which("fusermount3") is not None
pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not HAS_FUSE, reason="a mount needs /dev/fuse and fusermount3 (the fuse3 package)"),
]

SOURCES = Path(__file__).parents[2] / "gfs" / "client"


@pytest.fixture(scope="module")
def gfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("mount") / "cluster")
    shell.ok("up", "--port", "0", "--masters", "1", "--chunkservers", "2", "--detach")
    yield shell
    shell("down")


@pytest.fixture(scope="module")
def here(gfs: Shell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The mounted directory."""
    local = tmp_path_factory.mktemp("here")
    gfs.ok("mkdir", "/shown")
    gfs.ok("mount", "/shown", str(local))
    yield local
    gfs.ok("umount", str(local))


def run(*command: str, cwd: Path | None = None) -> str:
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
    return ran.stdout


def test_trees_go_in_and_out_with_cp_and_tar(gfs: Shell, here: Path) -> None:
    run("cp", "-r", str(SOURCES), str(here / "copied"))
    run("diff", "-r", str(SOURCES), str(here / "copied"))
    (here / "unpacked").mkdir()
    run("sh", "-c", f"tar cf - -C {here}/copied . | tar xf - -C {here}/unpacked")
    run("diff", "-r", str(SOURCES), str(here / "unpacked"))
    found = json.loads(gfs.ok("-o", "json", "ls", "-R", "/shown/copied"))
    assert {e["path"].rpartition("/")[2] for e in found} >= {path.name for path in SOURCES.glob("*.py")}
    shutil.rmtree(here / "unpacked")
    assert not (here / "unpacked").exists()


def test_git_makes_clones_and_checks_a_repository(here: Path) -> None:
    repository = here / "repository"
    shutil.copytree(SOURCES, repository, ignore=shutil.ignore_patterns("__pycache__"))
    name = ["-c", "user.name=n", "-c", "user.email=a@b"]
    run("git", "init", "-q", ".", cwd=repository)
    run("git", "add", "-A", cwd=repository)
    run("git", *name, "commit", "-q", "-m", "all", cwd=repository)
    run("git", "clone", "-q", str(repository), str(here / "clone"))
    run("git", "fsck", "--strict", cwd=here / "clone")
    assert run("git", "status", "--porcelain", cwd=here / "clone") == ""


def test_a_database_file_is_changed_in_place(here: Path) -> None:
    with sqlite3.connect(here / "database") as database:
        database.execute("create table numbers (n integer)")
        database.executemany("insert into numbers values (?)", [(n,) for n in range(20_000)])
        database.commit()
        database.execute("delete from numbers where n % 3 = 0")
        database.commit()
    database.close()
    with sqlite3.connect(here / "database") as again:
        assert again.execute("select count(*) from numbers").fetchone() == (13_333,)
        assert again.execute("pragma integrity_check").fetchone() == ("ok",)
    again.close()


def test_shells_append_truncate_and_follow(gfs: Shell, here: Path) -> None:
    run("sh", "-c", f"for n in 1 2 3; do echo line $n >> {here}/log; done")
    assert (here / "log").read_text() == "line 1\nline 2\nline 3\n"
    assert gfs.ok("cat", "/shown/log") == b"line 1\nline 2\nline 3\n"
    run("truncate", "-s", "7", str(here / "log"))
    assert (here / "log").read_text() == "line 1\n"
    run("sh", "-c", f"echo anew > {here}/log")
    assert gfs.ok("cat", "/shown/log") == b"anew\n"
    with open(here / "log", "rb+") as file:
        file.seek(1)
        file.write(b"N")
        file.seek(0)
        assert file.read() == b"aNew\n"
    run("chmod", "640", str(here / "log"))
    assert (here / "log").stat().st_mode & 0o777 == 0o640


def test_big_files_come_back_as_they_went_in(gfs: Shell, here: Path, tmp_path: Path) -> None:
    content = os.urandom(5_000_001)
    (here / "big").write_bytes(content)
    assert (here / "big").stat().st_size == len(content)
    (here / "big").rename(here / "big.renamed")
    found = json.loads(gfs.ok("-o", "json", "checksum", "--sha256", "/shown/big.renamed"))
    assert found[0]["checksum"] == hashlib.sha256(content).hexdigest()
    gfs.ok("put", "-", "/shown/other", stdin=content[::-1])
    assert (here / "other").read_bytes() == content[::-1]
    shutil.copyfile(here / "other", tmp_path / "local")
    assert (tmp_path / "local").read_bytes() == content[::-1]


def test_what_there_is_not_is_refused_as_a_disk_does(here: Path) -> None:
    (here / "file").write_bytes(b"x")
    with pytest.raises(FileNotFoundError):
        (here / "missing").read_bytes()
    with pytest.raises(FileExistsError):
        os.open(here / "file", os.O_CREAT | os.O_EXCL)
    with pytest.raises(NotADirectoryError):
        (here / "file" / "below").read_bytes()
    with pytest.raises(PermissionError):
        os.symlink("file", here / "link")
    with pytest.raises(PermissionError):
        os.link(here / "file", here / "hard")
    (here / "full").mkdir()
    (here / "full" / "x").touch()
    with pytest.raises(OSError, match="not empty"):
        os.rmdir(here / "full")
    assert shutil.disk_usage(here).free > 0


def test_a_mount_that_cannot_be_is_refused_in_a_sentence(gfs: Shell, here: Path, tmp_path: Path) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    full.mkdir()
    (full / "file").touch()
    assert gfs("mount", "/shown", str(full)).returncode == 4
    assert gfs("mount", "/shown", str(here)).returncode == 4
    assert gfs("mount", "/shown", str(tmp_path / "missing")).returncode == 4
    ran = gfs("mount", "/not-there", str(empty))
    assert ran.returncode == 3 and b"/not-there" in ran.stderr, ran.stderr
    assert gfs("umount", str(empty)).returncode == 3


def test_a_killed_mount_leaves_what_was_flushed(gfs: Shell, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.mkdir()
    gfs.ok("mount", "/", str(local))
    file = os.open(local / "flushed", os.O_CREAT | os.O_WRONLY)
    try:
        os.write(file, b"safe")
        os.fsync(file)
        pids = run("pgrep", "-f", f"mount / {local} --foreground").split()
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)
        with pytest.raises(OSError):
            os.write(file, b"lost")
    finally:
        with suppress(OSError):  # as each call on a mount whose program is gone
            os.close(file)
    run("fusermount3", "-u", str(local))
    assert gfs.ok("cat", "/flushed") == b"safe"

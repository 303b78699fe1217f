"""Verbs a person knows from a shell, against a real cluster: cp, sync, head, tail, find, du, doctor…"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.test_command_line import Shell

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

LINES = "".join(f"line {n}\n" for n in range(300_000)).encode()


@pytest.fixture(scope="module")
def gfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("verbs") / "cluster")
    shell.ok("up", "--port", "0", "--masters", "1", "--chunkservers", "2", "--detach")
    shell.ok("mkdir", "-p", "/v/deep")
    shell.ok("put", "-", "/v/lines", stdin=LINES)
    shell.ok("put", "-", "/v/deep/small", stdin=b"no newline")
    yield shell
    shell("down")


def test_a_copy_is_there_at_once_and_lives_its_own_life(gfs: Shell) -> None:
    gfs.ok("mkdir", "/copies")
    gfs.ok("cp", "/v/deep/small", "/copies")
    assert gfs.ok("cat", "/copies/small") == b"no newline"
    assert gfs("cp", "/v/lines", "/copies/small").returncode == 4
    gfs.ok("cp", "-f", "/v/lines", "/copies/small")
    assert gfs.ok("cat", "/copies/small") == LINES
    assert gfs.ok("cat", "/v/deep/small") == b"no newline"
    assert gfs("cp", "/v", "/copies").returncode == 4
    gfs.ok("cp", "-r", "/v", "/copies")
    assert gfs.ok("cat", "/copies/v/deep/small") == b"no newline"
    assert gfs.ok("ls", "/copies").decode().split() == ["small", "v/"], "nothing is left beside them"
    assert gfs("cp", "/nothing", "/copies/x").returncode == 3
    assert gfs("cp", "/v/lines", "/v/deep/small", "/not-there").returncode == 2


def test_the_first_and_last_lines_and_bytes_of_a_file(gfs: Shell) -> None:
    split = LINES.splitlines(keepends=True)
    assert gfs.ok("head", "/v/lines") == b"".join(split[:10])
    assert gfs.ok("head", "-n", "200000", "/v/lines") == b"".join(split[:200_000])
    assert gfs.ok("head", "-c", "7", "/v/lines") == LINES[:7]
    assert gfs.ok("tail", "/v/lines") == b"".join(split[-10:])
    assert gfs.ok("tail", "-n", "200000", "/v/lines") == b"".join(split[-200_000:])
    assert gfs.ok("tail", "-c", "7", "/v/lines") == LINES[-7:]
    assert gfs.ok("tail", "-n", "0", "/v/lines") == b""
    assert gfs.ok("tail", "-n", "900000", "/v/lines") == LINES
    assert gfs.ok("tail", "-n", "1", "/v/deep/small") == b"no newline"
    assert gfs("tail", "-n", "1", "-c", "1", "/v/lines").returncode == 2


def test_a_watch_shows_what_changes_and_goes_on_from_an_index(gfs: Shell) -> None:
    command = [sys.executable, "-m", "gfs", "--data", str(gfs.data), "-o", "jsonl", "watch", "/watched"]
    with subprocess.Popen([*command, "-n", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watch:
        stop = threading.Timer(60, watch.kill)
        stop.start()
        try:
            assert watch.stdout is not None and watch.stderr is not None
            assert b"watching /watched from log entry" in watch.stderr.readline()
            gfs.ok("mkdir", "/watched")
            gfs.ok("mkdir", "/unwatched")
            gfs.ok("touch", "/watched/f")
            told = [json.loads(line) for line in watch.stdout]
            assert watch.wait() == 0
        finally:
            stop.cancel()
            watch.kill()
    assert [(change["kind"], change["path"]) for change in told] == [
        ("created", "/watched"),
        ("created", "/watched/f"),
    ]
    again = gfs.ok("watch", "/watched", "--from", str(told[1]["index"]), "-n", "1").decode()
    assert "created" in again and "/watched/f" in again


def test_setrep_is_a_policy_of_a_directory_and_refuses_a_file_in_words(gfs: Shell) -> None:
    gfs.ok("mkdir", "/replicated")
    gfs.ok("put", "-", "/replicated/f", stdin=b"x")
    gfs.ok("setrep", "1", "/replicated")
    assert json.loads(gfs.ok("-o", "json", "stat", "/replicated/f"))["replication_goal"] == 1
    refused = gfs("setrep", "1", "/replicated/f")
    assert refused.returncode == 4 and b"said of directories" in refused.stderr
    assert gfs("setrep", "0", "/replicated").returncode == 2


def test_top_tells_what_happens_a_second(gfs: Shell) -> None:
    told = json.loads(gfs.ok("-o", "json", "top", "--every", "0.2", "-n", "1"))
    assert told["health"] and told["log_entries_per_second"] >= 0 and len(told["chunkservers"]) == 2
    assert b"log entries/s" in gfs.ok("top", "--every", "0.2", "-n", "1")


def test_a_followed_file_shows_what_is_appended(gfs: Shell) -> None:
    gfs.ok("put", "-", "/v/followed", stdin=b"begun\n")
    command = [sys.executable, "-m", "gfs", "--data", str(gfs.data), "tail", "-f", "/v/followed"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tail:
        stop = threading.Timer(60, tail.kill)
        stop.start()
        try:
            assert tail.stdout is not None
            assert tail.stdout.read(6) == b"begun\n"
            gfs.ok("append", "--record", "/v/followed", stdin=b"an appended line\n")
            shown = b""
            while b"an appended line" not in shown:
                more = os.read(tail.stdout.fileno(), 4096)
                assert more, shown
                shown += more
            tail.send_signal(signal.SIGINT)
            assert tail.wait() == 130
        finally:
            stop.cancel()
            tail.kill()


def test_checksums_are_those_of_the_bytes(gfs: Shell) -> None:
    found = json.loads(gfs.ok("-o", "json", "checksum", "--sha256", "/v/lines"))
    assert found[0]["checksum"] == hashlib.sha256(LINES).hexdigest()
    assert found[0]["length_bytes"] == len(LINES)
    assert b"c1d04330" not in gfs.ok("checksum", "/v/lines")  # CRC32C of "a": another content
    gfs.ok("put", "-", "/v/a", stdin=b"a")
    assert gfs.ok("checksum", "/v/a").split()[-3:] == [b"c1d04330", b"1", b"/v/a"]


def test_find_by_name_kind_size_and_age(gfs: Shell) -> None:
    assert gfs.ok("find", "/v", "--name", "sm*l").decode() == "/v/deep/small\n"
    assert gfs.ok("find", "/v", "--type", "d").decode() == "/v\n/v/deep\n"
    assert gfs.ok("find", "/v", "--larger", "1MiB", "-0").decode() == "/v/lines\0"
    assert "/v/lines" not in gfs.ok("find", "/v", "--smaller", "1 KiB").decode()
    assert gfs.ok("find", "/v", "--older", "1d") == b""
    assert b"/v/lines\n" in gfs.ok("find", "/v", "--newer", "1d")
    assert gfs("find", "/v", "--larger", "big").returncode == 2
    assert gfs("find", "/v", "--newer", "soon").returncode == 2
    lines = gfs.ok("-o", "jsonl", "find", "/v", "--name", "small").decode().splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["/v/deep/small"]


def test_a_tree_is_drawn_and_added_up(gfs: Shell) -> None:
    gfs.ok("mkdir", "-p", "/drawn/a/b")
    gfs.ok("put", "-", "/drawn/a/file", stdin=bytes(1000))
    gfs.ok("touch", "/drawn/empty")
    assert gfs.ok("tree", "/drawn").decode().splitlines() == [
        "/drawn",
        "├── a/",
        "│   ├── b/",
        "│   └── file  (1000 B)",
        "└── empty  (0 B)",
        "",
        "2 directories, 2 files",
    ]
    assert "file  (" not in gfs.ok("tree", "-L", "1", "/drawn").decode()
    used = json.loads(gfs.ok("-o", "json", "du", "/drawn"))
    assert [(u["path"], u["bytes"], u["files"]) for u in used] == [
        ("/drawn/a", 1000, 1),
        ("/drawn/empty", 0, 1),
        ("/drawn", 1000, 2),
    ]
    goal = json.loads(gfs.ok("-o", "json", "stat", "/drawn/a/file"))["replication_goal"]
    assert used[-1]["raw_bytes"] == 1000 * goal
    total = json.loads(gfs.ok("-o", "json", "df"))
    assert len(total["chunk_servers"]) == 2 and 0 < total["free_bytes"] <= total["total_bytes"]


def test_touch_makes_what_is_missing_and_leaves_what_is_there(gfs: Shell) -> None:
    gfs.ok("touch", "/v/lines", "/v/touched")
    assert gfs.ok("cat", "/v/touched") == b"" and len(gfs.ok("cat", "/v/lines")) == len(LINES)
    assert gfs("touch", "/v").returncode == 4


def test_two_directories_are_made_alike_both_ways(gfs: Shell, tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "d" / "e").mkdir(parents=True)
    (here / "d" / "one").write_bytes(b"1" * 100)
    (here / "d" / "e" / "two").write_bytes(b"2" * 70_000)

    def sync(*arguments: str) -> dict[str, int]:
        found = json.loads(gfs.ok("-o", "json", "sync", *arguments))
        assert isinstance(found, dict)
        return found

    assert sync("-n", str(here), "gfs:///synced")["copied"] == 2
    assert gfs("stat", "/synced").returncode == 3, "a dry run does nothing"
    assert sync(str(here), "gfs:///synced")["copied"] == 2
    assert sync(str(here), "gfs:///synced")["unchanged"] == 2
    (here / "d" / "one").unlink()
    (here / "d" / "e" / "two").write_bytes(b"3" * 70_001)
    assert sync(str(here), "gfs:///synced") | {"bytes": 0} == {
        "copied": 1, "bytes": 0, "unchanged": 0, "deleted": 0, "dry_run": False
    }  # fmt: skip
    assert sync("--delete", str(here), "gfs:///synced")["deleted"] == 1
    assert gfs("stat", "/synced/d/one").returncode == 3
    back = tmp_path / "back"
    assert sync("gfs:///synced", str(back))["copied"] == 1
    assert (back / "d" / "e" / "two").read_bytes() == b"3" * 70_001
    (back / "extra").mkdir()
    (back / "extra" / "file").write_bytes(b"x")
    assert sync("gfs:///synced", str(back))["deleted"] == 0
    assert (back / "extra" / "file").exists()
    assert sync("--delete", "gfs:///synced", str(back))["deleted"] == 1
    assert not (back / "extra").exists()


def test_what_stands_in_the_way_of_a_sync_is_named_and_nothing_is_deleted(gfs: Shell, tmp_path: Path) -> None:
    gfs.ok("mkdir", "-p", "/odd/name")
    gfs.ok("touch", "/odd/surplus")
    (tmp_path / "name").write_bytes(b"a file")
    (tmp_path / "fine").write_bytes(b"fine")
    ran = gfs("sync", str(tmp_path), "gfs:///odd")
    assert ran.returncode == 9 and b"name" in ran.stderr
    assert gfs.ok("cat", "/odd/fine") == b"fine"
    gfs.ok("stat", "/odd/surplus")
    assert gfs("sync", "gfs:///odd", "gfs:///other").returncode == 2
    assert gfs("sync", str(tmp_path / "missing"), "gfs:///odd").returncode == 3
    assert gfs("sync", "gfs:///missing", str(tmp_path)).returncode == 3


def test_the_doctor_finds_a_good_machine_and_a_dead_server(gfs: Shell) -> None:
    found = json.loads(gfs.ok("-o", "json", "doctor"))
    assert {"good"} <= {one["verdict"] for one in found} <= {"good", "note"}
    assert any(one["what"] == "sync of m1" for one in found)
    assert gfs("--data", "/nowhere", "doctor").returncode == 7
    assert gfs("--data", "/nowhere", "doctor", "--local").returncode == 0
    config = (gfs.data / "gfs.toml").read_text()
    away = gfs.data / "away.toml"
    address = json.loads(gfs.ok("-o", "json", "status"))["chunkservers"][0]["control"]
    away.write_text(config.replace(f'"{address}"', '"127.0.0.1:9"'))
    ran = gfs("--config", str(away), "-o", "json", "doctor")
    assert ran.returncode == 7
    bad = next(one for one in json.loads(ran.stdout) if one["verdict"] == "bad")
    assert bad["meaning"].startswith("127.0.0.1:9 does not answer")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("che", "plain,checksum"), ("cat /v/li", "plain,/v/lines"), ("ls /v/", "plain,/v/deep/")],
)
def test_the_shell_completes_commands_and_paths_in_the_cluster(gfs: Shell, typed: str, offered: str) -> None:
    words = f"gfs {typed}"
    ran = subprocess.run(
        [sys.executable, "-m", "gfs"],
        env={
            **os.environ,
            "GFS_DATA": str(gfs.data),
            "_GFS_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
        capture_output=True,
        timeout=60,
    )
    assert offered in ran.stdout.decode().split("\n"), ran
    assert ran.stderr == b""


def test_each_shell_gets_its_script(gfs: Shell) -> None:
    for shell in ("bash", "zsh", "fish"):
        script = gfs.ok("completion", shell).decode()
        assert "_GFS_COMPLETE" in script and "gfs" in script

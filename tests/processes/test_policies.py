"""Policies, owners and modes from the command line, on a real cluster and for several users (GFS §7)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paper.boxes import keeps

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]


class Shell:
    """`gfs` on one cluster, run for a user of choice; by default for whoever runs the cluster."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def __call__(
        self, *arguments: str, user: str = "", stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        named = {"GFS__CLIENT__USER": user, "GFS__CLIENT__GROUPS": "crawl"} if user else {}
        ran = subprocess.run(
            [sys.executable, "-m", "gfs", "--data", str(self.data), *arguments],
            input=stdin,
            capture_output=True,
            timeout=90,
            env=os.environ | named,
        )
        assert b"Traceback" not in ran.stderr, ran.stderr.decode()
        return ran

    def ok(self, *arguments: str, user: str = "", stdin: bytes = b"") -> str:
        ran = self(*arguments, user=user, stdin=stdin)
        assert ran.returncode == 0, (arguments, ran.stderr.decode())
        return ran.stdout.decode()

    def fails(self, status: int, *arguments: str, user: str = "", stdin: bytes = b"") -> str:
        ran = self(*arguments, user=user, stdin=stdin)
        assert ran.returncode == status, (arguments, ran.returncode, ran.stderr.decode())
        return ran.stderr.decode()


@pytest.fixture(scope="module")
def gfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("policies") / "cluster")
    shell.ok("up", "--port", "0", "--masters", "1", "--chunkservers", "2", "--detach")
    yield shell
    shell("down")


@keeps("three-replicas")
def test_a_policy_is_set_inherited_shown_and_unset(gfs: Shell) -> None:
    gfs.ok("mkdir", "-p", "/p/below")
    gfs.ok("policy", "set", "/p", "replicas=1", "trash=90m", "durability=sync")
    gfs.ok("put", "-", "/p/below/f", stdin=b"one copy")
    shown = json.loads(gfs.ok("-o", "json", "policy", "show", "/p/below"))
    assert shown["effective"] == {
        "replicas": 1,
        "racks": 2,
        "trash_ms": 5_400_000,
        "durability": "sync",
    }
    assert shown["set_at"] == {"replicas": "/p", "trash_ms": "/p", "durability": "/p"}
    found = json.loads(gfs.ok("-o", "json", "stat", "/p/below/f"))
    assert (found["replication_goal"], found["policy"]["durability"]) == (1, "sync")
    text = gfs.ok("policy", "show", "/p/below")
    assert "90m" in text and "the cluster's default" in text
    assert "sync" in gfs.ok("stat", "/p/below/f")
    gfs.ok("policy", "unset", "/p", "replicas")
    assert json.loads(gfs.ok("-o", "json", "stat", "/p/below/f"))["replication_goal"] == 1, "as it was made"
    gfs.ok("put", "-", "/p/below/g", stdin=b"two copies")
    assert json.loads(gfs.ok("-o", "json", "stat", "/p/below/g"))["replication_goal"] == 2


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("replicas=0", "1..16"),
        ("replicas=many", "whole number"),
        ("racks=99", "1..16"),
        ("trash=soon", "duration"),
        ("durability=maybe", "flush or sync"),
        ("bytes=12XB", "size"),
        ("colour=blue", "colour"),
        ("replicas", "KEY=VALUE"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(gfs: Shell, value: str, says: str) -> None:
    said = gfs.fails(2, "policy", "set", "/", value)
    assert said.startswith("gfs: ") and says in said


@keeps("rights-and-quotas")
def test_a_quota_stops_what_would_go_beyond_it_and_says_so(gfs: Shell) -> None:
    gfs.ok("mkdir", "/q")
    gfs.ok("policy", "set", "/q", "files=2", "bytes=1KiB")
    gfs.ok("put", "-", "/q/a", stdin=bytes(2000))
    said = gfs.fails(8, "put", "-", "/q/b", stdin=b"x")
    assert "the quota of /q is 1024 bytes" in said and "Delete something" in said
    assert len(gfs("cat", "/q/a").stdout) == 2000
    assert "2.0 KiB of 1.0 KiB" in gfs.ok("policy", "show", "/q")
    gfs.ok("policy", "unset", "/q", "bytes")
    gfs.ok("put", "-", "/q/b", stdin=b"x")  # nothing of the first try is in its way
    assert "2 files and directories" in gfs.fails(8, "mkdir", "/q/c")


@keeps("rights-and-quotas")
def test_users_are_kept_from_each_others_files(gfs: Shell) -> None:
    gfs.ok("mkdir", "/home")
    gfs.ok("mkdir", "/home/ann")
    gfs.ok("chown", "ann:crawl", "/home/ann")
    gfs.ok("put", "-", "/home/ann/f", user="ann", stdin=b"hers")
    assert "-rw-r--r--  ann" in gfs.ok("ls", "-l", "/home/ann")
    said = gfs.fails(5, "rm", "/home/ann/f", user="ben")
    assert "ben may not change /home/ann, which belongs to ann:crawl with mode 755" in said
    gfs.fails(5, "chmod", "777", "/home/ann/f", user="ben")
    gfs.fails(5, "chown", "ben", "/home/ann/f", user="ann")
    gfs.fails(5, "policy", "set", "/home/ann", "files=5", user="ann")
    gfs.ok("policy", "set", "/home/ann", "replicas=1", user="ann")
    gfs.ok("chmod", "-R", "go-rwx", "/home/ann", user="ann")
    assert "rwx------" in gfs.ok("stat", "/home/ann")
    gfs.fails(5, "cat", "/home/ann/f", user="ben")
    gfs.fails(5, "ls", "/home/ann", user="ben")
    assert gfs.ok("glob", "/home/**", user="ben").split() == ["/home/", "/home/ann/"]
    assert gfs.ok("cat", "/home/ann/f") == "hers", "the superuser may"
    gfs.ok("rm", "-r", "/home/ann/f", user="ann")

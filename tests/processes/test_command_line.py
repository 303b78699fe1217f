"""The command line against a real cluster: the verbs, their output forms, exit statuses, up and down."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gfs.local import layout
from tests.paper.boxes import keeps

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

REPOSITORY = Path(__file__).parents[2]


class Shell:
    def __init__(self, data: Path) -> None:
        self.data = data

    def __call__(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        ran = subprocess.run(
            [sys.executable, "-m", "gfs", "--data", str(self.data), *arguments],
            input=stdin,
            capture_output=True,
            timeout=90,
        )
        assert b"Traceback" not in ran.stderr, ran.stderr.decode()
        return ran

    def ok(self, *arguments: str, stdin: bytes = b"") -> bytes:
        ran = self(*arguments, stdin=stdin)
        assert ran.returncode == 0, (arguments, ran.stderr.decode())
        return ran.stdout


@pytest.fixture(scope="module")
def gfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("cli") / "cluster")
    shell.ok("up", "--port", "0", "--detach")
    yield shell
    shell("down")


def test_status_shows_three_masters_four_chunk_servers_and_health(gfs: Shell) -> None:
    text = gfs.ok("status").decode()
    assert text.count("leader") >= 1
    assert text.count("follower") == 2
    assert text.count("alive") == 4
    found = json.loads(gfs.ok("-o", "json", "status"))
    assert found["health"] == "ok"
    assert len(found["masters"]) == 3


def test_a_tree_goes_in_and_comes_back_equal(gfs: Shell, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "empty").write_bytes(b"")
    (source / "small").write_bytes(b"hello\n")
    (source / "deep" / "block").write_bytes(os.urandom(65536))
    (source / "deep" / "er" / "ünïcode name").write_bytes(os.urandom(70_001))
    gfs.ok("mkdir", "-p", "/t/a")
    gfs.ok("put", "-r", str(source), "/t/a")
    gfs.ok("get", "-r", "/t/a/source", str(tmp_path / "back"))
    for path in source.rglob("*"):
        twin = tmp_path / "back" / path.relative_to(source)
        assert twin.is_dir() if path.is_dir() else twin.read_bytes() == path.read_bytes()
    listed = gfs.ok("ls", "-R", "/t/a/source").decode().split("\n")
    assert "/t/a/source/deep/er/ünïcode name" in listed
    assert gfs.ok("glob", "/t/**/block").decode() == "/t/a/source/deep/block\n"


def test_standard_input_and_output(gfs: Shell) -> None:
    content = os.urandom(5_000_000)
    gfs.ok("put", "-", "/streamed", stdin=content)
    assert hashlib.sha256(gfs.ok("cat", "/streamed")).digest() == hashlib.sha256(content).digest()
    assert gfs.ok("get", "/streamed", "-") == content
    assert gfs.ok("cat", "--offset", "4999990", "/streamed") == content[-10:]
    assert gfs.ok("cat", "--offset", "10", "--length", "5", "/streamed") == content[10:15]


def test_machine_output_is_json(gfs: Shell) -> None:
    gfs.ok("mkdir", "-p", "/json/one", "/json/two")
    entries = [json.loads(line) for line in gfs.ok("-o", "jsonl", "ls", "/json").splitlines()]
    assert [entry["path"] for entry in entries] == ["/json/one", "/json/two"]
    assert json.loads(gfs.ok("-o", "json", "stat", "/json"))["kind"] == "directory"
    gfs.ok("put", "-", "/json/file", stdin=b"x" * 1000)
    (place,) = json.loads(gfs.ok("-o", "json", "chunks", "/json/file"))
    assert len(place["replicas"]) == 3
    ran = gfs("-o", "json", "stat", "/json/none")
    assert json.loads(ran.stderr)["error"]["code"] == "not_found"


def test_move_and_remove(gfs: Shell) -> None:
    gfs.ok("mkdir", "-p", "/mr/d/sub")
    gfs.ok("put", "-", "/mr/f", stdin=b"1")
    gfs.ok("mv", "/mr/f", "/mr/d")
    assert gfs.ok("cat", "/mr/d/f") == b"1"
    gfs.ok("mv", "/mr/d", "/mr/e")
    assert gfs.ok("ls", "/mr/e").decode().split() == ["f", "sub/"]
    gfs.ok("put", "-", "/mr/g", stdin=b"2")
    assert gfs("mv", "-n", "/mr/g", "/mr/e/f").returncode == 4
    gfs.ok("mv", "/mr/g", "/mr/e/f")
    assert gfs.ok("cat", "/mr/e/f") == b"2"
    assert gfs("rm", "/mr/e").returncode == 4
    gfs.ok("rm", "-r", "/mr/e")
    assert gfs("stat", "/mr/e").returncode == 3


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["stat", "/none"], 3, "/none"),
        (["stat", "relative"], 2, "relative"),
        (["stat", "/a/../b"], 2, ".."),
        (["mkdir", "/none/below"], 3, "/none"),
        (["mkdir", "/" + "n" * 256], 2, "256 bytes"),
        (["put", "nowhere-local", "/x"], 3, "nowhere-local"),
        (["put", "-", "/"], 4, "directory"),
        (["get", "/none", "x"], 3, "/none"),
        (["get", "/", "x"], 4, "-r"),
        (["cat", "/"], 4, "directory"),
        (["rm", "/"], 2, "root"),
        (["--master", "127.0.0.1:1", "--timeout", "1", "ls"], 6, ""),
        (["--master", "no.such.host:9500", "--timeout", "1", "ls"], 6, ""),
        (["--master", "host:port", "ls"], 2, "host:port"),
        (["--timeout", "-1", "ls"], 2, "timeout"),
        (["--timeout", "nan", "ls"], 2, "timeout"),
        (["--timeout", "0.001", "ls"], 6, "gave up"),
        (["up", "--masters", "4"], 2, "no sensible quorum"),
        (["up"], 6, "already running"),
        (["--data", "/nonexistent-gfs", "ls"], 3, "gfs up"),
    ],
)
def test_errors_are_one_sentence_with_their_exit_status(
    gfs: Shell, arguments: list[str], status: int, said: str
) -> None:
    ran = gfs(*arguments)
    assert (ran.returncode, said in ran.stderr.decode()) == (status, True), ran.stderr.decode()
    assert len(ran.stderr.decode().strip().splitlines()) <= 4


def test_a_cluster_on_the_ports_of_another_says_so_and_talks_to_neither(gfs: Shell, tmp_path: Path) -> None:
    taken = layout.open_layout(str(gfs.data)).settings.masters["m1"].control
    second = Shell(tmp_path / "second")
    ran = second("up", "--masters", "1", "--chunkservers", "1", "--port", taken.split(":")[1], "--detach")
    assert (ran.returncode, "belongs to cluster" in ran.stderr.decode()) == (6, True), ran.stderr.decode()
    assert b"has taken one of its ports" in ran.stderr
    for verb in (["status"], ["--timeout", "1", "mkdir", "/elsewhere"]):
        ran = second(*verb)
        assert ran.returncode != 0 and b"belongs to cluster" in ran.stderr, ran.stderr.decode()
    assert gfs("stat", "/elsewhere").returncode == 3


def test_a_port_that_is_none_leaves_no_configuration_behind(tmp_path: Path) -> None:
    shell = Shell(tmp_path / "none")
    assert shell("up", "--port", "-5").returncode == 2
    assert not layout.exists(str(shell.data))


def test_two_starts_of_a_new_cluster_at_once_make_one(tmp_path: Path) -> None:
    made = [
        layout.make_layout(str(tmp_path), masters=1, chunkservers=1, first_port=0).settings for _ in range(2)
    ]
    assert made[0] == made[1]
    assert sorted(os.listdir(tmp_path)) == ["gfs.toml", "logs", "secret"]


def test_put_refuses_to_replace_unless_told_to(gfs: Shell, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"new")
    gfs.ok("put", "-", "/replace-me", stdin=b"old")
    assert gfs("put", str(local), "/replace-me").returncode == 4
    assert gfs.ok("cat", "/replace-me") == b"old"
    gfs.ok("put", "-f", str(local), "/replace-me")
    assert gfs.ok("cat", "/replace-me") == b"new"


def test_ctrl_c_ends_a_put_whose_input_is_silent(gfs: Shell) -> None:
    command = [sys.executable, "-m", "gfs", "--data", str(gfs.data), "put", "-", "/silent"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as putting:
        assert putting.stdin is not None and putting.stderr is not None
        while b".silent.gfs-tmp" not in gfs.ok("ls", "/"):
            assert putting.poll() is None
        putting.send_signal(signal.SIGINT)
        assert putting.wait(20) == 130
        assert b"Traceback" not in putting.stderr.read()
    assert b"silent" not in gfs.ok("ls", "/")


def test_ctrl_c_while_a_cluster_starts_in_the_background_stops_it(tmp_path: Path) -> None:
    shell = Shell(tmp_path / "stopped")
    command = [sys.executable, "-m", "gfs", "--data", str(shell.data), "up", "--port", "0", "--detach"]
    with subprocess.Popen([*command, "--masters", "1"], stderr=subprocess.DEVNULL) as starting:
        lock = layout.SupervisorLock(str(shell.data))
        while not shell.data.exists() or lock.holder() in (0, starting.pid):
            assert starting.poll() is None
        starting.send_signal(signal.SIGINT)
        status = starting.wait(30)
    running = lock.holder()
    shell("down")
    assert (status, running) == (130, 0)


def test_what_cannot_be_stored_of_a_tree_is_named_and_the_rest_is_stored(gfs: Shell, tmp_path: Path) -> None:
    tree = tmp_path / "odd"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "in").write_text("in")
    (tree / "new\nline").write_text("1")
    (tree / "link").symlink_to("sub")
    os.makedirs(os.fsencode(tree) + b"/bad\xff/x")
    Path(os.fsdecode(os.fsencode(tree) + b"/bad\xff/x/y")).write_text("z")
    ran = gfs("put", "-r", str(tree), "/odd")
    assert ran.returncode == 9
    assert b"1 of 3 files failed" in ran.stderr and b"left out" in ran.stderr, ran.stderr
    names = [Path(json.loads(line)["path"]).name for line in gfs.ok("-o", "jsonl", "ls", "/odd").splitlines()]
    assert names == ["new\nline", "sub"]
    assert gfs.ok("cat", "/odd/sub/in") == b"in"


def test_a_device_is_never_replaced_by_a_file(gfs: Shell, tmp_path: Path) -> None:
    gfs.ok("put", "-", "/not-a-device", stdin=b"x")
    os.mkfifo(tmp_path / "fifo")
    assert gfs("get", "-f", "/not-a-device", str(tmp_path / "fifo")).returncode == 4
    assert (tmp_path / "fifo").is_fifo()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_do_not_abort_a_command(gfs: Shell, closed: str) -> None:
    command = f"{sys.executable} -m gfs --data {gfs.data} ls / {closed}"
    assert subprocess.run(["bash", "-c", command], capture_output=True, timeout=60).returncode == 0


@pytest.mark.parametrize("flag", [["-o", "json"], ["-ojson"], ["--output=json"]])
def test_errors_are_json_however_json_was_asked_for(gfs: Shell, flag: list[str]) -> None:
    assert json.loads(gfs(*flag, "stat", "/none").stderr)["error"]["code"] == "not_found"


@pytest.mark.parametrize("arguments", [["nosuch"], ["stat"], ["ls", "--nosuch"], ["admin", "nosuch"]])
def test_a_command_that_is_wrong_is_told_in_json_too(gfs: Shell, arguments: list[str]) -> None:
    ran = gfs("-o", "json", *arguments)
    error = json.loads(ran.stderr)["error"]
    assert (ran.returncode, error["code"], "--help" in error["hint"]) == (2, "usage", True)


def test_global_options_may_stand_behind_the_command_and_below_a_group(gfs: Shell) -> None:
    assert json.loads(gfs.ok("stat", "/", "-o", "json"))["kind"] == "directory"
    assert json.loads(gfs.ok("-o", "json", "stat", "/", "-q"))["kind"] == "directory"
    assert len(json.loads(gfs.ok("admin", "chunkservers", "ls", "-o", "json"))) == 4
    assert gfs("ls", "/", "--timeout", "0.001").returncode == 6


def test_a_local_directory_that_is_not_there_is_told_by_the_name_that_was_given(
    gfs: Shell, tmp_path: Path
) -> None:
    gfs.ok("put", "-", "/local-errors", stdin=b"x")
    ran = gfs("get", "/local-errors", str(tmp_path / "none" / "here"))
    assert ran.returncode == 3 and f"{tmp_path}/none/here'".encode() in ran.stderr
    assert b"tmp-" not in ran.stderr.replace(str(tmp_path).encode(), b"")


def test_a_drain_is_waited_for_and_says_how_it_goes(gfs: Shell) -> None:
    gfs.ok("put", "-", "/to-drain", stdin=b"x" * 1000)
    server = json.loads(gfs.ok("chunks", "/to-drain", "-o", "json"))[0]["replicas"][0][0]
    try:
        ran = gfs("admin", "chunkservers", "drain", server, "--wait", "--timeout", "60")
        assert ran.returncode == 0, ran.stderr.decode()
        assert f"{server} is empty" in ran.stdout.decode() and b"gets no new replicas" in ran.stderr
        assert f"chunk server {server} is empty" in gfs.ok("status").decode()
    finally:
        gfs.ok("admin", "chunkservers", "undrain", server)


def test_lines_are_appended_as_records_and_shown_again(gfs: Shell) -> None:
    lines = [b"one", b"", b"three " * 1000]
    printed = gfs.ok("append", "--record", "--create", "/log", stdin=b"\n".join(lines))
    offsets = [int(line) for line in printed.split()]
    assert len(offsets) == 3 and offsets == sorted(offsets)
    assert gfs.ok("cat", "--records", "/log") == b"\n".join(lines) + b"\n"
    assert gfs.ok("cat", "--records", "--offset", str(offsets[1]), "/log") == b"\n".join(lines[1:]) + b"\n"
    (shown,) = gfs.ok("-o", "jsonl", "cat", "--records", "--offset", str(offsets[2]), "/log").splitlines()
    assert base64.b64decode(json.loads(shown)["payload"]) == lines[2]
    told = json.loads(gfs.ok("-o", "json", "append", "/log", stdin=b"raw"))
    assert told["bytes"] == 3 and gfs.ok("cat", "--offset", str(told["offset"]), "/log") == b"raw"


def test_a_local_file_is_appended_in_one_piece(gfs: Shell, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"first\nsecond")
    gfs.ok("append", "--record", "--create", "/whole", str(source))
    assert gfs.ok("cat", "--records", "/whole") == b"first\nsecond\n"


def test_what_cannot_be_appended_is_refused_with_its_reason(gfs: Shell, tmp_path: Path) -> None:
    gfs.ok("append", "--record", "--create", "/refusing", stdin=b"x")
    source = tmp_path / "long"
    source.write_bytes(bytes(16 * 2**20 + 1))
    for arguments, status, said in (
        (["append", "/no-such-file"], 3, "no-such-file"),
        (["append", "/refusing", str(source)], 2, "16777216"),
        (["append", "--record", "/refusing", str(source)], 2, "at most"),
        (["append", "/refusing", str(tmp_path / "missing")], 3, "missing"),
        (["append", "/refusing"], 2, "empty"),
        (["append", "/"], 4, "directory"),
        (["cat", "--records", "--length", "3", "/refusing"], 2, "--length"),
        (["cat", "--follow", "/refusing"], 2, "--records"),
    ):
        ran = gfs(*arguments, stdin=b"" if arguments[-1] == "/refusing" else b"data")
        assert ran.returncode == status, (arguments, ran.stderr.decode())
        assert said in ran.stderr.decode(), (arguments, ran.stderr.decode())
    assert gfs.ok("cat", "--records", "/refusing") == b"x\n"


def test_a_reader_that_goes_away_ends_cat_quietly(gfs: Shell) -> None:
    gfs.ok("put", "-", "/pipe", stdin=b"y\n" * 5_000_000)
    command = f"{sys.executable} -m gfs --data {gfs.data} cat /pipe | head -c 4; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
    assert ran.stdout == b"y\ny\n"
    assert ran.returncode == 141
    assert ran.stderr == b""


def readme_block(containing: str) -> str:
    blocks = re.findall(r"```\w*\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    (found,) = [block for block in blocks if containing in block]
    return str(found)


def test_the_commands_of_the_readme_work(gfs: Shell, tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "README").write_text("first line\n")
    (tmp_path / "dataset" / "big").write_bytes(os.urandom(3_000_000))
    lines = [line.split("#")[0] for line in readme_block("gfs put -r ./dataset").splitlines()]
    inner = [
        line
        for line in lines
        if line.startswith("gfs ") and not line.startswith(("gfs up", "gfs down")) and "--follow" not in line
    ]
    assert len(inner) >= 8
    script = f'set -eo pipefail\ngfs() {{ {sys.executable} -m gfs --data {gfs.data} "$@"; }}\n'
    ran = subprocess.run(
        ["bash", "-c", script + "\n".join(inner)], cwd=tmp_path, capture_output=True, text=True, timeout=90
    )
    assert ran.returncode == 0, ran.stderr
    assert "first line" in ran.stdout
    assert (tmp_path / "copy" / "big").read_bytes() == (tmp_path / "dataset" / "big").read_bytes()


def test_the_python_of_the_readme_works(gfs: Shell) -> None:
    masters = json.loads(gfs.ok("-o", "json", "status"))["masters"]
    code = re.sub(
        r"gfs://[^\"]+", "gfs://" + ",".join(m["control"] for m in masters), readme_block("import gfs")
    )
    # The README's cluster is where 'gfs up' has it by itself, and its token is found there.
    environment = dict(os.environ, GFS_TOKEN_FILE=str(gfs.data / "token"))
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "b'hello\\n' ['/logs/today']\n"


def test_data_survives_down_and_up(gfs: Shell) -> None:
    gfs.ok("put", "-", "/survivor", stdin=b"still here")
    gfs.ok("down")
    assert b"not running" in gfs("down").stderr
    ran = gfs("ls")
    assert ran.returncode == 6 and b"is not running: 'gfs up --detach' starts it" in ran.stderr
    gfs.ok("up", "--detach")
    assert gfs.ok("cat", "/survivor") == b"still here"


@keeps("user-level-programs")
def test_one_master_and_one_chunk_server_are_a_valid_cluster(tmp_path: Path) -> None:
    shell = Shell(tmp_path / "small")
    shell.ok("up", "--masters", "1", "--chunkservers", "1", "--port", "0", "--detach")
    try:
        shell.ok("put", "-", "/x", stdin=b"one copy")
        assert shell.ok("cat", "/x") == b"one copy"
    finally:
        shell("down")


def test_a_disk_of_another_cluster_is_refused_by_both_names(tmp_path: Path) -> None:
    first, second = Shell(tmp_path / "first"), Shell(tmp_path / "second")
    for shell in (first, second):
        shell.ok("up", "--masters", "1", "--chunkservers", "1", "--port", "0", "--detach")
        shell.ok("down")
    ids = [layout.open_layout(str(shell.data)).settings.cluster.id for shell in (first, second)]
    shutil.rmtree(second.data / "chunkservers" / "c1")
    shutil.copytree(first.data / "chunkservers" / "c1", second.data / "chunkservers" / "c1")
    ran = second("up", "--detach")
    assert ran.returncode == 6 and f"belongs to cluster {ids[0]}, not to {ids[1]}" in ran.stderr.decode()
    assert len(ran.stderr.splitlines()) == 2

"""Nothing secret stands in the logs of programs, in what `ps` shows of them, or in what commands say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from gfs.credentials import new_token, read_token, write_token


def test_programs_and_commands_show_no_secret(tmp_path: Path) -> None:
    data = tmp_path / "cluster"

    def run(*arguments: str, token_file: str = "") -> subprocess.CompletedProcess[bytes]:
        environment = dict(os.environ, GFS_TOKEN_FILE=token_file) if token_file else dict(os.environ)
        command = [sys.executable, "-m", "gfs", "--data", str(data), *arguments]
        return subprocess.run(command, capture_output=True, timeout=120, env=environment)

    write_token(str(tmp_path / "unknown"), unknown := new_token())
    up = run("up", "--masters", "1", "--chunkservers", "1", "--port", "0", "--detach")
    said = [up]
    try:
        assert up.returncode == 0, up.stderr.decode()
        created = run("token", "create", str(tmp_path / "made"), "--role", "writer", "--prefix", "/a")
        said.append(created)
        assert created.returncode == 0, created.stderr.decode()
        said.append(run("mkdir", "/a"))
        denied = run("mkdir", "/b", token_file=str(tmp_path / "made"))
        assert denied.returncode == 5 and b"/a" in denied.stderr, denied.stderr.decode()
        said.append(denied)
        said.append(run("-o", "json", "ls", "/", token_file=str(tmp_path / "unknown")))
        assert said[-1].returncode == 5
        said += [
            run("token", "ls"),
            run("token", "inspect"),
            run("rpclog"),
            run("events"),
            run("config", "show"),
        ]
        said.append(run("oplog", "inspect", str(data / "masters" / "m1" / "log")))
        shown = b"".join(ran.stdout + ran.stderr for ran in said)
        for process in Path("/proc").iterdir():
            try:
                command = (process / "cmdline").read_bytes() if process.name.isdigit() else b""
                if str(data).encode() in command:
                    shown += command + (process / "environ").read_bytes()
            except OSError:
                pass  # it has just ended
    finally:
        run("down")
    assert b"chunkserver" in shown  # processes of the cluster were seen
    logs = b"".join(path.read_bytes() for path in (data / "logs").iterdir())
    assert logs
    secrets = [read_token(str(data / "token")), read_token(str(tmp_path / "made")), unknown]
    secrets.append((data / "secret").read_text().strip())
    for secret in secrets:
        assert secret.encode() not in shown + logs
        for path in (data / "masters").rglob("*"):
            assert not path.is_file() or secret.encode() not in path.read_bytes(), path

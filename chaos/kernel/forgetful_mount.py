"""Starts the file system that forgets, talks to it and takes it away. What it does: `forgetful_fs`."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from chaos.kernel.machine import CommandFailed, command

MOUNT_SECONDS_MAX = 10.0
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class ForgetfulMount:
    """A directory for each machine below `mountpoint`. From any thread. Raises: CommandFailed."""

    def __init__(
        self, mountpoint: Path, store: Path, machines: Sequence[str], *, seed: int, name: str
    ) -> None:
        """`store`: a directory for the durable bytes; `name`: what /proc/mounts shows."""
        self.mountpoint, self._boots = mountpoint, store / "boots"
        mountpoint.mkdir(parents=True, exist_ok=True)
        self._boots.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        words = [sys.executable, "-m", "chaos.kernel.forgetful_fs", str(mountpoint), str(store), str(seed)]
        self._files = subprocess.Popen(
            [*words, name, *machines],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        deadline = time.monotonic() + MOUNT_SECONDS_MAX
        while not os.path.ismount(mountpoint):
            if self._files.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise CommandFailed("the forgetful file system was not mounted")
            time.sleep(0.01)

    def cut(self, machines: Sequence[str]) -> None:
        self.tell("cut", *machines)

    def on(self, machines: Sequence[str]) -> None:
        self.tell("on", *machines)

    def tell(self, *words: str) -> None:
        if (answer := self._ask(" ".join(words))) != "done":
            raise CommandFailed(f"the forgetful file system: {answer}")

    def as_of_this_boot(self, machine: str, words: Sequence[str]) -> list[str]:
        """The command, so that the program sees another boot of its machine after each cut."""
        boot = self._boots / machine
        boot.write_text(next(x for x in self._ask("boots").split() if x.startswith(f"{machine}=")) + "\n")
        script = f'mount --bind "$0" {BOOT_ID} && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, str(boot), *words]

    def close(self) -> None:
        command("umount", "--lazy", str(self.mountpoint), check=False)
        assert self._files.stdin is not None and self._files.stdout is not None
        self._files.stdin.close()
        try:
            self._files.wait(5)
        except subprocess.TimeoutExpired:
            self._files.kill()
            self._files.wait()
        self._files.stdout.close()

    def _ask(self, line: str) -> str:
        assert self._files.stdin is not None and self._files.stdout is not None
        with self._lock:
            try:
                self._files.stdin.write(line + "\n")
                self._files.stdin.flush()
            except OSError as error:
                raise CommandFailed(f"the forgetful file system has ended: {error}") from error
            return self._files.stdout.readline().strip()

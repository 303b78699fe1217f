"""What a measured file system is to the measuring: programs that are started, a folder to work in, an end.

Programs and mounts live below one directory and are ended with it, also when a start breaks off midway.
"""

from __future__ import annotations

import abc
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from gfs.bench.processes import family
from gfs.errors import Unavailable

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 10.0
_POLL_SECONDS = 0.05


class Peer(abc.ABC):
    """One file system. `what`: its copies, and what a closed file has reached; told beside its figures."""

    name: str
    what: str
    needs: tuple[str, ...] = ()  # programs, by the names they are called
    get: str = ""  # how to get them
    is_mounted: bool = False

    def __init__(self, directory: str) -> None:
        """`directory`: for everything that it keeps."""
        self.directory = Path(directory)
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._mount: Path | None = None
        self._starting = threading.Lock()  # stop() may come from another thread while start() is at work
        self._stopped = False

    def missing(self) -> str:
        """Empty when it can run here; else what is missing and how to get it."""
        gone = [name for name in self.needs if program(name) is None]
        if gone:
            return f"{', '.join(gone)} not installed: {self.get}"
        if self.is_mounted and not (
            os.access("/dev/fuse", os.R_OK | os.W_OK) and shutil.which("fusermount3")
        ):
            return "this machine cannot mount: it needs /dev/fuse and the package fuse3"
        return ""

    @abc.abstractmethod
    def start(self) -> str:
        """Run it. Returns: the folder to work in. Raises: Unavailable with the end of a log."""

    def stop(self) -> None:
        """End all of it, for good; never raises. May be called at any time, from any thread."""
        with self._starting:
            self._stopped = True
        if self._mount is not None:
            subprocess.run(["fusermount3", "-u", "-z", str(self._mount)], check=False, capture_output=True)
        for _, process in reversed(self._processes):
            _signal_all(process, signal.SIGTERM)
        ends = time.monotonic() + STOP_SECONDS_MAX
        for _, process in reversed(self._processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, ends - time.monotonic()))
            _signal_all(process, signal.SIGKILL)  # also those that it has started
            process.wait()
        self._processes.clear()

    def processes(self) -> list[int]:
        """With those that they have started: some mounts work in a child."""
        return [member for _, process in self._processes for member in family(process.pid)]

    # --- for those below --------------------------------------------------------------------------

    def run(self, name: str, *command: str) -> None:
        """Start a program that stays, its output in NAME.log."""
        executable = program(command[0])
        assert executable is not None, command[0]
        with self._starting, open(self.directory / f"{name}.log", "wb") as log:
            self._go_on()
            process = subprocess.Popen(
                [executable, *command[1:]],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt ends it by stop(), in the right order
            )
            self._processes.append((name, process))

    def call(self, *command: str) -> None:
        """Run a program to its end. Raises: Unavailable."""
        executable = program(command[0])
        assert executable is not None, command[0]
        done = subprocess.run(
            [executable, *command[1:]], cwd=self.directory, capture_output=True, check=False
        )
        if done.returncode:
            told = (done.stderr or done.stdout).decode("utf-8", "replace").strip()[-300:]
            raise Unavailable(f"{self.name}: {command[0]} ended with {done.returncode}: {told}")

    def mount_point(self) -> Path:
        self._mount = self.directory / "mount"
        self._mount.mkdir()
        return self._mount

    def wait_mounted(self) -> Path:
        mount = self._mount
        assert mount is not None
        self.wait_until(lambda: os.path.ismount(mount), "mounted")
        return mount

    def wait_listening(self, host: str, port: int) -> None:
        self.wait_until(lambda: _answers(host, port), f"listening on port {port}")

    def wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        """Raises: Unavailable when a program ended instead, or it took too long."""
        ends = time.monotonic() + START_SECONDS_MAX
        while not is_so():
            self._go_on()
            for name, process in self._processes:
                if process.poll() is not None:
                    raise Unavailable(f"{self.name}: {name} ended by itself: {self._last_words(name)}")
            if time.monotonic() > ends:
                told = "; ".join(f"{name}: {self._last_words(name)}" for name, _ in self._processes)
                raise Unavailable(f"{self.name} was not {what} in {START_SECONDS_MAX:.0f} s: {told}")
            time.sleep(_POLL_SECONDS)

    def _go_on(self) -> None:
        if self._stopped:
            raise Unavailable(f"{self.name} was stopped while it was being started")

    def _last_words(self, name: str) -> str:
        log = (self.directory / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        return log.strip()[-300:] or "it said nothing"


def _signal_all(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def program(name: str) -> str | None:
    """Where a program is: beside our Python first, where wheels put theirs."""
    beside = os.path.join(os.path.dirname(sys.executable), name)  # a whole path stays as it is
    if os.path.exists(beside):
        return beside
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")))


def own_address() -> str:
    """An address of this machine other than loopback; empty when it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737: nothing is sent
        except OSError:
            return ""
        address = str(probe.getsockname()[0])
    return "" if address.startswith("127.") else address


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True

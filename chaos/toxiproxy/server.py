"""A Toxiproxy server as a process, the real one or our stand-in: started and ended. No links here."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

from chaos.toxiproxy import tools
from chaos.toxiproxy.control import Control, ToxiproxyFault
from gfs.local.ports import free_ports

START_SECONDS_MAX = 20.0
_PR_SET_PDEATHSIG = 1


def _die_with_harness() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class ToxiproxyServer:
    """`binary`: of the real server; "": the stand-in, whose chance is `seed`. One at a time in a process."""

    def __init__(self, directory: str, *, binary: str = "", seed: int = 0) -> None:
        """`directory`: for its log."""
        self._log = Path(directory) / "toxiproxy.log"
        self._binary, self._seed = binary, seed
        self._process: subprocess.Popen[bytes] | None = None
        self.control: Control  # of the server that runs now

    @property
    def is_real(self) -> bool:
        return bool(self._binary)

    @property
    def description(self) -> str:
        """What a report says the links ran through."""
        if self.is_real:
            return f"the real Toxiproxy server {tools.VERSION}"
        return (
            "the stand-in for Toxiproxy of this suite (no real server here: python -m chaos tools --install)"
        )

    @property
    def process_id(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def has_died(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    async def start(self) -> None:
        """Raises: ToxiproxyFault, with the end of its log, when it does not answer in time."""
        assert self._process is None
        (port,) = free_ports(1)
        if self.is_real:
            command = [self._binary, "-host", "127.0.0.1", "-port", str(port)]
        else:
            command = [sys.executable, "-m", "chaos.toxiproxy.standin", "--port", str(port)]
            command += ["--seed", str(self._seed)]
        process = self._process = self._spawn(command)
        self.control = Control(port)
        deadline = asyncio.get_running_loop().time() + START_SECONDS_MAX
        while True:
            try:
                await asyncio.to_thread(self.control.version)
                return
            except ToxiproxyFault as error:
                if process.poll() is not None or asyncio.get_running_loop().time() > deadline:
                    await self.kill()
                    words = self._log.read_bytes()[-2000:].decode("utf-8", "replace")
                    raise ToxiproxyFault(f"{self.description} does not start: {error}\n{words}") from error
            await asyncio.sleep(0.05)

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "LOG_LEVEL": "error"},
                start_new_session=True,
                preexec_fn=_die_with_harness,
            )

    async def kill(self) -> None:
        """End it, whatever state it is in; all connections through it break."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await asyncio.to_thread(process.wait)

"""Where the real Toxiproxy server is, and how it is got where Go is. Starts nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

MODULE = "github.com/Shopify/toxiproxy/v2"
VERSION = "2.12.0"
BINARY = "toxiproxy-server"
DIRECTORY_KEY = "GFS_CHAOS_TOOLS"  # names the directory of tools; by default .tools where we were started
GO_PLACES = ("/usr/local/go/bin/go", "/usr/lib/go/bin/go")
BUILD_SECONDS_MAX = 600.0


class CannotInstall(Exception):
    """The server cannot be had on this machine; the text says why."""


def tools_directory() -> Path:
    return Path(os.environ.get(DIRECTORY_KEY) or ".tools").absolute()


def find_server() -> str:
    """Path of the real server's program, or ""."""
    ours = tools_directory() / BINARY
    if os.access(ours, os.X_OK):
        return str(ours)
    return shutil.which(BINARY) or ""


def why_no_server() -> str:
    """For a list of what this machine can do; "" where the real server is."""
    if find_server():
        return ""
    how = "'python -m chaos tools --install' builds it" if find_go() else "and there is no Go to build it"
    return f"the real Toxiproxy server is not in {tools_directory()}, {how}; a stand-in is used"


def find_go() -> str:
    return shutil.which("go") or next((place for place in GO_PLACES if os.access(place, os.X_OK)), "")


def install_server() -> str:
    """Build the server into tools_directory(), unless it is there. Returns: its path.

    Raises: CannotInstall.
    """
    if found := find_server():
        return found
    go = find_go()
    if not go:
        raise CannotInstall("Go is not installed; it builds the Toxiproxy server. The stand-in needs nothing")
    directory = tools_directory()
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as built:
        environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": built}
        flags = f"-X {MODULE}.Version={VERSION}"
        command = [go, "install", "-ldflags", flags, f"{MODULE}/cmd/server@v{VERSION}"]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS_MAX
            )
        except subprocess.TimeoutExpired as error:
            raise CannotInstall(f"{' '.join(command)} took longer than {BUILD_SECONDS_MAX:.0f} s") from error
        if done.returncode != 0:
            raise CannotInstall(f"{' '.join(command)} failed: {done.stderr.strip()[-1000:]}")
        # Go names a program after its folder; renamed in one step, so that nobody finds half of it.
        os.replace(Path(built) / "server", directory / BINARY)
    return str(directory / BINARY)

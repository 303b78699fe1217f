"""The README's store of somebody else: its tests pass, and a chunk server finds it by its entry point."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
USE = """
import sys
from gfs import settings
from gfs.chunkserver.stores.plugin import StoreSite
from gfs.chunkserver.stores.store_moves import StoreMoves
from gfs.disk import SystemDisk
store = StoreMoves(settings.load("gfs.toml"), "c1", StoreSite(SystemDisk(), sys.argv[1])).open().present
store.create(5)
print(type(store).__name__, list(store.handles()))
"""


def write_examples(directory: Path) -> list[str]:
    """Each block of the README that begins with a file's name, as that file."""
    text = (REPOSITORY / "README.md").read_text()
    found = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL)
    for name, code in found:
        (directory / name).write_text(code)
    return [name for name, _ in found]


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(directory), str(REPOSITORY)))
    environment = dict(os.environ, PYTHONPATH=path)
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=90)


def test_the_store_of_the_readme_passes_the_published_contract(tmp_path: Path) -> None:
    assert write_examples(tmp_path) == ["ramdisk_store.py", "test_ramdisk_store.py"]
    ran = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"\b\d\d passed", ran.stdout), ran.stdout


def test_a_chunk_server_finds_the_store_of_the_readme_by_its_entry_point(tmp_path: Path) -> None:
    write_examples(tmp_path)
    package = tmp_path / "ramdisk_store-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: ramdisk-store\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[gfs.chunkstores]\nramdisk = ramdisk_store:PLUGIN\n")
    (tmp_path / "gfs.toml").write_text(
        "[chunkservers.c1]\ncontrol = '127.0.0.1:1001'\ndata = '127.0.0.1:1002'\nstore = 'ramdisk'\n"
        f"[chunkserver.store_options.ramdisk]\ndirectory = '{tmp_path}/ram'\n"
    )
    (tmp_path / "c1").mkdir()
    ran = run(tmp_path, "-c", USE, str(tmp_path / "c1"))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "RamDiskStore [5]\n"
    assert [path.name for path in (tmp_path / "ram" / "c1").rglob("*.chunk")] == [f"{5:016x}.chunk"]

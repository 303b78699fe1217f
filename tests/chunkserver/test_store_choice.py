"""Which store a chunk server opens: by gfs.toml, by what is installed, by what its directory already is."""

from __future__ import annotations

import json
import sys
import tomllib
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from gfs import settings
from gfs.chunkserver.stores import registry
from gfs.chunkserver.stores.file import FileStore
from gfs.chunkserver.stores.interface import ChunkStore, StoreCapabilities
from gfs.chunkserver.stores.memory import MemoryStore
from gfs.chunkserver.stores.plugin import StoreSite
from gfs.chunkserver.stores.store_moves import StoreMoves
from gfs.disk import SystemDisk
from gfs.errors import ConfigInvalid, CorruptState, UnsupportedVersion
from gfs.vocabulary import MIB

NODE = "[chunkservers.cs1]\ncontrol = '127.0.0.1:1001'\ndata = '127.0.0.1:1002'\n"


def open_configured(directory: Path, text: str, **environment: str) -> ChunkStore:
    """A chunk server's store as its start opens it, and as long as nothing was moved."""
    config = directory / "gfs.toml"
    config.write_text(text)
    loaded = settings.load(str(config), environment=environment)
    place = directory / "cs1"
    place.mkdir(exist_ok=True)
    return StoreMoves(loaded, "cs1", StoreSite(SystemDisk(), str(place))).open().present


def test_without_a_word_chunks_are_files_and_each_chunk_server_may_have_another_store(tmp_path: Path) -> None:
    assert isinstance(open_configured(tmp_path, NODE), FileStore)
    (tmp_path / "2").mkdir()
    assert isinstance(
        open_configured(tmp_path / "2", "[chunkserver]\nstore = 'memory'\n" + NODE), MemoryStore
    )
    (tmp_path / "3").mkdir()
    assert isinstance(open_configured(tmp_path / "3", NODE + "store = 'memory'\n"), MemoryStore)


def test_options_of_a_store_are_read_with_units_from_file_and_environment(tmp_path: Path) -> None:
    text = "[chunkserver.store_options.memory]\ntotal_bytes = '3MiB'\n" + NODE + "store = 'memory'\n"
    assert open_configured(tmp_path, text).usage().total_bytes == 3 * MIB
    told = open_configured(tmp_path, text, GFS__CHUNKSERVER__STORE_OPTIONS__MEMORY__TOTAL_BYTES="5MiB")
    assert told.usage().total_bytes == 5 * MIB


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (NODE + "store = 'tape'\n", r"chunkservers\.cs1\.store: 'tape' is not one of file, .*memory"),
        ("[chunkserver]\nstore = 'tape'\n" + NODE, r"chunkserver\.store: 'tape' is not one of"),
        (
            "[chunkserver.store_options.file]\nspeed = 3\n" + NODE,
            r"store_options\.file.*unknown field `speed`",
        ),
        (
            "[chunkserver.store_options.file]\nopen_files_max = 0\n" + NODE,
            r"open_files_max: 0 is not above zero",
        ),
        ("[chunkserver.store_options.file]\nopen_files_max = 'few'\n" + NODE, r"store_options\.file.*int"),
    ],
)
def test_an_unknown_store_or_option_is_refused_with_its_path(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigInvalid, match=said):
        open_configured(tmp_path, text)


def test_a_directory_that_another_store_has_used_is_refused_and_left_alone(tmp_path: Path) -> None:
    open_configured(tmp_path, NODE).close()
    with pytest.raises(ConfigInvalid, match="kept by the store 'file', not 'memory'") as caught:
        open_configured(tmp_path, NODE + "store = 'memory'\n")
    assert "drain" in caught.value.hint
    open_configured(tmp_path, NODE).close()
    (tmp_path / "other").mkdir()
    open_configured(tmp_path / "other", NODE + "store = 'memory'\n").close()
    with pytest.raises(ConfigInvalid, match="kept by the store 'memory', not 'file'"):
        open_configured(tmp_path / "other", NODE)
    assert not (tmp_path / "other/cs1/chunks").exists()


def test_a_note_of_a_newer_format_or_a_damaged_one_is_refused_by_name(tmp_path: Path) -> None:
    note = tmp_path / "cs1" / "store.json"
    note.parent.mkdir()
    note.write_text(json.dumps({"format": 3, "store": "memory"}))
    with pytest.raises(UnsupportedVersion, match=r"store\.json has format 3"):
        open_configured(tmp_path, NODE)
    note.write_text("{")
    with pytest.raises(CorruptState, match=r"store\.json"):
        open_configured(tmp_path, NODE)


def test_a_store_that_cannot_be_written_to_is_refused_for_a_chunk_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed_only = StoreCapabilities(append=False, random_write=False)
    assert sealed_only.immutable_only
    plugin = replace(registry.load("memory"), capabilities=sealed_only)
    monkeypatch.setattr("gfs.chunkserver.stores.memory.PLUGIN", plugin)
    with pytest.raises(ConfigInvalid, match="cannot be written"):
        open_configured(tmp_path, NODE + "store = 'memory'\n")


def test_a_package_that_is_broken_or_takes_a_name_that_is_taken_is_told_by_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_store.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    offered = [EntryPoint("broken", "broken_store:PLUGIN", registry.GROUP)]
    offered.append(EntryPoint("other", "json:dumps", registry.GROUP))
    monkeypatch.setattr(registry, "entry_points", lambda group: offered)
    with pytest.raises(ConfigInvalid, match=r"broken_store:PLUGIN.*a_library_that_nobody_has"):
        open_configured(tmp_path, NODE + "store = 'broken'\n")
    with pytest.raises(ConfigInvalid, match="json:dumps is no StorePlugin called 'other'"):
        open_configured(tmp_path, NODE + "store = 'other'\n")
    offered.append(EntryPoint("file", "broken_store:PLUGIN", registry.GROUP))
    with pytest.raises(ConfigInvalid, match="two chunk stores are called 'file'"):
        open_configured(tmp_path, NODE)
    assert "broken_store" not in sys.modules


def test_the_package_offers_its_own_stores_by_entry_points_as_the_registry_knows_them() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][registry.GROUP] == registry.BUILT_IN
    for name in registry.BUILT_IN:
        assert registry.load(name).name == name

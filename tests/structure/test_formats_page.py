"""FORMATS.md tells the version of every disk format as the code has it, and of none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gfs.backups import manifest
from gfs.chunkserver import disk_identity, index_journal, index_tables, known_masters
from gfs.chunkserver.stores import lmdb_packed, store_mark
from gfs.client.core import record_framing
from gfs.master import directory, quarantine
from gfs.master.core import records
from gfs.master.core.tables import Table
from gfs.master.replication import checkpoints, group_commit, log_format, member_disks
from gfs.verification import history

ROOT = Path(__file__).parents[2]
GFS = ROOT / "gfs"
TEXT = (GFS / "FORMATS.md").read_text()
# What says a format's number, or marks its beginning, is called so in every module.
CONSTANT = re.compile(
    r"^(_?(?:[A-Z]+_)?(?:FORMAT|FORMAT_VERSION|MAGIC|MARK)) = (?=[b\d])(.+?)(?:  #.*)?$", re.MULTILINE
)

NUMBERS = {
    "`LOG_FORMAT`": log_format.LOG_FORMAT,
    "`member_disks._FORMAT`": member_disks._FORMAT,
    "`directory.FORMAT_VERSION`": directory.FORMAT_VERSION,
    "`quarantine._FORMAT`": quarantine._FORMAT,
    "`CHECKPOINT_FORMAT`": checkpoints.CHECKPOINT_FORMAT,
    "`BACKUP_FORMAT`": manifest.BACKUP_FORMAT,
    "`STATE_FORMAT`": records.STATE_FORMAT,
    "`index_tables.FORMAT_VERSION`": index_tables.FORMAT_VERSION,
    "`SEGMENT_MAGIC`": index_journal.SEGMENT_MAGIC,
    "`disk_identity.FORMAT_VERSION`": disk_identity.FORMAT_VERSION,
    "`store_mark.FORMAT_VERSION`": store_mark.FORMAT_VERSION,
    "`lmdb_packed.FORMAT_VERSION`": lmdb_packed.FORMAT_VERSION,
    "`known_masters.FORMAT_VERSION`": known_masters.FORMAT_VERSION,
    "`MARK`": record_framing.MARK,
    "`history.FORMAT_VERSION`": history.FORMAT_VERSION,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_page_has_the_number_that_the_code_has(name: str) -> None:
    value = NUMBERS[name]
    told = f"`{value.decode()}`" if isinstance(value, bytes) else str(value)
    assert f"| {name} = {told} |" in TEXT


def test_every_module_with_a_format_of_its_own_is_on_the_page() -> None:
    modules = {
        str(path.relative_to(GFS))
        for path in GFS.rglob("*.py")
        if CONSTANT.search(path.read_text()) and path.relative_to(GFS).parts[0] not in ("cli", "inspect")
    }
    assert "master/replication/log_format.py" in modules and len(modules) > 8, modules
    missing = sorted(name for name in modules if name not in TEXT)
    assert not missing, f"FORMATS.md does not tell of the formats in {missing}"


def test_every_kind_of_log_entry_and_record_is_on_the_page() -> None:
    for kind in (group_commit.BATCH_FORMAT, group_commit.READMISSION_FORMAT):
        assert f'{kind[:1].hex()} "{kind[1:].decode()}"' in TEXT
    for kind in log_format.Kind:
        assert f"{kind.value} {kind.name}" in TEXT
    for table in Table:
        assert f"`{table.value.decode()}`" in TEXT
    assert f"have {records.INODE_ROW_BYTES} bytes" in TEXT
    assert log_format.MAGIC.decode() in TEXT and index_journal.FRAME_MAGIC.decode() in TEXT


def test_the_golden_files_it_names_are_there_and_the_architecture_points_to_it() -> None:
    named = set(re.findall(r"\b([a-z_]+_v\d\.txt)\b", TEXT))
    assert named == {path.name for path in (ROOT / "tests" / "golden").glob("*.txt")}
    for path in set(re.findall(r"`(tests/[a-z_/]+\.py)`", TEXT)):
        assert (ROOT / path).exists(), path
    assert "(FORMATS.md)" in (GFS / "ARCHITECTURE.md").read_text()

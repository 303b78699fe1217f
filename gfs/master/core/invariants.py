"""Checks that the state's tables are sound as a whole: the list of all rules, which are the *_rules files'.

Reads everything, in memory that does not grow with it: for tests and for offline inspection.
"""

from __future__ import annotations

from collections.abc import Callable

from gfs.errors import CorruptState
from gfs.master.core.content_rules import check_chunks, check_inodes, name_chunks
from gfs.master.core.digest import digest_rows
from gfs.master.core.entry_rules import check_entries, check_policies, check_trash, name_holders
from gfs.master.core.list_rules import check_digest, check_meta, check_owners, check_servers, check_sessions
from gfs.master.core.soundness import Fingerprint, ManyTables, MemorySorter, OneByOne, Report, Sorter
from gfs.master.core.tables import ReadTables, Table
from gfs.master.core.tree_print import TreePrint


def check_invariants(tables: ReadTables) -> None:
    """Check what namespace, chunk_table, sessions and digest promise of the tables they write.

    MasterState.save() comes first. Raises: CorruptState naming the first row that breaks a promise.
    """

    def raise_it(rule: str, table: Table, key: bytes, told: str) -> None:
        raise CorruptState(f"{rule}: {told}")

    many = OneByOne(tables)
    find_faults(many, raise_it)
    check_digest(many, raise_it, digest_rows(tables))


def find_faults(tables: ManyTables, report: Report, *, sorter: Callable[[], Sorter] = MemorySorter) -> None:
    """Tell `report` of every row that breaks a promise; of the digest alone, which costs most, nothing."""
    counters = check_meta(tables, report)
    if counters is None:
        return  # nothing to compare with
    inodes_say, entries_say = TreePrint(), TreePrint()
    named, counted = Fingerprint(), Fingerprint()
    check_inodes(tables, counters, report, tree=inodes_say, named=named)
    check_trash(tables, counters, report, entries_say)
    if not (entries_say.add_entries(tables) and entries_say == inodes_say):
        check_entries(tables, report)
        name_holders(tables, report, sorter)
    check_chunks(tables, counters, report, counted)
    if named.total != counted.total:
        name_chunks(tables, report, sorter)
    check_policies(tables, report)
    check_servers(tables, counters, report)
    check_owners(tables, counters, report)
    check_sessions(tables, counters, report)

"""What a forked child keeps of its parent's connections, and that it never takes them for its own."""

from __future__ import annotations

import os
import weakref

from gfs.client.forks import keep_in_children


class Connection:
    """Stands for whatever would close or unregister a shared socket when it is collected."""


def _collected_in_child(kept: bool) -> bool:
    connection = Connection()
    if kept:
        keep_in_children(connection)
    seen = weakref.ref(connection)
    child = os.fork()
    if child == 0:
        del connection
        os._exit(seen() is None)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def test_child_collects_nothing_that_its_parent_is_connected_by() -> None:
    assert not _collected_in_child(kept=True)
    assert _collected_in_child(kept=False)  # and this is how it would be noticed

"""Keys in S3's order, page by page, against sorting all keys of a random tree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from gfs.integrations.gateways.s3_listing import list_page
from gfs.messages.namespace import Entry
from gfs.vocabulary import InodeId

NAMES = st.text(alphabet="ab-.0/"[:-1], min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))
KEYS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


class Tree:
    """Directories and files as masters list them: by name."""

    def __init__(self, keys: set[str]) -> None:
        self.below: dict[str, dict[str, str]] = {"/b": {}}
        self.keys: list[str] = []
        for key in sorted(keys):
            self._add(key)

    def _add(self, key: str) -> None:
        *folders, name = key.split("/")
        at = "/b"
        for folder in folders:
            if self.below[at].setdefault(folder, "directory") == "file":
                return  # a file stands in the way
            at += "/" + folder
            self.below.setdefault(at, {})
        if name not in self.below[at]:
            self.below[at][name] = "file"
            self.keys.append(key)

    async def entries(self, directory: str) -> AsyncIterator[Entry]:
        for name, kind in sorted(self.below.get(directory, {}).items()):
            path = f"{directory}/{name}"
            yield Entry(path=path, inode=InodeId(2), kind=kind, created_ms=0, modified_ms=0)  # type: ignore[arg-type]


async def listed(tree: Tree, prefix: str, delimiter: str, keys_max: int) -> tuple[list[str], list[str]]:
    objects: list[str] = []
    prefixes: list[str] = []
    after = ""
    while True:
        page = await list_page(
            tree.entries, "/b", prefix=prefix, delimiter=delimiter, after=after, keys_max=keys_max
        )
        assert len(page.objects) + len(page.prefixes) <= keys_max
        objects += [key for key, _ in page.objects]
        prefixes += page.prefixes
        if not page.next_after:
            return objects, prefixes
        assert page.next_after > after
        after = page.next_after


@given(st.sets(KEYS, max_size=12), st.sampled_from(["", "a", "a/", "b/a", "-"]), st.integers(1, 4))
def test_all_keys_come_in_order_page_by_page(keys: set[str], prefix: str, keys_max: int) -> None:
    tree = Tree(keys)
    objects, prefixes = asyncio.run(listed(tree, prefix, "", keys_max))
    assert objects == sorted(key for key in tree.keys if key.startswith(prefix))
    assert prefixes == []


@given(st.sets(KEYS, max_size=12), st.sampled_from(["", "a", "a/", "b/a", "-"]), st.integers(1, 4))
def test_a_delimiter_gathers_what_is_below(keys: set[str], prefix: str, keys_max: int) -> None:
    tree = Tree(keys)
    objects, prefixes = asyncio.run(listed(tree, prefix, "/", keys_max))
    behind = {key: key[len(prefix) :] for key in tree.keys if key.startswith(prefix)}
    assert objects == sorted(key for key, rest in behind.items() if "/" not in rest)
    assert prefixes == sorted({prefix + rest.split("/")[0] + "/" for rest in behind.values() if "/" in rest})

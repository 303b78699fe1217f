"""What `gfs sync` decides: carried out, the target is like the source; nothing is done for nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gfs.cli.sync_plan import Item, make_plan

NAMES = st.sampled_from("abc")
FILES = st.builds(Item, st.just("file"), st.integers(0, 2), st.integers(0, 3))


def _trees() -> st.SearchStrategy[dict[str, Item]]:
    """Listings of directories: each path's parents are directories in it."""
    node = st.recursive(FILES, lambda below: st.dictionaries(NAMES, below, max_size=3), max_leaves=8)
    return st.dictionaries(NAMES, node, max_size=3).map(_listed)


def _listed(tree: object, top: str = "") -> dict[str, Item]:
    found: dict[str, Item] = {}
    assert isinstance(tree, dict)
    for name, node in tree.items():
        if isinstance(node, Item):
            found[top + name] = node
        else:
            found[top + name] = Item("directory")
            found |= _listed(node, f"{top}{name}/")
    return found


@given(_trees(), _trees())
def test_carried_out_it_makes_the_target_like_the_source(
    source: dict[str, Item], target: dict[str, Item]
) -> None:
    plan = make_plan(source, target)
    after = dict(target)
    for path in plan.directories:
        assert path not in after and _has_parent(after, path)
        after[path] = Item("directory")
    for path in (*plan.new, *plan.changed):
        assert _has_parent(after, path)
        assert (path in target) == (path in plan.changed)
        after[path] = source[path]
    for path in plan.surplus:
        assert path in after
        after = {other: item for other, item in after.items() if other != path and not _below(other, path)}
    stuck = plan.conflicts
    left_out = {path for path in source if any(path == top or _below(path, top) for top in stuck)}
    untouched = {path for path in target if any(path == top or _below(path, top) for top in stuck)}
    assert {p for p in after if p not in untouched} == {p for p in source if p not in left_out}
    for path in source:
        if path not in left_out:
            assert after[path].kind == source[path].kind
            assert after[path].length_bytes == source[path].length_bytes
    assert {path: after[path] for path in untouched} == {path: target[path] for path in untouched}


@given(_trees())
def test_what_is_alike_is_left_alone(tree: dict[str, Item]) -> None:
    plan = make_plan(tree, tree)
    assert plan == ([], [], [], sum(item.kind == "file" for item in tree.values()), [], [])


def test_a_file_older_than_its_source_or_of_another_length_is_copied() -> None:
    source = {"older": Item("file", 5, 200), "longer": Item("file", 6, 100), "same": Item("file", 5, 100)}
    target = {"older": Item("file", 5, 199), "longer": Item("file", 5, 999), "same": Item("file", 5, 100)}
    plan = make_plan(source, target)
    assert plan.changed == ["longer", "older"] and plan.unchanged == 1


def _has_parent(tree: dict[str, Item], path: str) -> bool:
    parent = path.rpartition("/")[0]
    return not parent or tree[parent].kind == "directory"


def _below(path: str, top: str) -> bool:
    return path.startswith(top + "/")

"""The client's cache of chunk places: time limit, purge, bounds (GFS §2.3, §2.7.2)."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gfs.client.core.location_cache import LocationCache
from gfs.messages.chunks import ChunkPlace
from gfs.messages.namespace import Entry
from gfs.vocabulary import ChunkHandle, ChunkIndex, ChunkVersion, InodeId
from tests.paper.boxes import keeps


def _entry(path: str, inode: int = 5, chunk_count: int = 3) -> Entry:
    return Entry(
        path=path, inode=InodeId(inode), kind="file", created_ms=1, modified_ms=1, chunk_count=chunk_count
    )


def _place(index: int, version: int = 1) -> ChunkPlace:
    return ChunkPlace(
        index=ChunkIndex(index),
        handle=ChunkHandle(100 + index),
        version=ChunkVersion(version),
        replicas=[],
    )


@keeps("no-data-through-master", "stale-read-window")
def test_a_place_is_given_out_until_its_time_limit_and_never_after() -> None:
    cache = LocationCache(seconds=5.0, places_max=100)
    cache.store("/a", _entry("/a"), [_place(0)], now=10.0)
    assert cache.place("/a", ChunkIndex(0), now=14.9) == _place(0)
    assert cache.place("/a", ChunkIndex(0), now=15.0) is None
    assert cache.entry("/a", now=14.9) is not None
    assert cache.entry("/a", now=15.0) is None


def test_another_inode_under_the_same_path_drops_the_places_of_the_first() -> None:
    cache = LocationCache(seconds=5.0, places_max=100)
    cache.store("/a", _entry("/a", inode=5), [_place(0), _place(1)], now=1.0)
    cache.store("/a", _entry("/a", inode=6), [_place(0, version=9)], now=1.0)
    assert cache.place("/a", ChunkIndex(1), now=1.0) is None
    assert cache.place("/a", ChunkIndex(0), now=1.0) == _place(0, version=9)


def test_forgetting_a_tree_forgets_what_is_below_it_and_nothing_beside_it() -> None:
    cache = LocationCache(seconds=5.0, places_max=100)
    for path in ("/a", "/a/b", "/ab"):
        cache.store(path, _entry(path), [_place(0)], now=1.0)
    cache.forget_tree("/a")
    assert cache.entry("/a", now=1.0) is None
    assert cache.entry("/a/b", now=1.0) is None
    assert cache.entry("/ab", now=1.0) is not None


class CacheMachine(RuleBasedStateMachine):
    """Against a model that remembers everything: the cache may forget, but never invent or outlive."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = LocationCache(seconds=5.0, places_max=8)
        self.model: dict[tuple[str, int], tuple[int, float]] = {}
        self.now = 0.0
        self.version = 0

    paths = st.sampled_from(["/a", "/a/b", "/c", "/d", "/e"])

    @rule(path=paths, indexes=st.lists(st.integers(0, 9), max_size=6))
    def store(self, path: str, indexes: list[int]) -> None:
        self.version += 1
        places = [_place(index, self.version) for index in indexes]
        self.cache.store(path, _entry(path), places, now=self.now)
        for index in indexes:
            self.model[path, index] = (self.version, self.now)

    @rule(path=paths)
    def forget(self, path: str) -> None:
        self.cache.forget(path)
        self.model = {key: value for key, value in self.model.items() if key[0] != path}

    @rule(path=paths, index=st.integers(0, 9))
    def look(self, path: str, index: int) -> None:
        found = self.cache.place(path, ChunkIndex(index), now=self.now)
        if found is not None:
            version, stored_at = self.model[path, index]
            assert found.version == version
            assert self.now - stored_at < 5.0

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def holds(self) -> None:
        self.cache.check_invariants()


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

"""Spelling of paths: the quick ways of client and master agree with the rules in vocabulary."""

from __future__ import annotations

import random

import pytest

from gfs.client.paths import checked_path
from gfs.errors import InvalidPath
from gfs.master.core.lookup import names_of
from gfs.vocabulary import NAME_BYTES_MAX, PATH_DEPTH_MAX, join_path, path_fault, split_path

EDGES = [
    "",
    "/",
    "//",
    "a",
    "/a/",
    "//a",
    "/a//b",
    "/.",
    "/..",
    "/.a",
    "/a/./b",
    "/a\0",
    "/" + "n" * NAME_BYTES_MAX,
    "/" + "n" * (NAME_BYTES_MAX + 1),
    "/é" * 3,
    "/a" * PATH_DEPTH_MAX,
    "/a" * (PATH_DEPTH_MAX + 1),
]


def random_paths() -> list[str]:
    chance = random.Random(7)
    pieces = ["/", "/", ".", "a", "bc", "\0", "é", "a" * 100, "/d" * 40]
    return [
        "/" * chance.randrange(2) + "".join(chance.choices(pieces, k=chance.randrange(8)))
        for _ in range(3000)
    ]


def test_valid_paths_are_spelled_in_one_way_and_others_refused() -> None:
    for path in EDGES + random_paths():
        if path_fault(path) is not None:
            with pytest.raises(InvalidPath):
                checked_path(path)
            with pytest.raises(InvalidPath):
                names_of(path)
            continue
        names = split_path(path)
        assert checked_path(path) == join_path(names), path
        assert names_of(path) == tuple(name.encode() for name in names), path

"""A layer of notes in the place of the simulation."""

from __future__ import annotations

import pytest

import chaos.conduct
import chaos.handbook
import chaos.judge
import chaos.layers
from tests.chaos.cluster_of_notes import ListLayer, NotesKept, NoteWorkload


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> ListLayer:
    """Layer "sim" is a cluster of notes; its workload is "notes", its checker "notes-kept"."""
    layer = ListLayer()
    monkeypatch.setattr(chaos.layers, "entry", lambda name: layer)
    monkeypatch.setattr(chaos.conduct, "known_workloads", lambda: {"notes": NoteWorkload})
    monkeypatch.setattr(chaos.judge, "checkers", lambda: {"notes-kept": NotesKept()})
    return layer

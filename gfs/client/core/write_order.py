"""In which order the pieces of one chunk may be sent to its primary. Decides, sends nothing.

The primary gives serial numbers in the order of arrival (GFS §3.1). Pieces are pushed side by side, but a
piece is ordered only after all before it, so that a chunk grows without gaps.
Invariant: of the pieces not yet acknowledged, those sent under the present version come before all others.
"""

from __future__ import annotations

from gfs.vocabulary import ChunkVersion

_NOT_SENT = ChunkVersion(0)


class WriteOrder:
    """The pieces of one chunk that are on their way, by offset, with the version each was sent under."""

    def __init__(self) -> None:
        self._sent_under: dict[int, ChunkVersion] = {}  # insertion order is offset order

    def add(self, offset: int) -> None:
        """A piece is on its way; pieces are added in the order of their offsets."""
        assert offset > max(self._sent_under, default=-1), (offset, list(self._sent_under))
        self._sent_under[offset] = _NOT_SENT

    def may_send(self, offset: int, version: ChunkVersion) -> bool:
        """True when every piece before this one is acknowledged or on its way under `version`."""
        assert version > _NOT_SENT, version
        for earlier, sent_under in self._sent_under.items():
            if earlier == offset:
                return True
            if sent_under != version:
                return False
        raise AssertionError(f"no piece at {offset} is on its way")

    def sent(self, offset: int, version: ChunkVersion) -> None:
        assert self.may_send(offset, version), (offset, version)
        self._sent_under[offset] = version

    def failed(self, offset: int) -> None:
        """It has to be sent again, and those behind it must wait for that."""
        assert offset in self._sent_under, offset
        self._sent_under[offset] = _NOT_SENT

    def acknowledged(self, offset: int) -> None:
        del self._sent_under[offset]

    def __len__(self) -> int:
        return len(self._sent_under)

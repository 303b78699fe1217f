"""Which masters a client asks: those it was given, those the leader names, those others have mentioned."""

from __future__ import annotations

from collections.abc import Iterable

from gfs.settings import MASTERS_NAMED_MAX
from gfs.vocabulary import Address


class MasterList:
    """Seeds stay for good. The leader's word replaces what was heard before: a master that was removed is
    asked no more, unless it is a seed. Anybody else's word only adds.

    Invariants: no address twice; at most MASTERS_NAMED_MAX besides the seeds.
    """

    def __init__(self, seeds: Iterable[Address]) -> None:
        self._seeds = list(dict.fromkeys(seeds))
        assert self._seeds
        self.addresses = list(self._seeds)

    def add(self, named: Iterable[Address]) -> None:
        for address in named:
            if address and address not in self.addresses and self._has_room():
                self.addresses.append(address)
        self.check_invariants()

    def replace(self, named: Iterable[Address]) -> None:
        """The leader's word."""
        self.addresses = list(self._seeds)
        self.add(named)

    def check_invariants(self) -> None:
        assert len(set(self.addresses)) == len(self.addresses)
        assert len(self.addresses) <= len(self._seeds) + MASTERS_NAMED_MAX

    def _has_room(self) -> bool:
        return len(self.addresses) < len(self._seeds) + MASTERS_NAMED_MAX

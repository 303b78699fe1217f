"""Functions of gfs replaced in this process from outside, and put back again. gfs knows nothing of it."""

from __future__ import annotations

from typing import Any


class Patches:
    """Replaces attributes of classes and modules, and puts them back in the opposite order."""

    def __init__(self) -> None:
        self._undo: list[tuple[object, str, Any]] = []  # Any: whatever stood there

    def replace(self, owner: object, name: str, new: Any) -> None:  # Any: as above
        """Raises: AttributeError when gfs has no such name any more: whoever replaces it is to be mended."""
        self._undo.append((owner, name, vars(owner)[name] if name in vars(owner) else _missing(owner, name)))
        setattr(owner, name, new)

    def undo(self) -> None:
        while self._undo:
            setattr(*self._undo.pop())


def _missing(owner: object, name: str) -> Any:  # Any: as in replace()
    raise AttributeError(f"{owner!r} has no {name} of its own: there is nothing to replace")

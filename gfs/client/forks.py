"""What a forked child must not let go of. How programs connect anew after a fork is for who connects.

A child shares its parent's epoll set. Were a loop or a connection of the parent collected in the child, it
would take the parent's sockets out of that set, and the parent would hang. In a child they live for ever.
"""

from __future__ import annotations

import ctypes
import os
import weakref

_held: weakref.WeakSet[object] = weakref.WeakSet()


def keep_in_children(one: object) -> None:
    """From now on no forked child collects `one` and what it refers to, not even when it ends."""
    _held.add(one)


def _keep_all() -> None:
    for one in list(_held):
        # A reference in a module would be dropped at the interpreter's end; one that nobody owns is not.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))
    _held.clear()


os.register_at_fork(after_in_child=_keep_all)

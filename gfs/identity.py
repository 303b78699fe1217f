"""Who runs this program: the user and groups it states to masters. They believe it; nothing is proved."""

from __future__ import annotations

import grp
import os
import pwd

from gfs.messages.base import Identity

GROUPS_MAX = 64  # stated at most; the rest is left out


def system_identity() -> Identity:
    """The effective user of this process and its groups, by name; by number where the system has no name."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    numbers = dict.fromkeys([os.getegid(), *os.getgroups()])
    return Identity(user, tuple(_group_name(number) for number in list(numbers)[:GROUPS_MAX]))


def stated_identity(user: str, groups: str) -> Identity:
    """As the settings say; what they leave open is the system's. `groups` are separated by commas.

    Whoever states another user states that user's groups as well, or has none.
    """
    names = tuple(name.strip() for name in groups.split(",") if name.strip())[:GROUPS_MAX]
    system = system_identity()
    if not user:
        return Identity(system.user, names or system.groups)
    return Identity(user, names or (system.groups if user == system.user else ()))


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)

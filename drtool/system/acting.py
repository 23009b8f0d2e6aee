"""Files of another user are touched with that user's rights: whatever he planted leads only where he may go.

The kernel keeps the user that file access is judged by (fsuid) for each thread on its own, so one
thread of root's can act as somebody while the others go on.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

from drtool.system.users import RunAs

# setgroups(2) of the kernel is for one thread; that of the C library is for all of them. Another
# machine keeps root's groups, which own no file that others of the group may write.
_SET_GROUPS = {"x86_64": 116, "aarch64": 159, "riscv64": 159, "ppc64le": 81, "s390x": 206}.get(
    platform.machine()
)
# PyDLL keeps the interpreter's lock: the calls are shorter than giving it up would be.
_LIBRARY = ctypes.PyDLL(None, use_errno=True)


@contextmanager
def acting_as(user: RunAs) -> Iterator[None]:
    """This thread opens, makes, renames and removes files as `user` does, until the end of the block.

    What it makes belongs to `user`. Nothing happens where that is us; PermissionError where it is not
    and we are not root. No thread and no program may be started in the block: it would inherit this.
    """
    if user.is_us:
        yield
        return
    groups = os.getgroups()
    before: tuple[int, int] | None = None
    try:
        _set_groups(())
        before = _switch(user.uid, user.gid)
        if _LIBRARY.setfsuid(-1) != user.uid:
            raise PermissionError(f"this process may not act as user {user.name}")
        yield
    finally:
        if before is not None:
            _switch(*before)
        _set_groups(groups)


def _switch(uid: int, gid: int) -> tuple[int, int]:
    """The group first: it takes root's rights. The kernel takes root's rights over files away with
    its user id, and gives them back with it.
    """
    if uid == 0:
        before = _LIBRARY.setfsuid(uid)
        return before, _LIBRARY.setfsgid(gid)
    group = _LIBRARY.setfsgid(gid)
    return _LIBRARY.setfsuid(uid), group


def _set_groups(groups: tuple[int, ...] | list[int]) -> None:
    if _SET_GROUPS is not None:
        numbers = (ctypes.c_uint32 * max(1, len(groups)))(*groups)
        _LIBRARY.syscall(_SET_GROUPS, len(groups), numbers)

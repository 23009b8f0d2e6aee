"""Who else may change a file: what root runs or believes must not be somebody else's to write."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import stat
from dataclasses import dataclass, replace
from pathlib import Path

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Changeable:
    """The place by which somebody else may change a file, and `why` he may.

    `owner` is the user it belongs to, None if it may be written by more than its owner.
    """

    place: Path
    why: str
    owner: int | None


def changeable_by_others(path: Path) -> Changeable | None:
    """By what anybody but root and us may change what `path` leads to; None if nobody may.

    The file itself and every directory above it are looked at, for whoever may write in one may put
    another file in the place of what is there; not so where its sticky bit is set. Of a link the place
    where it stands is looked at, too. OSError if there is no such file.
    """
    real = Path(os.path.realpath(path, strict=True))
    stands_in = Path(os.path.realpath(path.parent, strict=True))
    faults = [_fault(path, path.lstat(), may_be_sticky=False)] if path.is_symlink() else []
    for chain in ((real, *real.parents), (stands_in, *stands_in.parents)):
        faults += [
            _fault(place, place.stat(), may_be_sticky=number > 0 or chain[0] != real)
            for number, place in enumerate(chain)
        ]
    found = [fault for fault in faults if fault is not None]
    if len({fault.owner for fault in found}) > 1:
        worst = next((fault for fault in found if fault.owner is None), found[0])
        return replace(worst, owner=None)
    return found[0] if found else None


def trusted_program(name: str) -> str | None:
    """The path of a program on PATH that nobody else may change; None if there is none.

    Whose directory a relative entry of PATH is depends on where drtool is run: it is as any other.
    """
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        found = shutil.which(name, path=directory or ".")
        if found is not None and changeable_by_others(Path(found)) is None:
            return os.path.realpath(found) if not os.path.isabs(found) else found
    return None


def _fault(place: Path, found: os.stat_result, *, may_be_sticky: bool) -> Changeable | None:
    mode = found.st_mode
    is_link = stat.S_ISLNK(mode)
    is_kept = is_link or (may_be_sticky and mode & stat.S_ISVTX)
    if mode & stat.S_IWGRP and _is_group_of_nobody_else(found.st_gid, found.st_uid):
        mode &= ~stat.S_IWGRP
    if mode & _WRITABLE_BY_OTHERS and not is_kept:
        who = "everybody" if mode & stat.S_IWOTH else f"group {_group_name(found.st_gid)}"
        return Changeable(place=place, why=f"may be written by {who}", owner=None)
    if found.st_uid not in (0, os.geteuid()):
        why = f"belongs to user {_name(found.st_uid)}"
        return Changeable(place=place, why=why, owner=found.st_uid)
    return None


def _is_group_of_nobody_else(gid: int, uid: int) -> bool:
    """Whether nobody but root, the file's owner and us is in it: most systems make a group for each
    user, and Debian gives /usr/local to the group staff, which is empty.
    """
    try:
        members = set(grp.getgrgid(gid).gr_mem)
    except KeyError:
        return False
    members |= {user.pw_name for user in pwd.getpwall() if user.pw_gid == gid}
    return members <= {_name(0), _name(uid), _name(os.geteuid())}


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)

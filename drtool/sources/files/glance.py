"""A cheap look at a tree: where it lies and about how much is in it, without walking millions of files."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass

from drtool.errors import SourceUnavailable
from drtool.sources.files.entries import join
from drtool.sources.files.guard import PlaceSigns, look_at_place
from drtool.system.beneath import Beneath

# So many names are looked at; a larger tree is only known to be at least as large.
MOST_NAMES = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """`files` were counted, all there are if `is_whole`. `unreadable` directories could not be listed.

    `used_inodes` of its file system bounds the number of files from above; None where it tells none.
    """

    place: PlaceSigns
    files: int
    is_whole: bool
    unreadable: int
    used_inodes: int | None


def glance_at(root: int) -> Glance:
    """Look at an open root; SourceUnavailable if the root itself cannot be listed.

    The descriptor stays the caller's to close. Names are counted, whatever the policy excludes.
    """
    told = os.statvfs(root)
    files = unreadable = seen = 0
    waiting: deque[bytes] = deque([b""])
    while waiting and seen < MOST_NAMES:
        directory = waiting.popleft()
        try:
            # By descriptors: a path may be longer than a system call takes.
            with Beneath(root) as beneath, os.scandir(beneath.directory(directory)) as names:
                for entry in names:
                    seen += 1
                    if seen > MOST_NAMES:
                        break
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(join(directory, os.fsencode(entry.name)))
                    else:
                        files += entry.is_file(follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            continue  # removed while we looked
        except OSError as error:
            if not directory:
                raise SourceUnavailable(
                    f"the directory cannot be listed: {error.strerror}",
                    hint="Let the user that runs drtool read it.",
                ) from error
            unreadable += 1
    return Glance(
        place=look_at_place(root),
        files=files,
        is_whole=not waiting and seen <= MOST_NAMES,
        unreadable=unreadable,
        used_inodes=told.f_files - told.f_ffree if told.f_files else None,
    )

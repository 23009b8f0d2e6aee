"""Whether a file is the one that was read before: only if every sign says so and time has passed."""

from __future__ import annotations

from dataclasses import dataclass

from drtool.sources.files.entries import TreeEntry, TreeKind

# Timestamps are as coarse as the file system makes them: 4 ms on ext4 and XFS, 2 s on FAT. A write
# within the same tick as our reading leaves every sign as it was.
MARGIN_NS = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What is remembered of a file when its content was read.

    Not its device: numbers of devices change when a machine is started.
    """

    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int


def signs_of(entry: TreeEntry) -> Signs:
    """The signs to remember, taken from the entry that reading gave (`FileEnded`), not the walk's."""
    return Signs(
        size_bytes=entry.size_bytes,
        modified_ns=entry.modified_ns,
        changed_ns=entry.changed_ns,
        inode=entry.inode,
    )


def is_unchanged(
    entry: TreeEntry, known: Signs | None, *, horizon_ns: int, margin_ns: int = MARGIN_NS
) -> bool:
    """Whether the content need not be read again.

    `horizon_ns` is when the run that read `known` began, by the clock that stamps the files (for a
    network file system that runs by another clock, widen `margin_ns`). What was written after it,
    or shortly before, may have been written again within one tick of the clock: it is read again
    (PITFALLS 35). So is everything dated in the future. ctime, which no program can set, is what
    tells of a file whose size and mtime were restored after a change.
    """
    if known is None or entry.kind is not TreeKind.FILE:
        return False
    # Sign by sign: this is asked for each file of a tree, and making a `Signs` costs more than it.
    if (
        entry.size_bytes != known.size_bytes
        or entry.modified_ns != known.modified_ns
        or entry.changed_ns != known.changed_ns
        or entry.inode != known.inode
    ):
        return False
    return is_settled(entry, horizon_ns=horizon_ns, margin_ns=margin_ns)


def is_settled(entry: TreeEntry, *, horizon_ns: int, margin_ns: int = MARGIN_NS) -> bool:
    """Whether the last change of a file is so far before the horizon that its signs can be believed."""
    last = max(entry.modified_ns, entry.changed_ns)
    return last < horizon_ns - margin_ns

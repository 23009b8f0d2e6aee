"""Whether a tree looks like what it was when it was last stored. Pure rules over a cheap look."""

from __future__ import annotations

from collections.abc import Iterator

from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted
from drtool.sources.files.glance import Glance
from drtool.sources.files.guard import ChangeCounts, PlaceSigns, judge_changes, judge_place


def check_place(source: str, now: PlaceSigns, before: PlaceSigns | None) -> Iterator[Finding]:
    """A problem if its root is no longer where it was: the next backup would be refused."""
    for alarm in judge_place(now, before):
        yield alarm.finding(source)


def check_content(
    source: str, glance: Glance, *, known: int | None, max_delete_percent: float
) -> Iterator[Finding]:
    """A problem if it is empty or has shrunken by more than allowed, as far as a cheap look can tell.

    `known` files were in the last whole snapshot. A tree of which only a part was counted is held
    against the number of inodes in use on its file system, of which it cannot have more files.
    """
    if glance.unreadable:
        yield Finding(
            severity=Severity.PROBLEM,
            subject=f"source {source}",
            fact=f"{counted(glance.unreadable, 'directory', 'directories')} cannot be listed:"
            " their content is not backed up",
            fix="Let the user that runs drtool read them, or exclude them in the policy.",
        )
        return
    most = glance.files if glance.is_whole else glance.used_inodes
    if not known or most is None or most >= known:
        if glance.is_whole and not glance.files and not known:
            yield Finding(
                severity=Severity.WARNING,
                subject=f"source {source}",
                fact="it is empty",
                fix="See that its disk is mounted and that the policy names the right directory.",
            )
        return
    # What is there may be new for all we know; that never makes the tree look smaller than it is.
    counts = ChangeCounts(known=known, deleted=known - most, new=min(most, 1))
    counts = counts if most else ChangeCounts(known=known, deleted=known)
    for alarm in judge_changes(counts, max_delete_percent=max_delete_percent):
        yield alarm.finding(source)

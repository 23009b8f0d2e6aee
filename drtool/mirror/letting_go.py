"""Takes what is gone from the source out of the mirror: a marker over its versions, or a tombstone."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from drtool.mirror.catalogue import Catalogue
from drtool.mirror.keys import key_of
from drtool.mirror.pages import pages
from drtool.model.finding import Finding, Severity
from drtool.sources.files.entries import TreeKind
from drtool.stores.bucket import Bucket

_THREADS = 8


def let_go(
    catalogue: Catalogue,
    gone: Iterable[tuple[bytes, bool]],
    *,
    check: Callable[[], None],
    delete: Callable[[bytes], None] | None,
) -> int:
    """Take (path, whether it is a file) out of the mirror; the number of files.

    `delete` deletes an object of a bucket that keeps versions; without it objects stay, and only the
    run's manifest says that they are gone. `check` is asked before every thousand.
    """
    deleted = 0
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="mirror") as executor:
        for page in pages(gone):
            check()
            files = [path for path, is_file in page if is_file]
            if delete is not None:
                # The first failure is raised here; what is deleted already is found gone next time.
                list(executor.map(delete, files))
            catalogue.remove([path for path, _ in page], is_pending=True)
            deleted += len(files)
    return deleted


def delete_from(bucket: Bucket) -> Callable[[bytes], None]:
    """What deletes the object of a file."""
    return lambda path: bucket.delete(key_of(path))


def in_the_way(catalogue: Catalogue) -> Iterator[bytes]:
    """Files that are gone where the tree now has something else, or a file above them.

    Servers that keep objects as files cannot have `a` and `a/b` at once.
    """
    for path, is_file in catalogue.unseen():
        if is_file and (catalogue.seen_as(path) or _is_below_a_file(catalogue, path)):
            yield path


def conflicting(path: bytes, standing: Sequence[bytes]) -> list[bytes]:
    """Those of the sorted `standing` that are above `path`, or below it: what a file system has but once."""
    parts = path.split(b"/")
    above = (b"/".join(parts[:count]) for count in range(1, len(parts)))
    found = [one for one in above if standing[(at := bisect_left(standing, one)) : at + 1] == [one]]
    first, last = bisect_left(standing, path + b"/"), bisect_left(standing, path + b"0")
    return [*found, *standing[first:last]]


def _is_below_a_file(catalogue: Catalogue, path: bytes) -> bool:
    while (path := path.rpartition(b"/")[0]) != b"":
        if catalogue.seen_as(path) not in (None, TreeKind.DIRECTORY):
            return True
    return False


def make_way(
    catalogue: Catalogue,
    paths: Sequence[bytes],
    *,
    check: Callable[[], None],
    delete: Callable[[bytes], None],
) -> Finding:
    """Delete objects that stood in the way, of a bucket that keeps no versions; what to say of it."""
    check()
    for path in paths:
        delete(path)
    # Where a directory stands now, it may be known already.
    known = catalogue.find(paths)
    catalogue.remove([path for path, one in known.items() if one.is_file], is_pending=True)
    return Finding(
        severity=Severity.NOTE,
        subject=f"{len(paths):,} deleted files",
        fact="had objects that the store could not keep beside newer ones, as a file and a directory have"
        " changed places: they are deleted",
        fix="Turn on versioning of the bucket.",
    )


def tombstones(count: int) -> Finding:
    """What a person must know of deleted files whose objects stay."""
    return Finding(
        severity=Severity.NOTE,
        subject=f"{count:,} deleted files",
        fact="are no longer part of the mirror, but their objects stay: the bucket is not known to keep"
        " versions, so deleting them would be for good",
        fix="Turn on versioning of the bucket.",
    )


def kept_for_now(count: int) -> Finding:
    """What a person must know of what was not found while the tree changed."""
    return Finding(
        severity=Severity.WARNING,
        subject=f"{count:,} files and directories",
        fact="are not where they were, and stay in the mirror for this run if they were met nowhere else:"
        " others were moved or removed while the tree was looked at",
        fix="Run `drtool sync` again; what is not found then is let go.",
    )

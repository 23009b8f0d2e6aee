"""How much of what has changed looks like random bytes now and did not before, told from samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from drtool.errors import ObjectMissing
from drtool.mirror.catalogue import Catalogue
from drtool.mirror.entries import MirrorEntry
from drtool.sources.files.guard import ENTROPY_BYTES, ChangeCounts, entropy_bits, looks_random
from drtool.stores.bucket import Bucket

# Files looked into when most of a source has changed.
SAMPLE_FILES = 128
_SAMPLE_OBJECTS = 32


def is_worth_a_look(counts: ChangeCounts) -> bool:
    """Whether so much has changed that it matters what it has become; else nothing is read."""
    return 2 * (counts.changed + counts.new) >= counts.known > 0


def with_entropy(
    counts: ChangeCounts,
    catalogue: Catalogue,
    *,
    bucket: Bucket,
    paths: Sequence[bytes],
    head_of: Callable[[bytes], bytes | None],
) -> ChangeCounts:
    """The counts with how many files look random now and did before, scaled up from samples.

    `paths` are some of what is due, and `head_of` gives the first 64 KiB of one as the source has it,
    or None. What they were before is read from the mirror, `bucket`, and only if many look random now.
    """
    known = catalogue.find(paths)
    looks: list[tuple[MirrorEntry | None, bool]] = []
    for path in paths:
        if (head := head_of(path)) is not None:
            before = known[path].entry if path in known and known[path].is_file else None
            looks.append((before, looks_random(entropy_bits(head), len(head))))
    if 2 * sum(is_random for _, is_random in looks) < len(looks):
        return counts
    changed = [(before, is_random) for before, is_random in looks if before is not None]
    new = [is_random for before, is_random in looks if before is None]
    was_random = [_was_random(before, bucket) for before, _ in changed[:_SAMPLE_OBJECTS]]
    turned = [
        is_random and not was
        for (_, is_random), was in zip(changed[:_SAMPLE_OBJECTS], was_random, strict=True)
    ]
    all_before = [_was_random(entry, bucket) for entry in catalogue.sample(_SAMPLE_OBJECTS)]
    return replace(
        counts,
        known_random=_scaled(all_before, counts.known),
        changed_random_before=_scaled(was_random, counts.changed),
        turned_random=_scaled(turned, counts.changed),
        new_random=_scaled(new, counts.new),
    )


def _was_random(entry: MirrorEntry, bucket: Bucket) -> bool:
    """Whether the mirror's object looks random; False where it cannot be read any more."""
    try:
        head = bucket.read_head(entry.key, ENTROPY_BYTES, version=entry.version)
    except ObjectMissing:
        return False
    return looks_random(entropy_bits(head), len(head))


def _scaled(sample: list[bool], whole: int) -> int:
    return round(whole * sum(sample) / len(sample)) if sample else 0

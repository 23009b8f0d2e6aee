"""Which runs, one after the other, say what a mirror held at a moment; and what they say, put together.

A full run, and the changes after it in order, each of which names the one before. Where there is a key,
only runs that it has signed count, if there is any; what else bears the name of a run is left out and told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from drtool.errors import IntegrityError, NotRecoverable, ObjectMissing
from drtool.mirror.catalogue import Catalogue
from drtool.mirror.entries import MirrorEntry
from drtool.mirror.manifests import (
    Run,
    RunKind,
    Tombstone,
    ended_at,
    list_runs,
    read_header,
    read_run,
)
from drtool.mirror.run_key import RunKey
from drtool.stores.bucket import Bucket

_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Chain:
    """The runs, oldest first, none if there is none that early; and the newer ones that were left out."""

    runs: tuple[Run, ...]
    left_out: tuple[str, ...] = ()

    @property
    def is_signed(self) -> bool:
        """Whether all that they say comes from somebody who has the key."""
        return bool(self.runs) and all(run.is_signed for run in self.runs)


def chain_at(
    bucket: Bucket, moment: datetime | None, key: RunKey | None, *, since: str | None = None
) -> Chain:
    """The runs that say what the mirror was at `moment` (None: now), looked for among those from `since` on.

    Signed ones, if there is a key and one signed run by then; else those that anybody may have
    written. NotRecoverable if one in the middle is missing, or is not signed and those after it are.
    """
    known = list_runs(bucket, since=since)
    ids = [run_id for run_id in known if moment is None or ended_at(run_id) <= moment]
    newest, left_out = newest_run(bucket, ids, key)
    if newest is None:
        return Chain((), left_out)
    return Chain(tuple(_back_from(newest, bucket, key)), left_out)


def newest_run(
    bucket: Bucket, ids: Sequence[str], key: RunKey | None
) -> tuple[Run | None, tuple[str, ...]]:
    """The newest of the runs that counts, by its first line, and the ids of newer ones that do not."""
    unsigned: tuple[Run, tuple[str, ...]] | None = None
    left_out: list[str] = []
    for run_id in reversed(ids):
        run = _header_or_none(bucket, run_id, key)
        if run is not None and (key is None or run.is_signed):
            return run, tuple(left_out)
        if run is not None and unsigned is None:
            unsigned = run, tuple(left_out)
        left_out.append(run_id)
    return unsigned or (None, tuple(left_out))


def _back_from(newest: Run, bucket: Bucket, key: RunKey | None) -> list[Run]:
    chain = [newest]
    while chain[0].kind is not RunKind.FULL:
        first = chain[0]
        # An id sorts after all before it, so this ends.
        if first.previous is None or first.previous >= first.run_id:
            raise _broken("the first one")
        try:
            run = read_header(bucket, first.previous, key)
        except ObjectMissing:
            raise _broken(first.previous) from None
        if newest.is_signed and not run.is_signed:
            raise IntegrityError(
                f"the mirror's run {run.run_id} is not the one that was signed, and later ones build on it",
                hint="Restore to an earlier moment; `drtool sync --rehash` writes a whole manifest.",
            )
        chain.insert(0, run)
    return chain


def _header_or_none(bucket: Bucket, run_id: str, key: RunKey | None) -> Run | None:
    try:
        return read_header(bucket, run_id, key)
    except (IntegrityError, ObjectMissing):
        return None


def fold(bucket: Bucket, chain: Iterable[Run], catalogue: Catalogue, *, key: RunKey | None) -> None:
    """Make an empty catalogue hold what the runs say. Nothing of it is to be used unless this returns."""
    for run in chain:
        # Signs of a file are good for what was read when that run began, and no later.
        read_ns = int(run.began.timestamp() * 1_000_000_000)
        entries: list[MirrorEntry] = []
        removed: list[bytes] = []
        # Without the key for one that was not signed: its own word of a code counts for nothing.
        for item in read_run(bucket, run.run_id, key if run.is_signed else None):
            if isinstance(item, Tombstone):
                removed.append(item.path)
            else:
                entries.append(item)
            if len(removed) >= _BATCH:
                catalogue.remove(removed, is_pending=False)
                removed = []
            if len(entries) >= _BATCH:
                catalogue.remove(removed, is_pending=False)
                catalogue.record(entries, read_ns=read_ns, is_pending=False)
                entries, removed = [], []
        catalogue.remove(removed, is_pending=False)
        catalogue.record(entries, read_ns=read_ns, is_pending=False)


def _broken(missing: str) -> NotRecoverable:
    return NotRecoverable(
        f"the manifest of the mirror's run {missing} is missing, and later ones build on it",
        hint="Restore to a later moment; `drtool sync --rehash` writes a whole manifest.",
    )

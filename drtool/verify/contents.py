"""Backups read back: manifests, packs, tables, chunks. Each backup gets its verdict.

Memory: a listing of all packs (200 bytes a pack of 32 MiB), one bit array a pack while content is
read (a byte a chunk: 4 MB for a terabyte), and what `tally` and `ChunkReader` keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from drtool.errors import IntegrityError, NotAuthentic, ObjectMissing
from drtool.model.measure import counted
from drtool.pipeline.pages import HOLE
from drtool.repository import layout
from drtool.repository.backups import Manifest, open_table, read_manifests
from drtool.repository.chunks import ChunkReader
from drtool.repository.recovery_findings import NO_MANIFEST
from drtool.repository.repository import Repository
from drtool.repository.table import PackList, TableRecord
from drtool.verify.depth import Choice
from drtool.verify.tally import Tally, side_by_side

Bits = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Shelf:
    """What is known of the packs: sizes as listed, what is wrong with which, which chunks are needed."""

    sizes: dict[bytes, int]
    bad: dict[bytes, str] = field(default_factory=dict)
    needed: dict[bytes, Bits] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PackRead:
    """How much of a pack was read back, and what came out."""

    pack_id: bytes
    chunks: int
    read_bytes: int
    error: IntegrityError | ObjectMissing | None = None


def list_packs(repository: Repository, tally: Tally) -> Shelf:
    """All packs there are; those without a byte are told of (PITFALLS 6)."""
    sizes: dict[bytes, int] = {}
    for found in repository.store.list("packs/"):
        if layout.is_pack_key(found.key):
            sizes[bytes.fromhex(found.key.rpartition("/")[2])] = found.size_bytes
        else:
            tally.not_ours(found.key, "is not a pack")
    return Shelf(sizes)


def open_manifests(repository: Repository, source: str, tally: Tally) -> list[Manifest]:
    """All manifests of a source that open; the others are problems."""
    manifests, errors = read_manifests(repository, source)
    for error in errors:
        if isinstance(error, NotAuthentic) and error.key is not None:
            tally.not_ours(error.key, NO_MANIFEST)
        else:
            tally.wrong(f"a backup of {source}", error)
    for manifest in manifests:
        tally.looked_at(layout.manifest_key(source, manifest.backup_id))
    return manifests


def look_at_packs(
    manifests: Sequence[Manifest], reader: ChunkReader, shelf: Shelf, *, tally: Tally
) -> None:
    """Open the footer of every pack that a backup needs, and compare it with the size listed."""
    wanted = sorted({pack_id for manifest in manifests for pack_id in manifest.packs})
    looks = (partial(_look_at_pack, reader, shelf.sizes, pack_id) for pack_id in wanted)
    for pack_id, fact in side_by_side(looks):
        tally.looked_at(layout.pack_key(pack_id))
        if fact:
            shelf.bad[pack_id] = fact
            tally.damage(layout.pack_key(pack_id), fact, "Restore from a backup without it.")


def _look_at_pack(
    reader: ChunkReader, sizes: dict[bytes, int], pack_id: bytes
) -> tuple[bytes, str]:
    size = sizes.get(pack_id)
    if size is None:
        return pack_id, "is missing, and a backup needs it"
    try:
        footer = reader.footer(pack_id)
    except IntegrityError as error:
        return pack_id, error.message
    except ObjectMissing:
        return pack_id, "vanished since it was listed"
    if footer.pack_bytes != size:
        return pack_id, f"has {size} bytes, its footer speaks of {footer.pack_bytes}"
    return pack_id, ""


def read_tables(
    manifests: Sequence[Manifest], reader: ChunkReader, shelf: Shelf, *, tally: Tally
) -> None:
    """Read every file table, and note which chunks the backups need."""
    for manifest in manifests:
        packs = PackList()
        name = layout.manifest_key(manifest.source, manifest.backup_id)
        try:
            table = open_table(manifest, reader)
            packs = table.packs
            for place in manifest.table:
                _need(reader, shelf, place.pack_id, numbers=np.array([place.number]))
            listed = len(packs.ids)
            for record in table:
                _need_record(reader, shelf, record, packs=packs, name=name)
            if len(packs.ids) != listed:
                tally.problem(name, "its file table names packs that the manifest does not")
        except (IntegrityError, ObjectMissing) as error:
            tally.wrong(name, error)
        tally.looked_at(name)


def _need_record(
    reader: ChunkReader, shelf: Shelf, record: TableRecord, *, packs: PackList, name: str
) -> None:
    extents = record.extents[record.extents["pack"] != HOLE]
    for pack in np.unique(extents["pack"]):
        pack_id = packs.ids[int(pack)]
        if pack_id in shelf.bad:
            continue
        here = extents[extents["pack"] == pack]
        numbers = here["chunk"].astype(np.int64)
        _need(reader, shelf, pack_id, numbers=numbers)
        plain = reader.footer(pack_id).rows["plain"].astype(np.int64)[numbers]
        if (here["offset"].astype(np.int64) + here["length"] > plain).any():
            raise IntegrityError(
                f"object {name} is damaged: {record.attributes.path!r} needs more than a chunk holds",
                hint="Restore from another backup.",
            )
    if record.digests is not None:
        place = packs.place(record.digests.pack, record.digests.chunk)
        if place.pack_id not in shelf.bad:
            _need(reader, shelf, place.pack_id, numbers=np.array([place.number]))


def _need(
    reader: ChunkReader, shelf: Shelf, pack_id: bytes, *, numbers: npt.NDArray[np.int64]
) -> None:
    if pack_id in shelf.bad:
        return
    bits = shelf.needed.get(pack_id)
    if bits is None:
        bits = shelf.needed[pack_id] = np.zeros(len(reader.footer(pack_id)), np.bool_)
    if (numbers >= len(bits)).any():
        raise IntegrityError(
            f"object {layout.pack_key(pack_id)} has no chunk {int(numbers.max())}",
            hint="Restore from a backup that does not need it.",
        )
    bits[numbers] = True


def read_chunks(
    reader: ChunkReader, shelf: Shelf, choice: Choice, *, tally: Tally
) -> dict[str, tuple[int, int]]:
    """Read the chosen chunks back. Return for each pack how many of how many chunks were read."""
    read: dict[str, tuple[int, int]] = {}
    for done in side_by_side(_reads(reader, shelf, choice)):
        key = layout.pack_key(done.pack_id)
        tally.looked_at(key, done.read_bytes)
        read[done.pack_id.hex()] = done.chunks, len(shelf.needed[done.pack_id])
        if done.error is not None:
            shelf.bad[done.pack_id] = done.error.message
            tally.damage(key, done.error.message, done.error.hint)
        elif done.chunks == len(shelf.needed[done.pack_id].nonzero()[0]):
            tally.read_whole.add(key)
    return read


def _reads(reader: ChunkReader, shelf: Shelf, choice: Choice) -> Iterator[Callable[[], PackRead]]:
    for pack_id in sorted(shelf.needed):
        numbers = [int(n) for n in np.flatnonzero(shelf.needed[pack_id]) if choice.takes()]
        if numbers:
            yield partial(_read_pack, reader, pack_id, numbers)


def _read_pack(reader: ChunkReader, pack_id: bytes, numbers: list[int]) -> PackRead:
    chunks = read_bytes = 0
    try:
        for _, plain in reader.read(pack_id, numbers):
            chunks += 1
            read_bytes += len(plain)
    except (IntegrityError, ObjectMissing) as error:
        return PackRead(pack_id, chunks, read_bytes, error)
    return PackRead(pack_id, chunks, read_bytes)


def judge_backups(manifests: Sequence[Manifest], shelf: Shelf, *, tally: Tally) -> None:
    """A backup that needs a pack which is not whole cannot be restored."""
    for manifest in manifests:
        bad = [pack_id for pack_id in manifest.packs if pack_id in shelf.bad]
        if bad:
            tally.problem(
                f"backup {manifest.backup_id} of {manifest.source}",
                f"cannot be restored whole: {len(bad)} of its"
                f" {counted(len(manifest.packs), 'pack')} are lost or damaged",
                f"Run `drtool backup {manifest.source}` now; it stores again what is lost.",
            )

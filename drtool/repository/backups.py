"""Backups: a backup exists if and only if its manifest does, and the manifest is put last."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from drtool.errors import (
    IntegrityError,
    NotAuthentic,
    NotKept,
    NotRecoverable,
    ObjectMissing,
)
from drtool.model.finding import Finding, Severity
from drtool.model.measure import CLOCK_SKEW
from drtool.model.origin import Origin
from drtool.model.strict_json import JsonObject, as_row, read_object, texts_of
from drtool.repository import layout
from drtool.repository.extents import EXTENTS, Extent, FilesExtent, PostgresExtent, RedisExtent
from drtool.repository.names import is_backup_id, own_name
from drtool.repository.places import PACK_ID_BYTES, ChunkPlace
from drtool.repository.repository import Repository
from drtool.repository.sealing import ObjectType, damaged, most_plain_bytes, not_authentic
from drtool.repository.taken import has_head

if TYPE_CHECKING:
    from drtool.repository.chunks import ChunkReader
    from drtool.repository.table import Table

MANIFEST_VERSION = 1
_READ_AT_A_TIME = 8
_NAMED = 10  # backups in a sentence
_MOST_PASSED_OVER = 100  # attempts that cannot be read


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupSizes:
    """Counts of a backup: `read` from the source, `new` plain and `stored` sealed bytes put for it."""

    files: int
    read_bytes: int
    new_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that is to be known of a backup before its bytes are read."""

    source: str
    backup_id: str
    began: datetime
    ended: datetime
    tool: str
    fencing: int
    extent: Extent
    sizes: BackupSizes
    table: tuple[ChunkPlace, ...]
    packs: tuple[bytes, ...]
    findings: tuple[Finding, ...] = field(default_factory=tuple)
    # None in backups of a drtool that did not record it.
    origin: Origin | None = None

    @property
    def kind(self) -> str:
        """The kind of its source: `postgres`, `redis` or `files`."""
        return self.extent.kind

    @property
    def postgres(self) -> PostgresExtent:
        """Its extent, if it is a backup of PostgreSQL; NotRecoverable otherwise."""
        if not isinstance(self.extent, PostgresExtent):
            raise self._of_another_kind(PostgresExtent.kind)
        return self.extent

    @property
    def redis(self) -> RedisExtent:
        """Its extent, if it is a backup of Redis; NotRecoverable otherwise."""
        if not isinstance(self.extent, RedisExtent):
            raise self._of_another_kind(RedisExtent.kind)
        return self.extent

    @property
    def files(self) -> FilesExtent:
        """Its extent, if it is a snapshot of a tree; NotRecoverable otherwise."""
        if not isinstance(self.extent, FilesExtent):
            raise self._of_another_kind(FilesExtent.kind)
        return self.extent

    def require_kind(self, wanted: str) -> None:
        """NotRecoverable if it is a backup of another kind."""
        if self.kind != wanted:
            raise self._of_another_kind(wanted)

    def _of_another_kind(self, wanted: str) -> NotRecoverable:
        return NotRecoverable(
            f"backup {self.backup_id} of {self.source} is of kind {self.kind}, not {wanted}",
            hint="The policy gives this source another kind than it had: use another name for it.",
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """A backup that was begun. Its packs bear ids that follow from `seed`, so they can be found again."""

    source: str
    backup_id: str
    seed: bytes

    def pack_id(self, number: int) -> bytes:
        """The id of the attempt's pack `number`."""
        from blake3 import blake3

        return blake3(number.to_bytes(8, "big"), key=self.seed).digest(16)


def new_backup_id(now: datetime) -> str:
    """Of the store's clock, where several machines write: it sorts by it. The random end keeps two of
    one millisecond apart.
    """
    utc = now.astimezone(UTC)
    return f"{utc:%Y%m%dT%H%M%S}.{utc.microsecond // 1000:03d}Z-{secrets.token_hex(3)}"


def begin_attempt(repository: Repository, source: str, backup_id: str) -> Attempt:
    """Leave word that a backup has begun, before its first pack."""
    attempt = Attempt(source, backup_id, secrets.token_bytes(32))
    key = layout.attempt_key(source, backup_id)
    repository.put(ObjectType.ATTEMPT, key, attempt.seed)
    return attempt


def unfinished_attempts(repository: Repository, source: str, *, most: int) -> Iterator[Attempt]:
    """The newest attempts, at most `most`, that left no manifest: their packs can be used again.

    One that cannot be read is passed over, as what somebody without the key has added: nothing is lost
    but what it might have spared us.
    """
    prefix = layout.attempts(source)
    listed = (own_name(found.key.removeprefix(prefix)) for found in repository.store.list(prefix))
    begun = list(dict.fromkeys(backup_id for backup_id in listed if is_backup_id(backup_id)))
    done = set(backup_ids(repository, source))
    passed_over = 0
    for number, backup_id in enumerate(reversed(begun)):
        if number - passed_over >= most or passed_over > _MOST_PASSED_OVER:
            return
        if backup_id in done:
            continue
        key = layout.attempt_key(source, backup_id)
        try:
            seed = repository.get(ObjectType.ATTEMPT, key)
        except (ObjectMissing, IntegrityError):
            passed_over += 1
            continue
        yield Attempt(source, backup_id, seed)


def in_order(manifests: Iterable[Manifest]) -> list[Manifest]:
    """In the order in which they were taken, by the number that each one's lease gave it.

    No clock decides: one backup under a clock that ran years ahead would be the newest for years.
    """
    return sorted(manifests, key=_order)


def _order(manifest: Manifest) -> tuple[int, str]:
    return manifest.fencing, manifest.backup_id


def newest_fencing(repository: Repository, source: str) -> int:
    """The greatest number of a lease that a backup here bears; 0 without one."""
    manifests, _ = read_manifests(repository, source)
    return max((manifest.fencing for manifest in manifests), default=0)


def backup_ids(repository: Repository, source: str) -> list[str]:
    """The ids of all backups of a source, in the order of the times in them, as names tell.

    What is there under such a name without being a backup of ours shows when it is read.
    """
    prefix = layout.manifests(source)
    names = [found.key.removeprefix(prefix) for found in repository.store.list(prefix)]
    ids = {name for name in names if is_backup_id(name)}
    # A manifest beside a name counts also once what had taken the name has gone.
    beside = (name for name in names if is_backup_id(own_name(name)) and own_name(name) not in ids)
    ids |= {own_name(name) for name in beside if _is_manifest(repository, f"{prefix}{name}")}
    return sorted(ids)


def _is_manifest(repository: Repository, key: str) -> bool:
    return has_head(repository.store, repository.ring, ObjectType.MANIFEST, key=key)


def name_backups(ids: Sequence[str]) -> str:
    """The newest of some backups, given oldest first, as the sentence of a hint or an answer."""
    newest = ", ".join(ids[-_NAMED:]) or "none"
    return f"There are: {newest}{_older(len(ids) - _NAMED)}."


def _older(count: int) -> str:
    return f", and {count} older" if count > 0 else ""


def backed_up_sources(repository: Repository) -> list[str]:
    """The names of all sources that have a backup here."""
    return repository.store.list_directories("backups/")


def commit_backup(repository: Repository, manifest: Manifest) -> None:
    """Put the manifest and read it back: from now on the backup exists. NotKept if it does not."""
    key = layout.manifest_key(manifest.source, manifest.backup_id)
    plain = encode_manifest(manifest)
    repository.put(ObjectType.MANIFEST, key, plain)
    try:
        is_kept = repository.get(ObjectType.MANIFEST, key) == plain
    except (ObjectMissing, IntegrityError):
        is_kept = False
    if not is_kept:
        raise NotKept(
            f"{repository.store.url}: the store acknowledged the manifest {key}, and does not have it whole",
            hint="The backup does not exist. Look at the store, then run the backup again.",
        )


def read_manifest(repository: Repository, source: str, backup_id: str) -> Manifest:
    """NotRecoverable if there is no such backup; IntegrityError if the manifest is damaged."""
    key = layout.manifest_key(source, backup_id)
    try:
        plain = repository.get(ObjectType.MANIFEST, key)
    except ObjectMissing:
        raise NotRecoverable(
            f"source {source} has no backup {backup_id}",
            hint=name_backups(backup_ids(repository, source)),
        ) from None
    manifest = decode_manifest(plain, key=key)
    if (manifest.source, manifest.backup_id) != (source, backup_id):
        raise damaged(key, "it is the manifest of another backup")
    return manifest


def read_manifests(
    repository: Repository, source: str
) -> tuple[list[Manifest], list[IntegrityError]]:
    """All manifests of a source, in the order they were taken, and an error for each that is damaged.

    Eight are read at a time: a source with hourly snapshots has hundreds, each a round trip. The error is
    NotAuthentic where nobody with the key has begun such a backup: then it never was one.
    """

    def read(backup_id: str) -> Manifest | IntegrityError:
        return _manifest_or_error(repository, source, backup_id)

    executor = ThreadPoolExecutor(_READ_AT_A_TIME, thread_name_prefix="manifest")
    try:
        found = list(executor.map(read, backup_ids(repository, source)))
    finally:
        # A store that is away is not asked for all the others too.
        executor.shutdown(cancel_futures=True)
    return (
        in_order(one for one in found if isinstance(one, Manifest)),
        [one for one in found if isinstance(one, IntegrityError)],
    )


def _manifest_or_error(
    repository: Repository, source: str, backup_id: str
) -> Manifest | IntegrityError:
    key = layout.manifest_key(source, backup_id)
    try:
        return read_manifest(repository, source, backup_id)
    except NotAuthentic:
        if repository.holds(ObjectType.ATTEMPT, layout.attempt_key(source, backup_id)):
            return damaged(key, "it does not open, and that backup was begun")
        return not_authentic(key, "it does not open, and nobody with the key has begun that backup")
    except IntegrityError as error:
        return error


def read_newest_manifest(
    repository: Repository, source: str
) -> tuple[Manifest | None, list[IntegrityError]]:
    """The manifest of a source that was taken last and can be read, and an error for each later one.

    For whoever only goes on from there: a catalog of years has thousands, and each is a read. Ids that
    lie ahead of the store's clock say nothing of their order: the last of those are read as well.
    """
    errors: list[IntegrityError] = []
    ids = backup_ids(repository, source)
    latest = f"{repository.store.now() + CLOCK_SKEW:%Y%m%dT%H%M%S}~"
    ahead = [backup_id for backup_id in ids if backup_id > latest]
    parts = (ahead, ids[: len(ids) - len(ahead)])
    found = [_last_readable(repository, source, part, errors=errors) for part in parts]
    return max((one for one in found if one is not None), key=_order, default=None), errors


def _last_readable(
    repository: Repository, source: str, ids: Sequence[str], *, errors: list[IntegrityError]
) -> Manifest | None:
    for backup_id in reversed(ids):
        found = _manifest_or_error(repository, source, backup_id)
        if isinstance(found, Manifest):
            return found
        errors.append(found)
    return None


def open_table(manifest: Manifest, reader: ChunkReader) -> Table:
    """The file table of a backup."""
    # With numpy, which whoever only lists backups does without.
    from drtool.repository.table import PackList, Table

    packs = PackList()
    for pack_id in manifest.packs:
        packs.index_of(pack_id)
    name = layout.manifest_key(manifest.source, manifest.backup_id)
    return Table(reader, manifest.table, packs, name=name)


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as JSON: FORMAT.md, section 7."""
    sizes = manifest.sizes
    packs = {pack_id: index for index, pack_id in enumerate(manifest.packs)}
    document = {
        "manifest": MANIFEST_VERSION,
        "source": manifest.source,
        "backup": manifest.backup_id,
        "kind": manifest.kind,
        "began": manifest.began.isoformat(),
        "ended": manifest.ended.isoformat(),
        "tool": manifest.tool,
        "fencing": manifest.fencing,
        manifest.kind: manifest.extent.to_json(),
        "sizes": {
            "files": sizes.files,
            "read_bytes": sizes.read_bytes,
            "new_bytes": sizes.new_bytes,
            "stored_bytes": sizes.stored_bytes,
        },
        "findings": [[str(f.severity), f.subject, f.fact, f.fix] for f in manifest.findings],
        "packs": [pack_id.hex() for pack_id in manifest.packs],
        "table": [[packs[place.pack_id], place.number] for place in manifest.table],
        **({"origin": manifest.origin.to_json()} if manifest.origin else {}),
    }
    return json.dumps(document, indent=1).encode()


def decode_manifest(plain: bytes, *, key: str) -> Manifest:
    """Read such JSON; IntegrityError names `key` when it is none, or of a later version."""
    try:
        document = read_object(plain, most_bytes=most_plain_bytes(ObjectType.MANIFEST))
        tool, kind = document.text("tool", "a later one"), document.text("kind", "unknown")
        if document.whole("manifest") != MANIFEST_VERSION or kind not in EXTENTS:
            raise IntegrityError(
                f"object {key} is a manifest of version {document.whole('manifest')}, of a backup of"
                f" kind {kind}",
                hint=f"Use a drtool as new as the one that made it ({tool}).",
            )
        packs = tuple(_pack_id(pack) for pack in document.texts("packs"))
        return Manifest(
            source=document.text("source"),
            backup_id=document.text("backup"),
            began=document.moment("began"),
            ended=document.moment("ended"),
            tool=tool,
            fencing=document.whole("fencing"),
            extent=EXTENTS[kind].from_json(document.inner(kind)),
            sizes=_sizes(document.inner("sizes")),
            findings=tuple(_finding(row) for row in document.items("findings")),
            packs=packs,
            origin=Origin.from_json(document.inner("origin")) if document.has("origin") else None,
            table=tuple(
                ChunkPlace(packs[pack], number) for pack, number in document.pairs("table")
            ),
        )
    except (ValueError, IndexError) as error:
        raise damaged(key, f"its content is no manifest ({error})") from error


def _pack_id(told: str) -> bytes:
    pack_id = bytes.fromhex(told)
    if len(pack_id) != PACK_ID_BYTES:
        raise ValueError(f"{told[:80]!r} is no pack's id")
    return pack_id


def _sizes(told: JsonObject) -> BackupSizes:
    return BackupSizes(**{field.name: told.whole(field.name) for field in fields(BackupSizes)})


def _finding(row: object) -> Finding:
    severity, subject, fact, fix = texts_of(as_row(row, "findings", columns=4), "findings")
    return Finding(severity=Severity(severity), subject=subject, fact=fact, fix=fix)

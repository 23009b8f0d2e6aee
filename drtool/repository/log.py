"""The change log: WAL segments, the growing tail in parts, timeline histories, and recorded gaps.

What is durable here may be acknowledged to the server; nothing else may.
"""

from __future__ import annotations

from drtool.errors import AlreadyExists, IntegrityError, NotAuthentic, ObjectMissing
from drtool.model.wal import MAX_SEGMENT_BYTES, TimelineHistory, WalSegment
from drtool.repository import layout
from drtool.repository.confirmation import confirm_put, confirm_there
from drtool.repository.heads import is_ours
from drtool.repository.layout import Lineage, SegmentPart, WholeSegment
from drtool.repository.names import BESIDE
from drtool.repository.repository import Repository
from drtool.repository.sealing import (
    Compressor,
    ObjectType,
    SealedWriter,
    damaged,
    most_plain_bytes,
    new_seal,
    unseal_whole,
)
from drtool.repository.taken import put_beside, read_sealed

Buffer = bytes | bytearray | memoryview


class OtherContent(IntegrityError):
    """Under the name of a log object stands another content than the one to be put."""


class SegmentWriter:
    """Seals one WAL segment while it grows. One thread at a time.

    Holds the sealed frames of the segment (compressed, at most the segment's size) and 1 MiB plain.
    """

    def __init__(
        self, repository: Repository, lineage: Lineage, segment: str, *, level: int = 1
    ) -> None:
        self._repository = repository
        self._key = lineage.segment_key(segment)
        seal = new_seal(repository.ring, ObjectType.LOG, self._key)
        self._writer = SealedWriter(seal, ObjectType.LOG, Compressor(level))
        self._parts: list[bytes] = []
        self._is_sealed = False

    def write(self, plain: Buffer) -> None:
        """Add the segment's next bytes."""
        self._writer.write(plain)
        self._parts += self._writer.take()

    def finish(self) -> None:
        """Put the whole segment; return once it is durable.

        If the object exists, its content is compared: equal bytes are a success (a receiver that
        died after the put comes here again), other bytes raise OtherContent (PITFALLS 3). When
        the store could not be asked, `finish` may be called again.
        """
        if not self._is_sealed:
            self._parts += self._writer.finish()
            self._is_sealed = True
        put_log_object(self._repository, self._key, self._parts)


def put_log_object(repository: Repository, key: str, parts: list[bytes]) -> None:
    """Create a sealed log object and see it there, or accept one that holds the same plain bytes.

    Where what stands under the name is damaged, or none of ours, it goes beside it.

    NotKept, which is `retryable` with the same parts, if the store acknowledges it and has it not.
    """
    store = repository.store
    try:
        store.create(key, parts)
        confirm_put(store, key, parts)
        return
    except AlreadyExists:
        pass  # what stands there is compared
    mine = unseal_whole(repository.ring, ObjectType.LOG, key, sealed=b"".join(parts))
    try:
        held = read_log_object(repository, key, most_bytes=max(len(mine), 1))
    except IntegrityError:
        # Damaged, or put there by somebody without the key: ours has to be durable all the same.
        name = put_beside(store, repository.ring, ObjectType.LOG, key=key, plain=mine)
        confirm_there(store, name)
        return
    if held != mine:
        raise OtherContent(
            f"object {key} holds other WAL than the server now sends under that name",
            hint="Two servers write one timeline (split brain, or a clone). Stop one,"
            " then run `drtool wal gaps`.",
        )


def put_part(repository: Repository, lineage: Lineage, part: SegmentPart, *, plain: Buffer) -> None:
    """Put the piece of a growing segment; return once it is durable."""
    key = lineage.part_key(part.segment, part.begin, part.end)
    if len(plain) != part.end - part.begin:
        raise ValueError(f"{key} is to hold {part.end - part.begin} bytes, not {len(plain)}")
    seal = new_seal(repository.ring, ObjectType.LOG, key)
    writer = SealedWriter(seal, ObjectType.LOG, Compressor(1))
    writer.write(plain)
    put_log_object(repository, key, writer.finish())


def put_history(
    repository: Repository, source: str, system_id: int, *, timeline: int, content: bytes
) -> None:
    """Put a timeline's history file; equal content already there is a success."""
    key = layout.history_key(source, system_id, timeline)
    seal = new_seal(repository.ring, ObjectType.LOG, key)
    writer = SealedWriter(seal, ObjectType.LOG, Compressor(1))
    writer.write(content)
    put_log_object(repository, key, writer.finish())


def read_history(
    repository: Repository, source: str, system_id: int, *, timeline: int
) -> TimelineHistory:
    """A timeline's history; timeline 1 has none and needs none. ObjectMissing if it is not there."""
    if timeline == 1:
        return TimelineHistory(1)
    key = layout.history_key(source, system_id, timeline)
    plain = read_log_object(repository, key, most_bytes=most_plain_bytes(ObjectType.LOG))
    try:
        # Reasons may be in any encoding: a restore point's name is what somebody typed.
        return TimelineHistory.parse(timeline, plain.decode(errors="replace"))
    except ValueError as error:
        raise damaged(key, str(error)) from error


def read_log_object(
    repository: Repository, key: str, *, most_bytes: int = MAX_SEGMENT_BYTES
) -> bytes:
    """The plain bytes of a segment, a part or a history, authenticated to the end; at most so many."""
    return read_sealed(
        repository.store, repository.ring, ObjectType.LOG, key=key, most_bytes=most_bytes
    )


def read_segment(
    repository: Repository, lineage: Lineage, segment: WalSegment, *, segment_bytes: int
) -> bytes:
    """A whole segment; where only parts are there, they are joined and filled up with zeros.

    The whole segment is preferred to its parts (PITFALLS 49); parts behind a hole are not used, and
    the inventory shows the hole. ObjectMissing if there is neither, IntegrityError if an object has
    another length. Where the object of the whole segment is damaged, or none of ours, the parts count if
    they are all of it, or if the log ends in them.
    """
    name = segment.name(segment_bytes)
    key = lineage.segment_key(name)
    try:
        plain = read_log_object(repository, key, most_bytes=segment_bytes)
    except ObjectMissing:
        return _filled(
            _join_parts(repository, lineage, name, segment_bytes=segment_bytes), segment_bytes
        )
    except IntegrityError as error:
        return _instead(repository, lineage, segment, segment_bytes=segment_bytes, error=error)
    if len(plain) != segment_bytes:
        raise damaged(key, f"it holds {len(plain)} bytes, not {segment_bytes}")
    return plain


def _filled(content: bytes, segment_bytes: int) -> bytes:
    return content + bytes(segment_bytes - len(content))


def _instead(
    repository: Repository,
    lineage: Lineage,
    segment: WalSegment,
    *,
    segment_bytes: int,
    error: IntegrityError,
) -> bytes:
    """The segment from its parts, where its own object cannot be read; `error` if they do not carry it."""
    name = segment.name(segment_bytes)
    try:
        joined = _join_parts(repository, lineage, name, segment_bytes=segment_bytes)
    except ObjectMissing:
        raise error from None
    if len(joined) == segment_bytes:
        return joined
    # Zeros would end a replay there: they may stand only where nothing is held behind them.
    if not isinstance(error, NotAuthentic) or _goes_on(repository, lineage, name):
        raise error
    return _filled(joined, segment_bytes)


def _goes_on(repository: Repository, lineage: Lineage, segment: str) -> bool:
    """Whether WAL of the timeline is held behind a segment."""
    behind = f"{lineage.segment_key(segment)}{BESIDE}~"
    for found in repository.store.list(lineage.prefix, after=behind):
        name = layout.parse_log_name(found.key.removeprefix(lineage.prefix))
        if isinstance(name, WholeSegment | SegmentPart) and is_ours(repository, found.key):
            return True
    return False


def _join_parts(
    repository: Repository, lineage: Lineage, segment: str, *, segment_bytes: int
) -> bytes:
    """The bytes of a segment from its first one on for as far as parts carry them; ObjectMissing without any.

    Parts that are none of ours are done without; a damaged one only where others carry its bytes.
    """
    parts = [
        part
        for part in list_parts(repository, lineage, segment)
        if part.begin < part.end <= segment_bytes
    ]
    failed: IntegrityError | None = None
    while True:
        joined = bytearray()
        bad: SegmentPart | None = None
        for part in _contiguous(parts):
            try:
                plain = _read_part(repository, lineage, part)
            except NotAuthentic:
                bad = part
                break
            except IntegrityError as error:
                bad, failed = part, error
                break
            joined += memoryview(plain)[len(joined) - part.begin :]
        if bad is None:
            break
        parts.remove(bad)
    if failed is not None and len(joined) < segment_bytes:
        raise failed
    if not joined:
        raise ObjectMissing(lineage.segment_key(segment))
    return bytes(joined)


def _read_part(repository: Repository, lineage: Lineage, part: SegmentPart) -> bytes:
    key = lineage.part_key(part.segment, part.begin, part.end)
    plain = read_log_object(repository, key, most_bytes=part.end - part.begin)
    if len(plain) != part.end - part.begin:
        raise damaged(key, "it has another length")
    return plain


def list_parts(repository: Repository, lineage: Lineage, segment: str) -> list[SegmentPart]:
    """All parts of one segment, by where they begin."""
    found = repository.store.list(lineage.segment_key(segment) + ".part-")
    names = {layout.parse_log_name(item.key.removeprefix(lineage.prefix)) for item in found}
    return sorted(
        (name for name in names if isinstance(name, SegmentPart)),
        key=lambda part: (part.begin, part.end),
    )


def _contiguous(parts: list[SegmentPart]) -> list[SegmentPart]:
    """Those of `parts` that carry a segment from byte 0 on without a hole, and no more than needed.

    A receiver joins many small parts into a larger one now and then: the one that reaches farthest
    is taken each time.
    """
    chosen: list[SegmentPart] = []
    best: SegmentPart | None = None
    reached = 0
    for part in parts:
        if part.begin > reached:
            if best is None or best.end < part.begin:
                break
            chosen.append(best)
            reached, best = best.end, None
        if part.end > max(reached, best.end if best else 0):
            best = part
    return [*chosen, best] if best else chosen

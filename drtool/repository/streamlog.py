"""The replication stream of a Redis: segments by offset, links between histories, recorded gaps.

An offset counts the bytes of a history. A failover gives the history a new replication id while the
offsets go on: so a place in the log is an offset on a path over several ids. The bytes are described
in FORMAT.md, section 8.1.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from drtool.errors import AlreadyExists, IntegrityError
from drtool.model.strict_json import read_object
from drtool.repository.confirmation import confirm_put, confirm_there
from drtool.repository.layout import (
    ReplicationHistory,
    StreamSegment,
)
from drtool.repository.repository import Repository
from drtool.repository.sealing import (
    Compressor,
    ObjectType,
    SealedWriter,
    damaged,
    most_sealed_bytes,
    new_seal,
    unseal_whole,
)
from drtool.repository.stream_known import put_known_word
from drtool.repository.taken import put_beside

Buffer = bytes | bytearray | memoryview

# A reader looks back no further than this for the segment that holds an offset.
MOST_SEGMENT_BYTES = 64 << 20
# So that the whole index lies in the first sealed frame.
MOST_MOMENTS = 50_000
_MAGIC = b"DRSTREAM"
_HEADER = struct.Struct(">8sQQI")
_MOMENT = struct.Struct(">qQ")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class StreamMoment:
    """By `moment`, on the clock of the server that sent it, all before `offset` had arrived."""

    moment: datetime
    offset: int


@dataclass(frozen=True, slots=True)
class StreamIndex:
    """What a segment says of itself: its place, and when its bytes came. The last is its end."""

    begin: int
    end: int
    moments: tuple[StreamMoment, ...]

    def __post_init__(self) -> None:
        offsets = [self.begin, *(one.offset for one in self.moments)]
        if not 0 <= self.begin < self.end <= self.begin + MOST_SEGMENT_BYTES:
            raise ValueError(f"no segment of a stream: {self.begin} to {self.end}")
        if not 0 < len(self.moments) <= MOST_MOMENTS or offsets[-1] != self.end:
            raise ValueError("the index of a segment ends where the segment does")
        if offsets != sorted(offsets):
            raise ValueError("the index of a segment is in order")

    def offset_at(self, moment: datetime) -> int | None:
        """The last offset that had arrived by `moment`; None if the segment began later."""
        reached = [one.offset for one in self.moments if one.moment <= moment]
        return max(reached, default=None)

    def to_bytes(self) -> bytes:
        head = _HEADER.pack(_MAGIC, self.begin, self.end, len(self.moments))
        entries = (
            _MOMENT.pack((one.moment - _EPOCH) // _MICROSECOND, one.offset) for one in self.moments
        )
        return head + b"".join(entries)

    @property
    def size_bytes(self) -> int:
        """Where the stream's own bytes begin."""
        return _HEADER.size + len(self.moments) * _MOMENT.size

    @classmethod
    def from_bytes(cls, plain: Buffer) -> StreamIndex:
        """The index at the beginning of a segment; ValueError for anything else."""
        try:
            magic, begin, end, count = _HEADER.unpack_from(plain)
            if magic != _MAGIC:
                raise ValueError("it does not begin as a segment of a stream does")
            entries = memoryview(plain)[_HEADER.size : _HEADER.size + count * _MOMENT.size]
            if len(entries) != count * _MOMENT.size:
                raise ValueError("its index is cut short")
            moments = tuple(
                StreamMoment(_EPOCH + stamp * _MICROSECOND, offset)
                for stamp, offset in _MOMENT.iter_unpack(entries)
            )
        except (struct.error, OverflowError) as error:
            raise ValueError(f"its index cannot be read: {error}") from error
        return cls(begin, end, moments)


def put_stream(
    repository: Repository,
    history: ReplicationHistory,
    index: StreamIndex,
    *,
    content: Sequence[Buffer],
) -> None:
    """Put one segment; return once it is durable.

    Equal bytes there already are a success, whenever they came (a receiver that died after the put
    comes here again); other bytes raise IntegrityError.
    """
    key = history.segment_key(index.begin, index.end)
    if sum(map(len, content)) != index.end - index.begin:
        raise ValueError(f"{key} is to hold {index.end - index.begin} bytes")
    seal = new_seal(repository.ring, ObjectType.LOG, key)
    writer = SealedWriter(seal, ObjectType.LOG, Compressor(1))
    writer.write(index.to_bytes())
    for part in content:
        writer.write(part)
    sealed = writer.finish()
    try:
        repository.store.create(key, sealed)
        confirm_put(repository.store, key, sealed)
        return
    except AlreadyExists:
        pass  # what stands there is compared
    try:
        _, there = read_stream_segment(repository, history, StreamSegment(index.begin, index.end))
    except IntegrityError:
        # Damaged, or put there by somebody without the key: ours has to be durable all the same.
        plain = b"".join([index.to_bytes(), *content])
        name = put_beside(repository.store, repository.ring, ObjectType.LOG, key=key, plain=plain)
        confirm_there(repository.store, name)
        return
    if there != b"".join(content):
        raise IntegrityError(
            f"object {key} holds another stream than the server now sends under that name",
            hint="Two servers write one history (split brain, or a clone). Stop one,"
            " then run `drtool verify`.",
        )


def read_stream_segment(
    repository: Repository, history: ReplicationHistory, segment: StreamSegment
) -> tuple[StreamIndex, memoryview]:
    """One segment, authenticated to its end."""
    key = history.segment_key(segment.begin, segment.end)
    most = (
        min(segment.end - segment.begin, MOST_SEGMENT_BYTES)
        + _HEADER.size
        + MOST_MOMENTS * _MOMENT.size
    )
    sealed = repository.store.read(key, most_bytes=most_sealed_bytes(most))
    plain = unseal_whole(repository.ring, ObjectType.LOG, key, sealed=sealed, most_bytes=most)
    return parse_stream_segment(key, segment, plain)


def parse_stream_segment(
    key: str, segment: StreamSegment, plain: Buffer
) -> tuple[StreamIndex, memoryview]:
    """The index and the bytes of an opened segment; IntegrityError if it is not what its name says."""
    try:
        index = StreamIndex.from_bytes(plain)
    except ValueError as error:
        raise damaged(key, str(error)) from error
    content = memoryview(plain)[index.size_bytes :]
    is_named = (index.begin, index.end) == (segment.begin, segment.end)
    if not is_named or len(content) != segment.end - segment.begin:
        raise damaged(key, "it holds other offsets than its name says")
    return index, content


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLink:
    """`replication_id` goes on where `previous` was left: both have the same bytes before `offset`.

    `node` is the cluster's name for the master; empty outside of clusters, and where it was not recorded.
    `writer` is the master's product and version, as in ("redis", "7.0.15"); None where nobody knows;
    `renamed` its commands that have another name there, as in a snapshot.
    """

    replication_id: str
    previous: str
    offset: int
    at: datetime
    shard: str = ""
    node: str = ""
    writer: tuple[str, str] | None = None
    renamed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamBegin:
    """The log of `replication_id` begins at `offset`; what came before is not joined to it.

    `previous` is what had been archived of the shard until then, with its end: between the two there
    is a gap. None if there was nothing.
    """

    replication_id: str
    offset: int
    reason: str
    at: datetime
    shard: str = ""
    previous: tuple[str, int] | None = None
    node: str = ""


def put_link(repository: Repository, source: str, link: StreamLink) -> None:
    """Record that a history goes on under another id; the same link there already is a success."""
    key = ReplicationHistory(source, link.replication_id).link_key(link.offset)
    document = {"previous": link.previous, "offset": link.offset}
    named = {"at": link.at.isoformat(), "shard": link.shard, "node": link.node}
    written = {"writer": link.writer, **({"renamed": link.renamed} if link.renamed else {})}
    _put_word(repository, key, document | named | written)
    if read_link(repository, source, link.replication_id, offset=link.offset).previous != (
        link.previous
    ):
        raise damaged(key, f"it names another previous history than {link.previous}")


def read_link(
    repository: Repository, source: str, replication_id: str, *, offset: int
) -> StreamLink:
    """One link, authenticated."""
    key = ReplicationHistory(source, replication_id).link_key(offset)
    try:
        document = read_object(repository.get(ObjectType.LOG, key))
        return StreamLink(
            replication_id=replication_id,
            previous=document.text("previous"),
            offset=document.whole("offset"),
            at=document.moment("at"),
            shard=document.text("shard"),
            node=document.text("node", ""),
            writer=document.two_texts("writer") if document.has("writer") else None,
            renamed=document.texts("renamed", ()),
        )
    except ValueError as error:
        raise damaged(key, f"its content is no link ({error})") from error


def put_begin(repository: Repository, source: str, begin: StreamBegin) -> None:
    """Record that the log begins anew; a record that is there already stays."""
    key = ReplicationHistory(source, begin.replication_id).begin_key(begin.offset)
    document = {
        "offset": begin.offset,
        "reason": begin.reason,
        "at": begin.at.isoformat(),
        "shard": begin.shard,
        "node": begin.node,
        "previous": begin.previous and list(begin.previous),
    }
    _put_word(repository, key, document)


def read_begin(
    repository: Repository, source: str, replication_id: str, *, offset: int
) -> StreamBegin:
    """One recorded beginning, authenticated."""
    key = ReplicationHistory(source, replication_id).begin_key(offset)
    try:
        document = read_object(repository.get(ObjectType.LOG, key))
        return StreamBegin(
            replication_id=replication_id,
            offset=document.whole("offset"),
            reason=document.text("reason"),
            at=document.moment("at"),
            shard=document.text("shard"),
            node=document.text("node", ""),
            previous=document.text_and_number("previous") if document.has("previous") else None,
        )
    except ValueError as error:
        raise damaged(key, f"its content is no beginning ({error})") from error


def _put_word(repository: Repository, key: str, document: object) -> None:
    content = json.dumps(document).encode()
    with suppress(AlreadyExists):  # a receiver that died after the put; the first word stays
        repository.put(ObjectType.LOG, key, content)
    put_known_word(repository, key, content)

"""A WAL segment while it grows: put in parts meanwhile, and whole when it is complete."""

from __future__ import annotations

from drtool.errors import IntegrityError, ObjectMissing
from drtool.model.wal import Lsn, WalSegment
from drtool.repository.layout import Lineage, SegmentPart
from drtool.repository.log import SegmentWriter, put_part, read_segment
from drtool.repository.repository import Repository

# So many small parts are joined into one larger part, and so many of those into one larger still:
# what a restore reads of a growing segment stays below a hundred objects, however long it grows.
FAN = 32
# Plain bytes kept for joining; beyond them parts of a very large segment are not joined.
MOST_HELD_BYTES = 64 << 20


class GrowingSegment:
    """One thread at a time. Holds the plain and the sealed bytes of one segment."""

    def __init__(
        self, repository: Repository, lineage: Lineage, segment: WalSegment, *, segment_bytes: int
    ) -> None:
        self._repository = repository
        self._lineage = lineage
        self._segment = segment
        self._segment_bytes = segment_bytes
        self.name = segment.name(segment_bytes)
        self._writer = SegmentWriter(repository, lineage, self.name)
        self._known_bytes = 0
        self._known: list[memoryview] = []
        self._fresh: list[memoryview] = []
        self._pieces: list[tuple[int, bytes]] = []
        self.filled = 0
        self.durable = 0

    def begin_known(self, known_bytes: int) -> None:
        """Before the first byte: parts with the first `known_bytes` are in the repository already."""
        self._known_bytes = self.durable = known_bytes

    @property
    def begin(self) -> Lsn:
        """The position of its first byte."""
        return self._segment.begin(self._segment_bytes)

    @property
    def room(self) -> int:
        """Bytes until it is complete."""
        return self._segment_bytes - self.filled

    @property
    def unflushed(self) -> int:
        """Bytes received that are not durable."""
        return max(0, self.filled - self.durable)

    @property
    def end(self) -> Lsn:
        """The position up to which it is durable."""
        return Lsn(self.begin + self.durable)

    def add(self, view: memoryview) -> None:
        """The next bytes, at most `room`."""
        self._writer.write(view)
        begin, self.filled = self.filled, self.filled + len(view)
        if begin >= self._known_bytes:
            self._fresh.append(view)
            return
        known = self._known_bytes - begin
        self._known.append(view[:known])
        if len(view) > known:
            self._fresh.append(view[known:])

    def put_tail(self) -> None:
        """Make what was received durable as a part. May be called again if it failed.

        Before the first one, what the repository holds of the segment is compared with what came: it
        refuses to go on from a tail that this server never wrote (PITFALLS 3).
        """
        self._compare_known()
        fresh = b"".join(self._fresh)
        self._fresh = [memoryview(fresh)]
        level, joined = 0, [fresh]
        while len(tail := self._pieces_at_end(level, skipping=len(joined) - 1)) >= FAN - 1:
            joined = tail + joined
            level += 1
        plain = b"".join(joined) if len(joined) > 1 else fresh
        part = SegmentPart(self.name, self.filled - len(plain), self.filled)
        put_part(self._repository, self._lineage, part, plain=plain)
        self._pieces = [*self._pieces[: len(self._pieces) - (len(joined) - 1)], (level, plain)]
        if sum(len(piece) for _, piece in self._pieces) > MOST_HELD_BYTES:
            self._pieces = []
        self._fresh = []
        self.durable = self.filled

    def put_whole(self) -> None:
        """Make the complete segment durable as one object. May be called again if it failed."""
        self._compare_known()
        self._writer.finish()
        self.durable = self.filled

    def _pieces_at_end(self, level: int, *, skipping: int) -> list[bytes]:
        """The last parts of one level, of those that are not being joined already."""
        found: list[bytes] = []
        for piece_level, piece in reversed(self._pieces[: len(self._pieces) - skipping]):
            if piece_level != level:
                break
            found.insert(0, piece)
        return found

    def _compare_known(self) -> None:
        if not self._known:
            return
        mine = b"".join(self._known)
        try:
            stored = read_segment(
                self._repository, self._lineage, self._segment, segment_bytes=self._segment_bytes
            )
        except (ObjectMissing, IntegrityError):
            stored = b""
        # What is not carried by any part reads as zeros.
        carried = stored[: len(mine)].rstrip(b"\0")
        if mine[: len(carried)] != carried:
            raise IntegrityError(
                f"the tail of segment {self.name} in the repository is not what the server now sends",
                hint="The server has lost WAL and written other, or two servers write one timeline."
                " Stop one of them, then run `drtool wal gaps`.",
            )
        self._known = []
        if stored[: len(mine)] == mine:
            self._pieces = [(0, mine)]
            return
        # It was acknowledged, and is missing or damaged since: it goes up again with what came.
        self._fresh = [memoryview(mine), *self._fresh]
        self.durable = 0

"""Packs filled by several threads at once: each thread has a pack of its own, full ones go up."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count, islice

from drtool.errors import NotKept, RepositoryUnavailable
from drtool.repository import layout
from drtool.repository.backups import Attempt
from drtool.repository.chunks import PACK_BUFFER_BYTES, PackBuilder
from drtool.repository.confirmation import confirm_put
from drtool.repository.repository import Repository
from drtool.repository.sealing import Buffer, Compressor
from drtool.repository.table import PackList
from drtool.system.memory import lazy_buffer

UPLOADS = 2
LONGEST_PUT_SECONDS = 900.0
# So often a pack is put that the store acknowledges and does not have.
_PUTS = 3


class KnownChunks:
    """Ids of chunks that are stored already, with their places. Any thread may use it.

    At most 500,000, which is 128 GB of pages in some 80 MB of memory: a chunk beyond them may be
    stored twice, which harms nobody.
    """

    MOST = 500_000

    def __init__(self) -> None:
        # Pack and number in one int: half the memory of a tuple.
        self._places: dict[bytes, int] = {}
        self._distrusted: frozenset[int] = frozenset()

    def find(self, chunk_id: bytes) -> tuple[int, int] | None:
        """(pack index, chunk number), or None."""
        place = self._places.get(chunk_id)
        if place is None or place >> 16 in self._distrusted:
            return None
        return place >> 16, place & 0xFFFF

    def add(self, chunk_id: bytes, pack: int, number: int) -> None:
        if len(self._places) < self.MOST or chunk_id in self._places:
            self._places[chunk_id] = pack << 16 | number

    def add_all(self, chunk_ids: Iterable[bytes], pack: int) -> None:
        """The chunks of a pack, from its first on: in one go, since there are thousands."""
        room = max(0, self.MOST - len(self._places))
        self._places.update(zip(islice(chunk_ids, room), count(pack << 16), strict=False))

    def distrust(self, pack: int) -> None:
        """Take no chunk from this pack again: something in it is damaged."""
        self._distrusted |= {pack}


class PackingHall:
    """Lends pack builders to threads, and puts packs that are full.

    Memory: `packers + UPLOADS` buffers of 34 MiB, made when first needed. The first put that fails
    makes every later call raise its error.
    """

    def __init__(
        self,
        repository: Repository,
        attempt: Attempt,
        packs: PackList,
        *,
        known: KnownChunks,
        packers: int,
        level: int,
    ) -> None:
        self._repository = repository
        self._attempt = attempt
        self.packs = packs
        self._level = level
        self._unmade = packers + UPLOADS
        self._free: list[PackBuilder] = []
        self._open: list[PackBuilder] = []
        self._number = 0
        self._indices: dict[bytes, int] = {}
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._uploads = ThreadPoolExecutor(UPLOADS, thread_name_prefix="put")
        self._pending: list[Future[None]] = []
        self.known = known
        self.new_bytes = 0
        self.stored_bytes = 0
        # By pack id, of those put by this run.
        self.sizes: dict[bytes, int] = {}

    @contextmanager
    def packer(self) -> Iterator[Packer]:
        """A place to put chunks, for one thread, until the block ends."""
        packer = Packer(self, self.take_builder())
        try:
            yield packer
        finally:
            self._give_back(packer)

    def take_builder(self) -> PackBuilder:
        """An open builder, or a fresh one; waits while all buffers are on their way up."""
        with self._changed:
            while True:
                self.check()
                if self._open:
                    return self._open.pop()
                if self._free:
                    return self._begin(self._free.pop())
                if self._unmade:
                    self._unmade -= 1
                    compressor = Compressor(self._level)
                    buffer = lazy_buffer(PACK_BUFFER_BYTES)
                    return self._begin(PackBuilder(self._repository.ring, compressor, buffer))
                if not self._changed.wait(LONGEST_PUT_SECONDS):
                    # Everybody must stop, or another would take the full pack of this one for open.
                    self._failure = RepositoryUnavailable(
                        f"no pack could be put into {self._repository.store.url}"
                        f" within {LONGEST_PUT_SECONDS:.0f} s",
                        hint="Look at the network and the store, then run the backup again.",
                    )

    def exchange(self, full: PackBuilder) -> PackBuilder:
        """Send a full pack up, and take another builder."""
        self._send(full)
        return self.take_builder()

    def index_of(self, builder: PackBuilder) -> int:
        """The index of the builder's pack in the pack list."""
        return self._indices[builder.pack_id]

    def check(self) -> None:
        """Raise what made a put fail."""
        if self._failure is not None:
            raise self._failure

    def finish(self) -> None:
        """Put what is still open; return once everything is durable. No builder may be out on loan."""
        with self._changed:
            left, self._open = self._open, []
        for builder in left:
            self._send(builder)
        for future in self._pending:
            future.result()
        self._uploads.shutdown()
        self.check()

    def abandon(self) -> None:
        """Give up: no new puts, wait for those under way."""
        self._uploads.shutdown(cancel_futures=True)

    def _begin(self, builder: PackBuilder) -> PackBuilder:
        pack_id = self._attempt.pack_id(self._number)
        self._number += 1
        self._indices[pack_id] = self.packs.index_of(pack_id)
        builder.begin(pack_id)
        return builder

    def _give_back(self, packer: Packer) -> None:
        with self._changed:
            self.new_bytes += packer.new_bytes
            self._open.append(packer.builder)
            self._changed.notify()

    def _send(self, builder: PackBuilder) -> None:
        if builder.is_empty:
            return
        self._pending = [future for future in self._pending if not future.done()]
        self._pending.append(self._uploads.submit(self._put, builder))

    def _put(self, builder: PackBuilder) -> None:
        try:
            parts = builder.finish()
            self._put_confirmed(layout.pack_key(builder.pack_id), parts)
        except BaseException as error:
            # Told to whoever asks next: the thread that reads must stop too.
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()
            raise
        with self._changed:
            size = sum(len(part) for part in parts)
            self.stored_bytes += size
            self.sizes[builder.pack_id] = size
            self._free.append(builder)
            self._changed.notify()

    def _put_confirmed(self, key: str, parts: Sequence[Buffer]) -> None:
        """Put a pack and see it in the store, while its bytes are still at hand to be put again.

        The digest costs 1.4 ms a MB; a store that was measured to check what comes in spares it.
        """
        store = self._repository.store
        is_checked = self._repository.root.capabilities.refuses_wrong_checksum is True
        for last in (False,) * (_PUTS - 1) + (True,):
            store.create(key, parts)
            try:
                confirm_put(store, key, parts, compares_digest=not is_checked)
                return
            except NotKept:
                if last:
                    raise


class Packer:
    """Stores chunks for one thread, each content once."""

    def __init__(self, hall: PackingHall, builder: PackBuilder) -> None:
        self._hall = hall
        self.builder = builder
        self.new_bytes = 0

    def store(self, plain: memoryview | bytes) -> tuple[int, int]:
        """Store a chunk unless its content is known; return (pack index, chunk number)."""
        chunk_id = self.builder.chunk_id(plain)
        place = self._hall.known.find(chunk_id)
        if place is not None:
            return place
        if self.builder.is_full:
            self.builder = self._hall.exchange(self.builder)
        number = self.builder.add(plain, chunk_id)
        pack = self._hall.index_of(self.builder)
        self._hall.known.add(chunk_id, pack, number)
        self.new_bytes += len(plain)
        return pack, number

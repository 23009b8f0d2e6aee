"""RDBs made from RDBs: split and merged by slot, with other expiry times, bytes copied as they are."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from drtool.errors import NotRecoverable
from drtool.sources.redis import rdbcodes as codes
from drtool.sources.redis.crc64 import Buffer, crc64
from drtool.sources.redis.keyslot import SLOTS, SlotRange, key_slot, slot_owners
from drtool.sources.redis.rdb import (
    Aux,
    Batch,
    Function,
    LargeEntry,
    ModuleAux,
    RdbItem,
    RdbWalker,
    Resize,
    rewritten_value,
)
from drtool.sources.redis.rdbfields import type_after
from drtool.sources.redis.rdbscan import NEVER

Write = Callable[[Buffer], object]
# From when a record expires (milliseconds since 1970, or NEVER) to when it shall; None drops it.
TtlRule = Callable[[int], int | None]
# Whether a key of source number n, in a hash slot, is to be kept.
Keeps = Callable[[int, int, bytes], bool]

_FLUSH_BYTES = 1 << 20
# A copy must not claim the history of the server it came from: with its replication id and offset
# it would be taken for a replica of production that may catch up.
_LEFT_BEHIND = frozenset(
    {b"repl-id", b"repl-offset", b"repl-stream-db", b"aof-base", b"aof-preamble"}
)


def keep_ttl(expires_ms: int) -> int | None:
    """Every record expires when it would have."""
    return expires_ms


def persist(_: int) -> int | None:
    """No record expires any more."""
    return NEVER


def shift_ttl(by: timedelta) -> TtlRule:
    """Every record that expires does so later by `by`: it lives as long after the restore as it would."""
    by_ms = round(by.total_seconds() * 1000)
    return lambda expires_ms: expires_ms if expires_ms == NEVER else expires_ms + by_ms


def drop_expired(moment: datetime, following: TtlRule = keep_ttl) -> TtlRule:
    """What had expired at `moment` is dropped; `following` says what happens to the rest."""
    moment_ms = round(moment.timestamp() * 1000)
    return lambda expires_ms: None if NEVER < expires_ms <= moment_ms else following(expires_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """An RDB that was written: how many keys each database of it holds, by the database's number."""

    keys: dict[int, int]
    size_bytes: int
    crc64: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reshaped:
    """What became of the RDBs that were read. `conflicting_libraries` stood in two of them with

    different code: the code of the first one was kept.
    """

    written: tuple[Written, ...]
    keys_read: int
    keys_dropped: int
    conflicting_libraries: tuple[str, ...]
    all_verified: bool


class RdbWriter:
    """Writes one RDB by `write`, which takes all it is given. `finish` makes it whole."""

    def __init__(self, write: Write, *, version: int) -> None:
        self._write = write
        self._crc = 0
        self._size = 0
        self._database: int | None = None
        self.buffer = bytearray(b"%s%04d" % (codes.MAGIC, version))
        self.keys: dict[int, int] = {}

    def add(self, raw: Buffer) -> None:
        """Write what stands outside of all databases: aux fields, functions."""
        self.buffer += raw
        self.flush_if_full()

    def select(self, database: int, *, keys: int = 0, expires: int = 0) -> None:
        """What is written from now on belongs to `database`; the counts are hints for its tables."""
        if database == self._database:
            return
        self._database = database
        self.buffer += bytes((codes.SELECT,)) + codes.write_length(database)
        if keys:
            self.buffer += bytes((codes.RESIZE,)) + codes.write_length(keys)
            self.buffer += codes.write_length(expires)
        self.keys.setdefault(database, 0)

    def count(self, keys: int) -> None:
        """So many records of the database that is selected went into the buffer."""
        assert self._database is not None
        self.keys[self._database] += keys

    def flush_if_full(self) -> None:
        if len(self.buffer) >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        self._crc = crc64(self.buffer, self._crc)
        self._size += len(self.buffer)
        self._write(self.buffer)
        # A new one: whoever was given the old one may still hold it.
        self.buffer = bytearray()

    def copy(self, piece: memoryview) -> None:
        """Write a piece of a large value."""
        if len(piece) < _FLUSH_BYTES // 4:
            self.add(piece)
            return
        self.flush()
        self._crc = crc64(piece, self._crc)
        self._size += len(piece)
        self._write(bytes(piece))

    def finish(self) -> Written:
        """Write the end and the checksum."""
        self.buffer.append(codes.END)
        self.flush()
        footer = self._crc.to_bytes(codes.FOOTER_BYTES, "little")
        self._write(footer)
        return Written(
            keys={number: count for number, count in self.keys.items() if count},
            size_bytes=self._size + len(footer),
            crc64=self._crc,
        )


def reshape(
    sources: Sequence[Iterable[Buffer]],
    writes: Sequence[Write],
    *,
    shares: Sequence[Sequence[SlotRange]],
    ttl: TtlRule = keep_ttl,
    modules: Container[str] = frozenset(),
    keeps: Keeps | None = None,
) -> Reshaped:
    """Read the RDBs `sources`, one after the other, and write each record where its slot belongs.

    `shares[n]` are the slots of the RDB that `writes[n]` takes. Keys that `keeps` refuses, by the number
    of their source, their hash slot and their name, are left out. Memory does not grow with sizes.
    What was written is good only if this returns: RdbDamaged if a source turns out damaged at its
    end. NotRecoverable if a cluster of several masters would get databases other than 0.
    """
    if len(shares) != len(writes):
        raise ValueError("there must be as many shares of slots as RDBs to write")
    walkers = [RdbWalker(parts, modules=modules) for parts in sources]
    version = max(walker.version for walker in walkers)
    work = _Reshaping(
        [RdbWriter(write, version=version) for write in writes],
        slot_owners(shares),
        ttl,
        keeps=keeps,
    )
    for number, walker in enumerate(walkers):
        work.source = number
        for item in walker:
            work.take(item)
        work.following()
    written = tuple(writer.finish() for writer in work.writers)
    return Reshaped(
        written=written,
        keys_read=work.keys_read,
        keys_dropped=work.keys_read
        - work.keys_elsewhere
        - sum(sum(one.keys.values()) for one in written),
        conflicting_libraries=tuple(work.conflicts),
        all_verified=all(walker.is_verified for walker in walkers),
    )


def split_by_slot(
    source: Iterable[Buffer],
    writes: Sequence[Write],
    *,
    shares: Sequence[Sequence[SlotRange]],
    ttl: TtlRule = keep_ttl,
    modules: Container[str] = frozenset(),
) -> Reshaped:
    """One RDB becomes several, as `reshape` does it."""
    return reshape([source], writes, shares=shares, ttl=ttl, modules=modules)


def merge(
    sources: Sequence[Iterable[Buffer]],
    write: Write,
    *,
    ttl: TtlRule = keep_ttl,
    modules: Container[str] = frozenset(),
) -> Reshaped:
    """Several RDBs become one, as `reshape` does it."""
    everything = [[SlotRange(0, SLOTS - 1)]]
    return reshape(sources, [write], shares=everything, ttl=ttl, modules=modules)


def rewrite(
    source: Iterable[Buffer], write: Write, *, ttl: TtlRule, modules: Container[str] = frozenset()
) -> Reshaped:
    """One RDB becomes another one with other expiry times."""
    return merge([source], write, ttl=ttl, modules=modules)


class _Reshaping:
    """Where each thing that is read goes."""

    def __init__(
        self,
        writers: list[RdbWriter],
        owners: Sequence[int],
        ttl: TtlRule,
        *,
        keeps: Keeps | None,
    ) -> None:
        self.writers = writers
        self.source = 0
        self.keys_elsewhere = 0
        self._keeps = keeps
        self.keys_read = 0
        self.conflicts: list[str] = []
        self._owners = owners
        self._ttl = ttl
        self._seen: set[bytes] = set()
        self._libraries: dict[str, bytes] = {}
        self._hint: Resize | None = None
        self._hinted: set[int] = set()

    def following(self) -> None:
        """The next source begins: what the last one said of sizes is no longer true."""
        self._hint = None

    def take(self, item: RdbItem) -> None:
        if isinstance(item, Batch):
            self._batch(item)
        elif isinstance(item, LargeEntry):
            self._large(item)
        elif isinstance(item, Resize):
            self._hint = item
        elif isinstance(item, Function):
            self._function(item)
        elif isinstance(item, Aux):
            # Scripts stand here under the name `lua`, one each; the rest is the first RDB's word.
            word = item.raw if item.name == b"lua" else item.name
            if item.name not in _LEFT_BEHIND:
                self._everywhere(word, item.raw)
        else:
            assert isinstance(item, ModuleAux)
            self._everywhere(item.module.encode(), item.raw)

    def _everywhere(self, word: bytes, raw: bytes) -> None:
        if word not in self._seen:
            self._seen.add(word)
            for writer in self.writers:
                writer.add(raw)

    def _function(self, item: Function) -> None:
        known = self._libraries.setdefault(item.library, item.code)
        if known != item.code:
            self.conflicts.append(item.library)
        else:
            self._everywhere(item.code, item.raw)

    def _select(self, database: int) -> None:
        if database and len(self.writers) > 1:
            raise NotRecoverable(
                f"the RDB has keys in database {database}, and a cluster has only database 0",
                hint="Restore it into one server, not into a cluster.",
            )
        hint = self._hint
        is_hinted = hint is not None and hint.database == database and database not in self._hinted
        self._hinted.add(database)
        for writer in self.writers:
            if hint is not None and is_hinted:
                count = len(self.writers)
                writer.select(
                    database, keys=-(-hint.keys // count), expires=-(-hint.expires // count)
                )
            else:
                writer.select(database)

    def _batch(self, batch: Batch) -> None:
        self._select(batch.database)
        self.keys_read += len(batch.entries)
        if len(self.writers) == 1 and self._ttl is keep_ttl and self._keeps is None:
            # Records that follow each other are copied in one go.
            writer = self.writers[0]
            writer.buffer += memoryview(batch.window)[batch.entries[0][0] : batch.entries[-1][2]]
            writer.count(len(batch.entries))
            writer.flush_if_full()
            return
        outs = [writer.buffer for writer in self.writers]
        counts = [0] * len(outs)
        window, owners, ttl, mask = batch.window, self._owners, self._ttl, SLOTS - 1
        keeps, source = self._keeps, self.source
        is_kept, fields_expire = ttl is keep_ttl, codes.FIELDS_EXPIRE
        for begin, type_at, end, expires_ms, key in batch.entries:
            # A key with a brace may have a hash tag.
            slot = key_slot(key) if b"{" in key else crc_hqx(key, 0) & mask
            if keeps is not None and not keeps(source, slot, key):
                self.keys_elsewhere += 1
                continue
            owner = owners[slot]
            expiry = ttl(expires_ms)
            if not is_kept and expiry is not None and window[type_at] in fields_expire:
                outs[owner] += with_expiry(window[begin:type_at], expiry)
                outs[owner] += _with_fields(window, type_at, end, rule=ttl)
            elif expiry == expires_ms:
                outs[owner] += window[begin:end]
            elif expiry is None:
                continue
            else:
                outs[owner] += with_expiry(window[begin:type_at], expiry)
                outs[owner] += window[type_at:end]
            counts[owner] += 1
        for writer, count in zip(self.writers, counts, strict=True):
            writer.count(count)
            writer.flush_if_full()

    def _large(self, item: LargeEntry) -> None:
        self._select(item.database)
        self.keys_read += 1
        expiry, slot = self._ttl(item.expires_ms), key_slot(item.key)
        if self._keeps is not None and not self._keeps(self.source, slot, item.key):
            self.keys_elsewhere += 1
            return
        if expiry is None:
            return
        writer = self.writers[self._owners[slot]]
        is_kept = expiry == item.expires_ms
        writer.add(item.head if is_kept else with_expiry(item.head, expiry))
        writer.count(1)
        if self._ttl is keep_ttl or item.kind not in codes.FIELDS_EXPIRE:
            writer.add(item.name)
            item.copy_value(writer.copy)
        else:
            writer.add(bytes((type_after(item.kind),)) + item.name[1:])
            item.rewrite_value(writer.copy, self._ttl)


def _with_fields(window: bytes, type_at: int, end: int, *, rule: TtlRule) -> bytes:
    """Type, key and value of a hash whose fields expire, with the times that `rule` gives them."""
    kind = window[type_at]
    value_at = codes.skip_string(window, type_at + 1)
    value = rewritten_value(kind, window[value_at:end], rule)
    return bytes((type_after(kind),)) + window[type_at + 1 : value_at] + value


def with_expiry(head: bytes, expires_ms: int) -> bytes:
    """What stands before a record's type, with another expiry time or, for NEVER, with none."""
    kept = b""
    pos = 0
    while pos < len(head):
        code = head[pos]
        if code == codes.EXPIRE_MS:
            pos += 9
        elif code == codes.EXPIRE_SECONDS:
            pos += 5
        else:
            begin = pos
            pos = pos + 2 if code == codes.FREQUENCY else codes.read_length(head, pos + 1)[1]
            kept += head[begin:pos]
    if expires_ms == NEVER:
        return kept
    return bytes((codes.EXPIRE_MS,)) + expires_ms.to_bytes(8, "little", signed=True) + kept

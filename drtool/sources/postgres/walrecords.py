"""Finds records of chosen kinds in WAL, without reading the records between them.

Source: src/include/access/xlogrecord.h (XLogRecord) and xlog_internal.h (page headers) of PostgreSQL
15 to 18, which lay both out alike. A record is believed only if it is where WAL says that one begins,
and its CRC-32C, which covers all of it, is right.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import anycrc
import numpy as np
from numpy.typing import NDArray

from drtool.model.wal import Lsn

PAGE_BYTES = 8192
# A record may be 1 GiB long; a longer one than this (a commit of 16 million subtransactions) is passed over.
LONGEST_RECORD_BYTES = 64 << 20

_Words = NDArray[np.uint64]

_WORD = 8
_SHORT_HEADER_WORDS = 3
_LONG_HEADER_WORDS = 5
_PAGE_WORDS = PAGE_BYTES // _WORD
_SHORT_WORDS = _PAGE_WORDS - _SHORT_HEADER_WORDS
_LONG_WORDS = _PAGE_WORDS - _LONG_HEADER_WORDS
# XLogRecord: length and xid, xl_prev, and then info, resource manager, padding and CRC.
_HEADER_WORDS = 3
_HEADER_BYTES = 24
_CHECKED_HEADER_BYTES = 20
_FARTHEST_PREVIOUS = 1 << 31
_FIRST_IS_OVERWRITTEN = 0x0008
# XLOG_SWITCH: what follows it begins at the next segment.
_SWITCH = (0, 0x40)
_INFO_OF_MANAGER = 0xF0
# XLR_SPECIAL_REL_UPDATE and XLR_CHECK_CONSISTENCY, the bits of xl_info that are not the manager's own.
_COMMON_INFO = range(4)
_CRC = anycrc.Model("CRC32-ISCSI")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordKind:
    """A resource manager (RM_..._ID), and the bits of xl_info that are its own; None for all of them."""

    manager: int
    info: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WalRecord:
    """One record. `end` is where it ends, before any padding of the page that follows; `crc` is what
    stands in its header.
    """

    begin: Lsn
    end: Lsn
    xid: int
    manager: int
    info: int
    crc: int
    body: bytes = field(repr=False)


class WalRecordScanner:
    """Finds records of some kinds in WAL that is fed to it piece by piece. One thread at a time.

    Holds a page of WAL, or from the page where a record begins that is not there to its end, which is
    at most LONGEST_RECORD_BYTES. What is no WAL is passed over: nothing that is fed raises an error.
    """

    def __init__(self, kinds: Iterable[RecordKind], *, segment_bytes: int) -> None:
        self._is_wanted = np.zeros(1 << 16, dtype=np.bool_)
        for kind in kinds:
            for info in [kind.info] if kind.info is not None else range(0, 256, 16):
                for common in _COMMON_INFO:
                    self._is_wanted[kind.manager << 8 | info | common] = True
        self._places = _Places(segment_bytes)
        self._begin = self._next = Lsn(0)
        self._pieces: list[bytes] = []
        self._held = self._needed = 0
        self._told = Lsn(0)

    def feed(self, begin: Lsn, content: bytes | bytearray | memoryview) -> list[WalRecord]:
        """The records that are complete with `content`, which is the WAL from `begin` on, in order.

        WAL that does not go on where the last piece ended is begun anew at its first page's beginning.
        """
        if begin != self._next or not self._held:
            skipped = -begin % PAGE_BYTES
            self._begin, self._told = Lsn(begin + skipped), begin
            content = memoryview(content)[skipped:]
            self._pieces, self._held, self._needed = [], 0, 0
        self._pieces.append(bytes(content))
        self._held += len(content)
        self._next = Lsn(self._begin + self._held)
        if self._held < self._needed:
            return []
        raw = memoryview(b"".join(self._pieces))
        found: list[WalRecord] = []
        while True:
            pages = _Pages(raw, self._begin, self._places)
            found += self._scan(pages, raw)
            if pages.resumes is None:
                return found
            raw = raw[pages.resumes - self._begin :]
            self._begin = pages.resumes

    @property
    def may_go_on(self) -> bool:
        """Whether what was fed may end within a wanted record. A False is certain."""
        if self._needed:
            return True
        tail = b"".join(self._pieces)[-_HEADER_WORDS * _WORD :]
        lengths = [int.from_bytes(tail[at : at + 4], "little") for at in range(0, len(tail), _WORD)]
        return any(_HEADER_BYTES <= length <= LONGEST_RECORD_BYTES for length in lengths)

    def _scan(self, pages: _Pages, raw: memoryview) -> list[WalRecord]:
        found = []
        keep = max(0, len(pages.words) - _HEADER_WORDS + 1)
        needed = 0
        for at in self._candidates(pages):
            length = int(pages.words[at]) & 0xFFFFFFFF
            if at + -(-length // _WORD) > len(pages.words):
                keep, needed = at, length
                break
            begin = pages.lsn(at)
            if begin >= self._told and (record := pages.record(at, length)) is not None:
                found.append(record)
        if found:
            self._told = Lsn(found[-1].begin + 1)
        if pages.resumes is None:
            self._keep(raw, pages.lsn(keep), needed)
        return found

    def _candidates(self, pages: _Pages) -> Iterable[int]:
        """Where the header of a wanted record may stand: numbers of words, ascending."""
        words = pages.words
        if len(words) < _HEADER_WORDS:
            return []
        kinds = words[2:].view(np.uint32)[::2]
        at = np.flatnonzero(kinds < 1 << 16)
        at = at[self._is_wanted[kinds[at]]]
        length = words[at] & np.uint64(0xFFFFFFFF)
        at = at[(length >= _HEADER_BYTES) & (length <= LONGEST_RECORD_BYTES)]
        # Two records never lie so far apart as `_FARTHEST_PREVIOUS`; a number that is no position does.
        near = np.uint64(pages.end) - words[at + 1]
        at = at[(near <= _FARTHEST_PREVIOUS) & (words[at + 1] % _WORD == 0)]
        return [int(word) for word in at if pages.follows_previous(int(word))]

    def _keep(self, raw: memoryview, lsn: Lsn, needed: int) -> None:
        """Hold what belongs to records that are not there to their end, from a page's beginning on."""
        page = Lsn(lsn - lsn % PAGE_BYTES)
        rest = bytes(raw[page - self._begin :])
        self._pieces, self._held, self._begin = [rest], len(rest), page
        pages = needed // (_SHORT_WORDS * _WORD)
        self._needed = needed and lsn - page + needed + pages * _SHORT_HEADER_WORDS * _WORD


class _Places:
    """Which word of the records' bytes, page headers left out, lies at which position of the WAL."""

    def __init__(self, segment_bytes: int) -> None:
        self.segment_bytes = segment_bytes
        self._segment_words = _LONG_WORDS + (segment_bytes // PAGE_BYTES - 1) * _SHORT_WORDS

    def word(self, lsn: int) -> int:
        """The word at `lsn`, counted from position zero; of a page header, the first one behind it."""
        segment, offset = divmod(lsn, self.segment_bytes)
        page, inner = divmod(offset // _WORD, _PAGE_WORDS)
        if page == 0:
            return segment * self._segment_words + max(0, inner - _LONG_HEADER_WORDS)
        before = segment * self._segment_words + _LONG_WORDS + (page - 1) * _SHORT_WORDS
        return before + max(0, inner - _SHORT_HEADER_WORDS)

    def lsn(self, word: int) -> Lsn:
        """The position of a word."""
        segment, inner = divmod(word, self._segment_words)
        at = segment * self.segment_bytes
        if inner < _LONG_WORDS:
            return Lsn(at + (_LONG_HEADER_WORDS + inner) * _WORD)
        page, inner = divmod(inner - _LONG_WORDS, _SHORT_WORDS)
        return Lsn(at + (page + 1) * PAGE_BYTES + (_SHORT_HEADER_WORDS + inner) * _WORD)


class _Pages:
    """WAL from a page's beginning on: `words` are the records' bytes, the page headers left out.

    They end before the first page that does not say that it is where it is: behind a switch of
    segments all is zero. `resumes` is the next page that does, or that is not there to its end.
    """

    def __init__(self, raw: memoryview, begin: Lsn, places: _Places) -> None:
        self._places = places
        self._begin = begin
        whole = np.frombuffer(raw, np.uint64, len(raw) // _WORD)
        addresses = whole[1::_PAGE_WORDS]
        expected = begin + np.arange(len(addresses), dtype=np.uint64) * np.uint64(PAGE_BYTES)
        is_right = addresses == expected
        self.resumes: Lsn | None = None
        if not is_right.all():
            count = int(np.argmin(is_right))
            later = np.flatnonzero(is_right[count:])
            last = len(raw) // PAGE_BYTES
            following = count + int(later[0]) if len(later) else max(last, count + 1)
            self.resumes = Lsn(begin + following * PAGE_BYTES)
            whole = whole[: count * _PAGE_WORDS]
        self._raw = whole
        self.words = _without_headers(whole, begin, places.segment_bytes)
        self._first = places.word(begin)
        self.end = Lsn(begin + len(whole) * _WORD)

    def lsn(self, at: int) -> Lsn:
        return self._places.lsn(self._first + at)

    def record(self, at: int, length: int) -> WalRecord | None:
        """The record whose header is word `at`, if its CRC is right."""
        plain = self.words[at : at + -(-length // _WORD)].tobytes()[:length]
        crc = _CRC.calc(plain[:_CHECKED_HEADER_BYTES], _CRC.calc(plain[_HEADER_BYTES:]))
        if crc != int.from_bytes(plain[_CHECKED_HEADER_BYTES:_HEADER_BYTES], "little"):
            return None
        return WalRecord(
            begin=self.lsn(at),
            end=Lsn(self.lsn(at + -(-length // _WORD) - 1) + _WORD),
            xid=int.from_bytes(plain[4:8], "little"),
            manager=plain[17],
            info=plain[16],
            crc=crc,
            body=plain[_HEADER_BYTES:],
        )

    def follows_previous(self, at: int) -> bool:
        """Whether a record begins at word `at`: the one before ends there, or the page header says so.

        What looks like a record may be part of a table in which somebody keeps WAL.
        """
        lsn = self.lsn(at)
        previous = int(self.words[at + 1])
        if previous >= lsn:
            return False
        before = self._places.word(previous) - self._first
        if before < 0 or self._is_overwritten(lsn):
            return self._is_first_of_page(lsn)
        if before + _HEADER_WORDS > at:
            return False
        length = int(self.words[before]) & 0xFFFFFFFF
        kind = int(self.words[before + 2])
        if (kind >> 8 & 0xFF, kind & _INFO_OF_MANAGER) == _SWITCH:
            return lsn % self._places.segment_bytes == _LONG_HEADER_WORDS * _WORD
        return before + -(-length // _WORD) == at

    def _is_first_of_page(self, lsn: Lsn) -> bool:
        """Whether the header of its page says that the first record to begin there is at `lsn`."""
        page = lsn - lsn % PAGE_BYTES
        remaining = int(self._raw[(page - self._begin) // _WORD + 2]) & 0xFFFFFFFF
        is_long = page % self._places.segment_bytes == 0
        header = _LONG_HEADER_WORDS if is_long else _SHORT_HEADER_WORDS
        return page + (header + -(-remaining // _WORD)) * _WORD == lsn

    def _is_overwritten(self, lsn: Lsn) -> bool:
        """Whether a crash cut off the record before its page (XLP_FIRST_IS_OVERWRITE_CONTRECORD)."""
        page = lsn - lsn % PAGE_BYTES
        flags = int(self._raw[(page - self._begin) // _WORD]) >> 16
        return bool(flags & _FIRST_IS_OVERWRITTEN)


def _without_headers(whole: _Words, begin: Lsn, segment_bytes: int) -> _Words:
    """The words of pages that begin at `begin`; the last page may be cut short."""
    full = len(whole) // _PAGE_WORDS
    pages = whole[: full * _PAGE_WORDS].reshape(full, _PAGE_WORDS)
    per_segment = segment_bytes // PAGE_BYTES
    pieces = []
    page = 0
    while page < full:
        inner = (begin // PAGE_BYTES + page) % per_segment
        if inner == 0:
            pieces.append(pages[page, _LONG_HEADER_WORDS:])
            page += 1
            inner = 1
        end = min(full, page + per_segment - inner)
        pieces.append(pages[page:end, _SHORT_HEADER_WORDS:].reshape(-1))
        page = end
    is_long = (begin // PAGE_BYTES + full) % per_segment == 0
    header = _LONG_HEADER_WORDS if is_long else _SHORT_HEADER_WORDS
    pieces.append(whole[full * _PAGE_WORDS + header :])
    return np.concatenate(pieces)

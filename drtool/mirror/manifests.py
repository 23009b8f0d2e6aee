"""What each run leaves in the bucket: which object, in which version, was which file at that time.

`.drtool/runs/<time>-<id>.jsonl.zst`: lines of JSON, the first about the run, the last with counts, so
that a cut one is noticed. A `full` one holds every entry; one of `changes` what is different since
the run before. To know the mirror at a time: the newest full one, and the changes after it in order.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import IO, Any

import zstandard

from drtool.errors import IntegrityError, NotRecoverable
from drtool.mirror.catalogue import Catalogue
from drtool.mirror.entries import MirrorEntry, from_line
from drtool.mirror.keys import OWN, escape, unescape
from drtool.mirror.pages import pages
from drtool.model.origin import NOT_TOLD, Origin
from drtool.stores.bucket import SINGLE_PUT_BYTES, Bucket

FORMAT = 1
RUNS = f"{OWN}/runs"
_SUFFIX = ".jsonl.zst"
_TIME = "%Y%m%dT%H%M%S.%fZ"
_BATCH = 1000
_PIECE_BYTES = 1 << 20
_LONGEST_LINE_BYTES = 4 << 20


class RunKind(StrEnum):
    """`full` holds every entry, `changes` what differs from the run before."""

    FULL = "full"
    CHANGES = "changes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that ended at `ended`; the tree was read since `began`. An earlier drtool told no `origin`."""

    run_id: str
    kind: RunKind
    previous: str | None
    source: str
    began: datetime
    ended: datetime
    origin: Origin = NOT_TOLD


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A file that is no longer in the tree."""

    path: bytes


def run_key(run_id: str) -> str:
    """The object of a run's manifest."""
    return f"{RUNS}/{run_id}{_SUFFIX}"


def new_run_id(now: datetime, *, after: str | None) -> str:
    """An id that sorts after `after`, also where a clock was set back."""
    if after is not None:
        now = max(now, ended_at(after) + timedelta(microseconds=1))
    return f"{now.astimezone(UTC).strftime(_TIME)}-{secrets.token_hex(4)}"


def ended_at(run_id: str) -> datetime:
    """When the run ended."""
    return datetime.strptime(run_id.partition("-")[0], _TIME).replace(tzinfo=UTC)


def list_runs(bucket: Bucket, *, since: str | None = None) -> list[str]:
    """The ids of all runs, or of `since` and those after it, in order of time."""
    # A listing begins behind its offset, and some servers take no offset at all.
    offset = run_key(since)[:-1] if since is not None else None
    found = set()
    for met in bucket.list(RUNS, after=offset):
        name = met.key.rpartition("/")[2]
        if name.endswith(_SUFFIX):
            run_id = name.removesuffix(_SUFFIX)
            if since is None or run_id >= since:
                found.add(run_id)
    return sorted(found)


def put_run(bucket: Bucket, run: Run, lines: Iterable[str], *, gone: Iterable[bytes]) -> int:
    """Put a run's manifest; return how many lines it has. It counts once this returns."""
    with tempfile.TemporaryFile() as file:
        count = _write(file, run, lines, gone=gone)
        size = file.tell()
        file.seek(0)
        attributes = {"Content-Type": "application/zstd"}
        if size <= SINGLE_PUT_BYTES:
            bucket.put(run_key(run.run_id), file.read(), attributes)
        else:
            pieces = iter(lambda: file.read(_PIECE_BYTES), b"")
            bucket.put_stream(run_key(run.run_id), pieces, attributes, size_bytes=size)
    return count


def _write(file: IO[bytes], run: Run, lines: Iterable[str], *, gone: Iterable[bytes]) -> int:
    header = {
        "drtool_mirror_run": FORMAT,
        "run": run.run_id,
        "kind": str(run.kind),
        "previous": run.previous,
        "source": run.source,
        "began": run.began.isoformat(),
        "ended": run.ended.isoformat(),
        "origin": run.origin.to_json(),
    }
    entries = deleted = 0
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    with compressor.stream_writer(file, closefd=False) as packed:
        packed.write(json.dumps(header).encode() + b"\n")
        for path in gone:
            packed.write(json.dumps({"gone": escape(path)}, ensure_ascii=False).encode() + b"\n")
            deleted += 1
        for page in pages(lines):
            # At once: a call of the compressor for each line costs more than compressing it.
            packed.write("".join(f"{line}\n" for line in page).encode())
            entries += len(page)
        packed.write(
            json.dumps({"end": True, "entries": entries, "gone": deleted}).encode() + b"\n"
        )
    return entries + deleted


def read_header(bucket: Bucket, run_id: str) -> Run:
    """The first line alone."""
    lines = _lines(bucket, run_id)
    try:
        return _header(next(lines, b""), run_id)
    finally:
        lines.close()


def read_run(bucket: Bucket, run_id: str) -> Iterator[MirrorEntry | Tombstone]:
    """All that a run's manifest says, tombstones first; IntegrityError if it is not whole."""
    lines = _lines(bucket, run_id)
    _header(next(lines, b""), run_id)
    entries = deleted = 0
    for line in lines:
        if line.startswith(b'{"gone":'):
            deleted += 1
            yield Tombstone(unescape(_parsed(line, run_id)["gone"]))
        elif line.startswith(b'{"end":'):
            end = _parsed(line, run_id)
            if (end.get("entries"), end.get("gone")) != (entries, deleted):
                raise _unreadable(run_id, "its counts are wrong")
            return
        else:
            entries += 1
            yield from_line(line)
    raise _unreadable(run_id, "it is cut short")


def state_at(bucket: Bucket, moment: datetime | None) -> list[Run]:
    """The runs whose manifests, one after the other, say what the mirror was at `moment` (None: now).

    Empty if there is none that early. NotRecoverable if one of them is missing.
    """
    ids = [run_id for run_id in list_runs(bucket) if moment is None or ended_at(run_id) <= moment]
    chain: list[Run] = []
    for run_id in reversed(ids):
        run = read_header(bucket, run_id)
        chain.insert(0, run)
        if run.kind is RunKind.FULL:
            break
    else:
        if chain:
            raise _broken(chain[0].previous or "the first one")
    known = set(ids)
    for run in chain[1:]:
        if run.previous is not None and run.previous not in known:
            raise _broken(run.previous)
    return chain


def fold(bucket: Bucket, chain: Iterable[Run], catalogue: Catalogue) -> None:
    """Make an empty catalogue hold what the runs say."""
    for run in chain:
        # Signs of a file are good for what was read when that run began, and no later.
        read_ns = int(run.began.timestamp() * 1_000_000_000)
        entries: list[MirrorEntry] = []
        removed: list[bytes] = []
        for item in read_run(bucket, run.run_id):
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


def _lines(bucket: Bucket, run_id: str) -> Generator[bytes, None, None]:
    unpacked = zstandard.ZstdDecompressor().decompressobj()
    rest = b""
    try:
        for piece in bucket.stream(run_key(run_id)):
            *lines, rest = (rest + unpacked.decompress(piece)).split(b"\n")
            yield from lines
            if len(rest) > _LONGEST_LINE_BYTES:
                raise _unreadable(run_id, "a line of it has no end")
    except zstandard.ZstdError as error:
        raise _unreadable(run_id, str(error)) from error
    if rest:
        raise _unreadable(run_id, "it is cut short")


def _header(line: bytes, run_id: str) -> Run:
    record = _parsed(line, run_id)
    try:
        if record["drtool_mirror_run"] != FORMAT:
            raise _unreadable(run_id, f"its format is {record['drtool_mirror_run']}")
        return Run(
            run_id=run_id,
            kind=RunKind(record["kind"]),
            previous=record["previous"],
            source=record["source"],
            began=datetime.fromisoformat(record["began"]),
            ended=datetime.fromisoformat(record["ended"]),
            origin=Origin.from_json(record.get("origin") or {}),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise _unreadable(run_id, "its first line is not about a run") from error


def _parsed(line: bytes, run_id: str) -> dict[str, Any]:  # JSON, checked where it is used
    try:
        record = json.loads(line)
    except ValueError as error:
        raise _unreadable(run_id, "a line of it is no JSON") from error
    if not isinstance(record, dict):
        raise _unreadable(run_id, "a line of it is no object")
    return record


def _unreadable(run_id: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"the manifest of the mirror's run {run_id} cannot be used: {why}",
        hint="Run `drtool sync --rehash` to write a whole one; older moments need this one.",
    )


def _broken(missing: str) -> NotRecoverable:
    return NotRecoverable(
        f"the manifest of the mirror's run {missing} is missing, and later ones build on it",
        hint="Restore to a later moment; `drtool sync --rehash` writes a whole manifest.",
    )

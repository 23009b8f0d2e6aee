"""What each run leaves in the bucket: which object, in which version, was which file at that time.

`.drtool/runs/<time>-<id>.jsonl.zst`: lines of JSON, the first about the run, the last with counts, so
that a cut one is noticed. A `full` one holds every entry; one of `changes` what is different since
the run before. To know the mirror at a time: `mirror/chains.py`. Where the writer had a key, the first and
the last line hold codes by which its manifests are known: `mirror/run_key.py`.
"""

from __future__ import annotations

import json
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import IO

import zstandard

from drtool.mirror.entries import MirrorEntry, from_line
from drtool.mirror.keys import OWN, escape, unescape
from drtool.mirror.manifest_lines import parsed_line, unpacked_lines, unreadable
from drtool.mirror.pages import pages
from drtool.mirror.run_key import RunKey, is_same
from drtool.model.origin import NOT_TOLD, Origin
from drtool.model.strict_json import JsonObject
from drtool.stores.bucket import SINGLE_PUT_BYTES, Bucket

FORMAT = 1
RUNS = f"{OWN}/runs"
_SUFFIX = ".jsonl.zst"
_TIME = "%Y%m%dT%H%M%S.%fZ"
_RUN_ID = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{6}Z-[0-9a-f]{8}", re.ASCII)
_PIECE_BYTES = 1 << 20


class RunKind(StrEnum):
    """`full` holds every entry, `changes` what differs from the run before."""

    FULL = "full"
    CHANGES = "changes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that ended at `ended`; the tree was read since `began`. An earlier drtool told no `origin`.

    `is_signed`: its first line is from somebody who has the key of the mirror's runs.
    """

    run_id: str
    kind: RunKind
    previous: str | None
    source: str
    began: datetime
    ended: datetime
    origin: Origin = NOT_TOLD
    is_signed: bool = False


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


def is_run_id(run_id: str) -> bool:
    """Whether it is the name of a run: others may have put anything beside them."""
    if _RUN_ID.fullmatch(run_id) is None:
        return False
    try:
        ended_at(run_id)
    except ValueError:
        return False
    return True


def ended_at(run_id: str) -> datetime:
    """When the run ended."""
    return datetime.strptime(run_id.partition("-")[0], _TIME).replace(tzinfo=UTC)


def list_runs(bucket: Bucket, *, since: str | None = None) -> list[str]:
    """The ids of all runs, or of `since` and those after it, in order of time; no other names."""
    # A listing begins behind its offset, and some servers take no offset at all.
    offset = run_key(since)[:-1] if since is not None else None
    found = set()
    for met in bucket.list(RUNS, after=offset):
        name = met.key.rpartition("/")[2]
        if name.endswith(_SUFFIX):
            run_id = name.removesuffix(_SUFFIX)
            if is_run_id(run_id) and (since is None or run_id >= since):
                found.add(run_id)
    return sorted(found)


def put_run(
    bucket: Bucket, run: Run, lines: Iterable[str], *, gone: Iterable[bytes], key: RunKey | None
) -> int:
    """Put a run's manifest, signed with the key; return how many lines it has. It counts from then on."""
    with tempfile.TemporaryFile() as file:
        count = write_run(file, run, lines, gone=gone, key=key)
        size = file.tell()
        file.seek(0)
        attributes = {"Content-Type": "application/zstd"}
        if size <= SINGLE_PUT_BYTES:
            bucket.put(run_key(run.run_id), file.read(), attributes)
        else:
            pieces = iter(lambda: file.read(_PIECE_BYTES), b"")
            bucket.put_stream(run_key(run.run_id), pieces, attributes, size_bytes=size)
    return count


def write_run(
    file: IO[bytes],
    run: Run,
    lines: Iterable[str],
    *,
    gone: Iterable[bytes],
    key: RunKey | None,
) -> int:
    """The bytes of a manifest; how many lines it has."""
    header: dict[str, object] = {
        "drtool_mirror_run": FORMAT,
        "run": run.run_id,
        "kind": str(run.kind),
        "previous": run.previous,
        "source": run.source,
        "began": run.began.isoformat(),
        "ended": run.ended.isoformat(),
        "origin": run.origin.to_json(),
    }
    if key is not None:
        header["mac"] = key.header_mac(run.run_id, header)
    code = None if key is None else key.lines(run.run_id)
    entries = deleted = 0
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    with compressor.stream_writer(file, closefd=False) as packed:

        def write(text: bytes) -> None:
            packed.write(text)
            if code is not None:
                code.update(text)

        write(json.dumps(header).encode() + b"\n")
        for path in gone:
            write(json.dumps({"gone": escape(path)}, ensure_ascii=False).encode() + b"\n")
            deleted += 1
        for page in pages(lines):
            # At once: a call of the compressor for each line costs more than compressing it.
            write("".join(f"{line}\n" for line in page).encode())
            entries += len(page)
        end: dict[str, object] = {"end": True, "entries": entries, "gone": deleted}
        if code is not None:
            end["mac"] = code.hexdigest()
        packed.write(json.dumps(end).encode() + b"\n")
    return entries + deleted


def read_header(bucket: Bucket, run_id: str, key: RunKey | None) -> Run:
    """The first line alone."""
    lines = unpacked_lines(bucket.stream(run_key(run_id)), run_id)
    try:
        return parse_header(next(lines, b""), run_id, key)
    finally:
        lines.close()


def read_run(bucket: Bucket, run_id: str, key: RunKey | None) -> Iterator[MirrorEntry | Tombstone]:
    """All that a run's manifest says, tombstones first; IntegrityError if it is not whole.

    With a key it must be signed, which is known at its end: nothing that came before is to be used if
    that raises.
    """
    return parse_run(bucket.stream(run_key(run_id)), run_id, key)


def parse_run(
    pieces: Iterable[bytes], run_id: str, key: RunKey | None
) -> Iterator[MirrorEntry | Tombstone]:
    """The same from the bytes of a manifest."""
    lines = unpacked_lines(pieces, run_id)
    first = next(lines, b"")
    run = parse_header(first, run_id, key)
    if key is not None and not run.is_signed:
        raise unreadable(run_id, "its first line is not signed")
    code = None if key is None else key.lines(run_id)
    if code is not None:
        code.update(first + b"\n")
    entries = deleted = 0
    for line in lines:
        if line.startswith(b'{"end":'):
            end = parsed_line(line, run_id)
            members = end.members
            if (members.get("entries"), members.get("gone")) != (entries, deleted):
                raise unreadable(run_id, "its counts are wrong")
            if code is not None and not is_same(members.get("mac"), code.hexdigest()):
                raise unreadable(run_id, "its lines are not those that were signed")
            return
        if code is not None:
            code.update(line + b"\n")
        if line.startswith(b'{"gone":'):
            deleted += 1
            yield Tombstone(_gone(line, run_id))
        else:
            entries += 1
            yield from_line(line)
    raise unreadable(run_id, "it is cut short")


def _origin(record: JsonObject) -> Origin:
    if not record.has("origin"):
        return NOT_TOLD
    told = record.inner("origin")
    return Origin.from_json({name: list(told.texts(name)) for name in told.members})


def _gone(line: bytes, run_id: str) -> bytes:
    try:
        path = unescape(parsed_line(line, run_id).text("gone"))
    except ValueError as error:
        raise unreadable(run_id, f"a line of it is about no path: {error}") from error
    return path


def parse_header(line: bytes, run_id: str, key: RunKey | None) -> Run:
    """What the first line says; it is signed if `key` has signed it for this very run."""
    record = parsed_line(line, run_id)
    try:
        if record.whole("drtool_mirror_run") != FORMAT:
            raise unreadable(run_id, f"its format is {record.whole('drtool_mirror_run')}")
        previous = record.text("previous") if record.has("previous") else None
        if previous is not None and not is_run_id(previous):
            raise ValueError("what came before it is no run")
        wanted = None if key is None else key.header_mac(run_id, record.members)
        return Run(
            run_id=run_id,
            kind=RunKind(record.text("kind")),
            previous=previous,
            source=record.text("source"),
            began=record.moment("began"),
            ended=record.moment("ended"),
            origin=_origin(record),
            is_signed=wanted is not None and is_same(record.members.get("mac"), wanted),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise unreadable(run_id, f"its first line is not about a run: {error}") from error

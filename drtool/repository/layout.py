"""Where everything lies in a repository: the keys of its objects, made and read in one place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from drtool.errors import UsageError
from drtool.model.wal import Lsn
from drtool.repository.names import own_name, parse_timeline

ROOT = "drtool.json"
RESCUE_PROGRAM = "RESCUE/rescue.py"
RESCUE_TEXT = "RESCUE/README.txt"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_PART = re.compile(r"(?P<segment>[0-9A-F]{24})\.part-(?P<begin>[0-9A-F]{8})-(?P<end>[0-9A-F]{8})")
_PACK = re.compile(r"packs/(?P<spread>[0-9a-f]{2})/(?P<name>[0-9a-f]{32})")
_SEGMENT = re.compile(r"[0-9A-F]{24}")
_HISTORY = re.compile(r"([0-9A-F]{8})\.history")
_GAP = re.compile(r"(?P<begin>[0-9A-F]{16})-(?P<end>[0-9A-F]{16})")
_EVENT = re.compile(r"(?P<lsn>[0-9A-F]{16})-(?P<kind>[a-z][a-z0-9-]{0,30})")

_MARK = re.compile(r"(?P<stamp>[0-9]{8}/[0-9]{6}\.[0-9]{6})-(?P<position>[0-9A-F]{16})")
_OFFSET = re.compile(r"[0-9A-F]{16}")
_REPLICATION_ID = re.compile(r"[0-9a-f]{40}")


def checked_source(source: str) -> str:
    """`source` if it can stand in a key; UsageError otherwise."""
    if _NAME.fullmatch(source) is None:
        raise UsageError(
            f"{source!r} cannot be the name of a source",
            hint="Use lower-case letters, digits, dots, hyphens and underscores, at most 63.",
        )
    return source


def is_source(name: str) -> bool:
    """Whether a source can have that name."""
    return _NAME.fullmatch(name) is not None


def slots(repository_id: bytes) -> str:
    """Keys lie below their repository's id: what a creation cut off left behind is nobody's."""
    return f"keys/{repository_id.hex()}/slot-"


def slot_key(repository_id: bytes, slot_id: str) -> str:
    """A slot: JSON, readable without a key."""
    return f"{slots(repository_id)}{slot_id}.json"


def versions(repository_id: bytes) -> str:
    """What all key versions begin with."""
    return f"keys/{repository_id.hex()}/version-"


def version_key(repository_id: bytes, version: int) -> str:
    """A key version, wrapped by the master key."""
    return f"{versions(repository_id)}{version:04d}"


def parse_version_key(repository_id: bytes, key: str) -> int | None:
    """The number of a key version; None for anything else that somebody put beside it."""
    number = key.removeprefix(versions(repository_id))
    return int(number) if re.fullmatch(r"[0-9]{4,9}", number, re.ASCII) else None


def pack_key(pack_id: bytes) -> str:
    """Packs are spread over 256 directories by the first byte of their id."""
    name = pack_id.hex()
    return f"packs/{name[:2]}/{name}"


def is_pack_key(key: str) -> bool:
    """Whether it has the name of a pack."""
    match = _PACK.fullmatch(key)
    return match is not None and match["name"].startswith(match["spread"])


def manifests(source: str) -> str:
    """What all manifests of a source begin with."""
    return f"backups/{source}/"


def manifest_key(source: str, backup_id: str) -> str:
    """The object that makes a backup exist."""
    return f"{manifests(source)}{backup_id}"


def attempts(source: str) -> str:
    """What all attempts of a source begin with."""
    return f"attempts/{source}/"


def attempt_key(source: str, backup_id: str) -> str:
    """The word that a backup has begun."""
    return f"{attempts(source)}{backup_id}"


def system_log(source: str, system_id: int) -> str:
    """Everything logged by one cluster, named by its system identifier."""
    return f"log/{source}/{system_id}/"


@dataclass(frozen=True, slots=True)
class Lineage:
    """One timeline of one cluster: what a change log is a log of."""

    source: str
    system_id: int
    timeline: int

    @property
    def prefix(self) -> str:
        return f"{system_log(self.source, self.system_id)}{self.timeline:08X}/"

    def segment_key(self, segment: str) -> str:
        return f"{self.prefix}{segment}"

    def part_key(self, segment: str, begin: int, end: int) -> str:
        """The piece of a growing segment from byte `begin` up to, not including, byte `end`."""
        return f"{self.prefix}{segment}.part-{begin:08X}-{end:08X}"

    def gap_key(self, begin: Lsn, end: Lsn) -> str:
        """The record of WAL that is lost for good, from `begin` up to `end`."""
        return f"{self.prefix}gaps/{begin:016X}-{end:016X}"

    def event_key(self, lsn: Lsn, kind: str) -> str:
        """What the record at `lsn` says that a recovery must know before it meets it."""
        return f"{self.prefix}events/{lsn:016X}-{kind}"

    @property
    def marks(self) -> str:
        return f"{system_marks(self.source, self.system_id)}{self.timeline:08X}/"

    def mark_key(self, moment: datetime, lsn: int) -> str:
        return _mark_key(self.marks, moment, lsn)


def _mark_key(marks: str, moment: datetime, position: int) -> str:
    utc = moment.astimezone(UTC)
    stamp = utc.strftime("%H%M%S.") + f"{utc.microsecond:06d}"
    return f"{marks}{utc:%Y%m%d}/{stamp}-{position:016X}"


def system_marks(source: str, system_id: int) -> str:
    """All marks made on one cluster, below its timelines."""
    return f"marks/{source}/{system_id}/"


def histories(source: str, system_id: int) -> str:
    """What all timeline histories of a cluster begin with."""
    return f"{system_log(source, system_id)}histories/"


def history_key(source: str, system_id: int, timeline: int) -> str:
    """The history of one timeline."""
    return f"{histories(source, system_id)}{timeline:08X}.history"


@dataclass(frozen=True, slots=True)
class WholeSegment:
    """The name of a whole segment."""

    segment: str


@dataclass(frozen=True, slots=True)
class SegmentPart:
    """The name of bytes `begin` up to, not including, `end` of a segment."""

    segment: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class RecordedGap:
    """The name of the record that WAL from `begin` up to `end` is lost."""

    begin: Lsn
    end: Lsn


@dataclass(frozen=True, slots=True, order=True)
class EventName:
    """The name of what the record at `lsn` says."""

    lsn: Lsn
    kind: str


def parse_log_name(name: str) -> WholeSegment | SegmentPart | RecordedGap | EventName | None:
    """What a key below a lineage's prefix names; None for anything else."""
    name = own_name(name)
    if _SEGMENT.fullmatch(name):
        return WholeSegment(name)
    if part := _PART.fullmatch(name):
        return SegmentPart(part["segment"], int(part["begin"], 16), int(part["end"], 16))
    if name.startswith("gaps/") and (gap := _GAP.fullmatch(name.removeprefix("gaps/"))):
        return RecordedGap(Lsn(int(gap["begin"], 16)), Lsn(int(gap["end"], 16)))
    if name.startswith("events/") and (event := _EVENT.fullmatch(name.removeprefix("events/"))):
        return EventName(Lsn(int(event["lsn"], 16)), event["kind"])
    return None


def parse_history_name(name: str) -> int | None:
    """The timeline whose history `name` is, or None."""
    match = _HISTORY.fullmatch(own_name(name))
    return int(match[1], 16) if match else None


def is_named_in_log(name: str) -> bool:
    """Whether the log of a cluster can hold an object of that name, below the cluster's own directory."""
    directory, _, rest = name.partition("/")
    if directory == "histories":
        return parse_history_name(rest) is not None
    return parse_timeline(directory) is not None and parse_log_name(rest) is not None


def parse_mark_name(name: str) -> tuple[datetime, Lsn] | None:
    """`YYYYMMDD/HHMMSS.ffffff-LSN` to its moment and position; None for anything else."""
    match = _MARK.fullmatch(own_name(name))
    if match is None:
        return None
    try:
        moment = datetime.strptime(match["stamp"], "%Y%m%d/%H%M%S.%f").replace(tzinfo=UTC)
    except ValueError:
        return None
    return moment, Lsn(int(match["position"], 16))


def source_log(source: str) -> str:
    """Everything logged of one source."""
    return f"log/{source}/"


def source_marks(source: str) -> str:
    """All marks of one source."""
    return f"marks/{source}/"


def topologies(source: str) -> str:
    """What the records of a cluster's topology begin with."""
    return f"{source_log(source)}topology/"


def is_replication_id(name: str) -> bool:
    """Whether a directory of a source's log is a history of Redis, named by its replication id."""
    return _REPLICATION_ID.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class ReplicationHistory:
    """One replication id of a Redis: what its stream is a log of."""

    source: str
    replication_id: str

    def __post_init__(self) -> None:
        if not is_replication_id(self.replication_id):
            raise ValueError(f"not a replication id: {self.replication_id!r}")

    @property
    def prefix(self) -> str:
        return f"{source_log(self.source)}{self.replication_id}/"

    def segment_key(self, begin: int, end: int) -> str:
        """The bytes from offset `begin` up to, not including, offset `end`."""
        return f"{self.prefix}{begin:016X}-{end:016X}"

    def link_key(self, offset: int) -> str:
        """The word that this history has another one's bytes before `offset`."""
        return f"{self.prefix}continues/{offset:016X}"

    def begin_key(self, offset: int) -> str:
        """The word that the log begins here anew, and is joined to nothing before."""
        return f"{self.prefix}begins/{offset:016X}"

    @property
    def late(self) -> str:
        """What the words that bytes arrived late begin with."""
        return f"{self.prefix}late/"

    def late_key(self, name: StreamLateName) -> str:
        """The word that bytes arrived late; without an end, that nobody had caught up yet."""
        end = "" if name.end is None else f"-{name.end:016X}"
        return f"{self.late}{name.begin:016X}{end}"

    @property
    def marks(self) -> str:
        return f"marks/{self.source}/{self.replication_id}/"

    def mark_key(self, moment: datetime, offset: int) -> str:
        return _mark_key(self.marks, moment, offset)

    @property
    def known(self) -> str:
        """What tells of the objects of this log begins with it."""
        return f"{self.marks}known/"

    def known_key(self, name: str) -> str:
        """The copy of the word `name` of this log."""
        return f"{self.known}{name}"

    def reached_key(self, offset: int) -> str:
        """The word that the log was durable up to `offset`."""
        return f"{self.known}reached/{offset:016X}"


@dataclass(frozen=True, slots=True)
class StreamSegment:
    """The name of the bytes `begin` up to, not including, `end` of a history."""

    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class StreamLinkName:
    """The name of a link at `offset`."""

    offset: int


@dataclass(frozen=True, slots=True)
class StreamBeginName:
    """The name of a beginning at `offset`."""

    offset: int


@dataclass(frozen=True, slots=True)
class StreamLateName:
    """The name of a stretch that arrived late; `end` None: nobody had caught up when it was put."""

    begin: int
    end: int | None


def parse_reached_name(name: str) -> int | None:
    """The offset of `reached/<offset>`; None for anything else."""
    kind, _, offset = own_name(name).partition("/")
    return int(offset, 16) if kind == "reached" and _OFFSET.fullmatch(offset) else None


StreamName = StreamSegment | StreamLinkName | StreamBeginName | StreamLateName


def parse_stream_name(name: str) -> StreamName | None:
    """What a key below a replication history's prefix names; None for anything else."""
    name = own_name(name)
    if segment := _GAP.fullmatch(name):
        begin, end = int(segment["begin"], 16), int(segment["end"], 16)
        return StreamSegment(begin, end) if begin < end else None
    kind, _, offset = name.partition("/")
    if kind == "late" and (late := _GAP.fullmatch(offset)):
        return StreamLateName(int(late["begin"], 16), int(late["end"], 16))
    if _OFFSET.fullmatch(offset) is None:
        return None
    if kind == "continues":
        return StreamLinkName(int(offset, 16))
    if kind == "late":
        return StreamLateName(int(offset, 16), None)
    return StreamBeginName(int(offset, 16)) if kind == "begins" else None


def lease_key(name: str) -> str:
    """A lease: plain JSON, the only kind of object that is ever replaced."""
    return f"leases/{name}"


def evidence_key(kind: str, name: str) -> str:
    """A record of what was done or found."""
    return f"evidence/{kind}/{name}"

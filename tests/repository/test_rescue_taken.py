"""rescue.py reads what was put beside a name that somebody had taken, as drtool does (FORMAT.md, 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from drtool.model.wal import WalSegment
from drtool.repository import layout
from drtool.repository.backups import backup_ids, read_manifests
from drtool.repository.layout import Lineage
from drtool.repository.log import put_history, put_part, read_history, read_segment
from drtool.repository.repository import Repository, open_repository
from tests.repository.building import (
    MIB,
    SECRET,
    SYSTEM,
    a_tree,
    put_segments,
    store_tree,
    wal_bytes,
)
from tests.repository.test_rescue import Bench, succeeded

LINEAGE = Lineage("main", SYSTEM, 1)
BACKUP = "20240501T100000Z-000001"
WHOLE, TAIL = WalSegment(1, 3).name(MIB), WalSegment(1, 4).name(MIB)
HISTORY = b"1\t0/300000\tno reason\n"
# What is ours comes after these, and so beside them.
TAKEN = (
    layout.manifest_key("main", BACKUP),
    LINEAGE.segment_key(WHOLE),
    LINEAGE.part_key(TAIL, 0, 8192),
    LINEAGE.part_key(TAIL, 8192, 9000),
    layout.history_key("main", SYSTEM, 2),
)
# What is ours is not kept from anybody by these.
ADDED = (
    LINEAGE.segment_key(TAIL),
    LINEAGE.part_key(TAIL, 0, MIB),
    f"log/main/{SYSTEM}/000000FF/{WHOLE}",
    f"log/main/{SYSTEM}/ZZZZZZZZ/{WHOLE}",
    f"log/main/7/00000001/{WHOLE}",
    "log/main/zz/x",
    f"backups/\x1b[2J/{BACKUP}",
)


@dataclass(frozen=True)
class Made:
    """A repository on disk, and the last segment of its log."""

    bench: Bench
    tail: bytes


@pytest.fixture
def made(tmp_path: Path) -> Made:
    bench = Bench(tmp_path)
    for number, key in enumerate((*TAKEN, *ADDED)):
        path = bench.place / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if number % 2 else b"DRTOOL1L" + bytes(3) + b"\1" + bytes(90))
    store_tree(bench.repository, a_tree(tmp_path / "tree", {"base/1": b"what was stored"}))
    put_segments(bench.repository, [3])
    tail = bytearray(wal_bytes(4)[:9000])
    tail[32:36] = MIB.to_bytes(4, "little")
    for begin, end in ((0, 8192), (8192, 9000)):
        part = layout.SegmentPart(TAIL, begin, end)
        put_part(bench.repository, LINEAGE, part, plain=tail[begin:end])
    put_history(bench.repository, "main", SYSTEM, timeline=2, content=HISTORY)
    return Made(bench, bytes(tail).ljust(MIB, b"\0"))


def read_by_drtool(repository: Repository) -> dict[str, bytes]:
    """The WAL that a restore gets."""
    numbers = {WHOLE: 3, TAIL: 4}
    return {
        name: read_segment(repository, LINEAGE, WalSegment(1, number), segment_bytes=MIB)
        for name, number in numbers.items()
    }


def require_all_of_it(made: Made, root: Path) -> str:
    """Both readers bring back all that was stored; what rescue.py said of the rest."""
    root.mkdir()
    repository = open_repository(made.bench.store, SECRET)
    wal = {WHOLE: wal_bytes(3), TAIL: made.tail}

    listed = succeeded(made.bench.rescue("list"))
    succeeded(made.bench.rescue("restore", "main", BACKUP, root / "back"))
    extracted = succeeded(made.bench.rescue("wal", "main", root / "wal"))

    assert read_by_drtool(repository) == wal
    assert read_history(repository, "main", SYSTEM, timeline=2).path() == (1, 2)
    assert backup_ids(repository, "main") == [BACKUP]
    assert [one.backup_id for one in read_manifests(repository, "main")[0]] == [BACKUP]
    assert f"main {BACKUP} ended" in listed.stdout
    assert (root / "back/base/1").read_bytes() == b"what was stored"
    found = {path.name: path.read_bytes() for path in (root / "wal").iterdir()}
    assert found == {**wal, "00000002.history": HISTORY}
    return listed.stderr + extracted.stderr + made.bench.rescue("verify").stderr


def test_what_was_put_beside_a_taken_name_comes_back_by_both_readers(
    made: Made, tmp_path: Path
) -> None:
    """What took a name may also go again, by its author or by `verify --repair`."""
    told = require_all_of_it(made, tmp_path / "with junk")

    assert not [key for key in TAKEN if f"{key} " in told], told
    assert LINEAGE.segment_key(TAIL) in told
    assert "\x1b" not in told

    for key in TAKEN:
        made.bench.store.delete(key)
    require_all_of_it(made, tmp_path / "without")

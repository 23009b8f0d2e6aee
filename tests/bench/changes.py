"""What an increment stores, beside the changed pages themselves, packed as tightly."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import zstandard

from tests.backup.reading import relation_files
from tests.bench.backups import pg_basebackup
from tests.bench.bed import Bed, answer, settle
from tests.bench.measuring import Figures, mib, run

UPDATES = 30_000
_PAGE = 8192
_BLOCK = 256 << 10
# Hot rows lie all over the table, as those of a real application do.
_SCRIPT = """\
\\set hot random_zipfian(1, {rows}, 1.07)
\\set id permute(:hot, {rows}) + 1
update events set amount = amount + 1 where id = :id;
insert into events select nextval('more'), now(), kind, email, amount, payload from events where id = :id;
"""


def bench_changes(bed: Bed) -> None:
    """Copies of the data directory before and after tell independently what has changed."""
    bed.drtool("backup", repository="changes")
    pg_basebackup(bed, "before", "-Fp")
    _write(bed)
    settle()
    cost = bed.drtool("backup", repository="changes")
    pg_basebackup(bed, "after", "-Fp")
    changed, packed = _changed_pages(bed.root / "before", bed.root / "after")

    stored = int(answer(cost)["stored_bytes"])
    figures = Figures(f"{UPDATES:,} zipfian updates and as many inserts")
    figures.tell("changed pages", f"{changed:,}", mib(changed * _PAGE))
    figures.tell("the same, zstd:1 in blocks of 256 KiB", mib(packed))
    figures.tell("stored by drtool", mib(stored), f"{stored / packed:.3f} of that")
    figures.tell("wall time", f"{cost.seconds:.2f} s")
    figures.tell("processor", f"{cost.cpu_seconds:.2f} s")
    figures.tell("peak memory", mib(cost.peak_bytes))
    figures.print()
    for name in ("before", "after"):
        shutil.rmtree(bed.root / name)
    bed.forget("changes")


def _write(bed: Bed) -> None:
    bed.server.query(f"create sequence more start {2 * bed.rows}")
    script = bed.root / "write.sql"
    script.write_text(_SCRIPT.format(rows=bed.rows))
    each = UPDATES // 4
    run(
        [bed.peer("pgbench"), "-n", "-c", "4", "-t", str(each), "-f", str(script), bed.server.dsn()]
    )


def _changed_pages(before: Path, after: Path) -> tuple[int, int]:
    """How many pages differ, and their size when packed block by block."""
    earlier = relation_files(before)
    compressor = zstandard.ZstdCompressor(level=1)
    waiting = bytearray()
    changed = packed = 0
    for name, path in sorted(relation_files(after).items()):
        now = _pages(path)
        old = _pages(earlier[name]) if name in earlier else now[:0]
        common = min(len(now), len(old))
        differs = np.ones(len(now), bool)
        differs[:common] = (now[:common] != old[:common]).any(axis=1)
        changed += int(differs.sum())
        waiting += now[differs].tobytes()
        while len(waiting) >= _BLOCK:
            packed += len(compressor.compress(bytes(waiting[:_BLOCK])))
            del waiting[:_BLOCK]
    return changed, packed + len(compressor.compress(bytes(waiting)))


def _pages(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    content = path.read_bytes()
    whole = content + bytes(-len(content) % _PAGE)
    return np.frombuffer(whole, np.uint8).reshape(-1, _PAGE)

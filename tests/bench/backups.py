"""Full and unchanged backups beside `pg_basebackup -Ft --compress=client-zstd:1`."""

from __future__ import annotations

import shutil

from tests.bench.bed import Bed, answer, settle
from tests.bench.measuring import Cost, Figures, mib, run


def pg_basebackup(bed: Bed, name: str, *options: str) -> Cost:
    """A copy by PostgreSQL's own program, without WAL, in a new directory below the root."""
    place = bed.root / name
    shutil.rmtree(place, ignore_errors=True)
    command = [bed.peer("pg_basebackup"), "-D", str(place), "-d", bed.server.dsn(), "-c", "fast"]
    return run([*command, "-X", "none", *options])


def bench_backup(bed: Bed, rounds: int) -> None:
    """Interleaved, so that what else happens on the machine happens to both."""
    ours, theirs, stored, read = [], [], [], 0
    for number in range(rounds):
        bed.forget("full")
        bed.drtool("repository", "info", repository="full")
        settle()
        ours.append(bed.drtool("backup", repository="full"))
        stored.append(float(answer(ours[-1])["stored_bytes"]))
        read = int(answer(ours[-1])["read_bytes"])
        settle()
        theirs.append(pg_basebackup(bed, "tar", "-Ft", "--compress=client-zstd:1"))
        print(
            f"  round {number + 1}: {ours[-1].seconds:.2f} s, {theirs[-1].seconds:.2f} s",
            flush=True,
        )
    size = float(sum(path.stat().st_size for path in (bed.root / "tar").iterdir()))

    figures = Figures(f"full backup of {mib(read)}", "pg_basebackup -Ft zstd:1")
    _compare(figures, ours, theirs)
    inside = [float(answer(one)["seconds"]) for one in ours]
    figures.compare(
        "wall time within, its WAL included", inside, [one.seconds for one in theirs], unit="s"
    )
    megabytes = 1 << 20
    figures.compare("stored", [one / megabytes for one in stored], [size / megabytes], unit="MiB")
    figures.print()

    settle()
    again = bed.drtool("backup", repository="full")
    figures = Figures("second backup, nothing changed")
    figures.tell(
        "wall time",
        f"{again.seconds:.2f} s",
        f"{again.seconds / ours[-1].seconds:.2f} of a full one",
    )
    figures.tell("wall time within", f"{answer(again)['seconds']:.2f} s")
    figures.tell("processor", f"{again.cpu_seconds:.2f} s")
    bytes_stored = int(answer(again)["stored_bytes"])
    figures.tell(
        "stored",
        f"{bytes_stored:,} bytes",
        f"{100 * bytes_stored / stored[-1]:.4f} % of a full one",
    )
    figures.print()
    bed.forget("full")
    shutil.rmtree(bed.root / "tar")


def _compare(figures: Figures, ours: list[Cost], theirs: list[Cost]) -> None:
    figures.compare(
        "wall time", [one.seconds for one in ours], [one.seconds for one in theirs], unit="s"
    )
    figures.compare(
        "processor",
        [one.cpu_seconds for one in ours],
        [one.cpu_seconds for one in theirs],
        unit="s",
    )
    figures.compare(
        "peak memory",
        [one.peak_bytes / (1 << 20) for one in ours],
        [one.peak_bytes / (1 << 20) for one in theirs],
        unit="MiB",
    )

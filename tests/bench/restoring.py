"""Bringing the base back, beside unpacking the tar of pg_basebackup."""

from __future__ import annotations

import shutil

from tests.bench.backups import pg_basebackup
from tests.bench.bed import Bed, answer, settle
from tests.bench.measuring import Figures, run


def bench_restore(bed: Bed, rounds: int) -> None:
    """drtool's whole restore also replays, starts and verifies; its `fetch` is what tar does."""
    backup = answer(bed.drtool("backup", repository="restore"))
    pg_basebackup(bed, "tar", "-Ft", "--compress=client-zstd:1")
    fetch, whole, cpu, peak, tar, tar_cpu = [], [], [], [], [], []
    size = int(backup["read_bytes"])
    phases: dict[str, float] = {}
    for number in range(rounds):
        into = bed.root / "restored"
        settle()
        cost = bed.drtool(
            "restore", "main-db", "--backup", backup["backup_id"], "--into", str(into),
            repository="restore",
        )  # fmt: skip
        [outcome] = answer(cost)["outcomes"]
        phases = {phase["name"]: phase["seconds"] for phase in outcome["phases"]}
        fetch.append(phases["fetch"])
        whole.append(cost.seconds)
        cpu.append(cost.cpu_seconds)
        peak.append(cost.peak_bytes / (1 << 20))
        shutil.rmtree(into)
        into.mkdir()
        settle()
        script = f"zstd -dcq {bed.root}/tar/base.tar.zst | tar -x -C {into} && sync -f {into}"
        theirs = run(["sh", "-c", script])
        tar.append(theirs.seconds)
        tar_cpu.append(theirs.cpu_seconds)
        shutil.rmtree(into)
        print(f"  round {number + 1}: {fetch[-1]:.2f} s, {tar[-1]:.2f} s", flush=True)

    figures = Figures("restore of the base", "zstd | tar -x, synced")
    figures.compare("files in place", fetch, tar, unit="s")
    rates = [[size / one / 1e6 for one in times] for times in (fetch, tar)]
    figures.compare("rate", rates[0], rates[1], unit="MB/s")
    figures.compare("processor, drtool's with replay and checks", cpu, tar_cpu, unit="s")
    figures.tell("whole command", f"{sorted(whole)[len(whole) // 2]:.2f} s")
    figures.tell("peak memory", f"{max(peak):.0f} MiB")
    for name, seconds in phases.items():
        figures.tell(f"  phase {name}", f"{seconds:.2f} s")
    figures.print()
    bed.forget("restore")
    shutil.rmtree(bed.root / "tar")

"""Run a command and see what it cost; put figures side by side."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

DRTOOL = str(Path(sys.executable).with_name("drtool"))


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run took. Processor time and memory are those of the command and its children."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    printed: str


def run(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    accepted: Sequence[int] = (0,),
) -> Cost:
    """Run it to its end; RuntimeError with what it said if its exit status is not `accepted`."""
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=said,
            env={**_environ(), **(environment or {})},
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        said.seek(0)
        if process.returncode not in accepted:
            raise RuntimeError(f"{command}: {said.read().decode()[-3000:]}")
        output = printed.read().decode()
    cpu = used.ru_utime + used.ru_stime
    return Cost(seconds, cpu, used.ru_maxrss * 1024, output)


def _environ() -> dict[str, str]:
    """As on a user's machine: where no byte code may be kept, all of drtool is compiled at each start."""
    return {name: at for name, at in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def cpu_seconds_of(pid: int) -> float:
    """User and system time of a running process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_bytes_of(pid: int) -> int:
    """The largest that a running process has been."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} tells no VmHWM")


def wait_until(is_so: Callable[[], bool], what: str, *, seconds: float = 300) -> None:
    """Look again and again; RuntimeError if it never is so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(f"after {seconds:g} s still not so: {what}")
        time.sleep(0.05)


@dataclass(slots=True)
class Figures:
    """Lines of a table: what was measured, ours, the peer's, and ours divided by the peer's."""

    title: str
    peer: str = ""
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def compare(
        self, name: str, ours: Sequence[float], theirs: Sequence[float], *, unit: str
    ) -> None:
        """Medians, with their ranges, and the ratio of the medians."""
        ratio = statistics.median(ours) / statistics.median(theirs)
        self.rows.append((name, _range(ours, unit), _range(theirs, unit), f"{ratio:.2f}"))

    def tell(self, name: str, value: str, note: str = "") -> None:
        """A figure without a peer."""
        self.rows.append((name, value, note, ""))

    def print(self) -> None:
        """To standard output, in columns."""
        lines = [(self.title, "drtool", self.peer, "ratio" if self.peer else ""), *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(4)]
        for number, line in enumerate(lines):
            cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
            print("  ".join(cells).rstrip())
            if not number:
                print("  ".join("-" * width for width in widths).rstrip())
        print(flush=True)


def _range(values: Sequence[float], unit: str) -> str:
    middle = statistics.median(values)
    if len(values) == 1:
        return f"{middle:.2f} {unit}"
    return f"{middle:.2f} {unit} ({min(values):.2f}-{max(values):.2f})"


def mib(size: float) -> str:
    """Bytes as MiB."""
    return f"{size / (1 << 20):.1f} MiB"

"""`drtool demo`, as somebody would run it who has never seen it: the whole story on this machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.site import DRTOOL
from tests.servers.postgres import server_directory

pytestmark = pytest.mark.postgres
LIMIT_SECONDS = 180


def places(scratch: Path) -> set[str]:
    """What lies in the temporary directory now, but the report that was asked for."""
    return {path.name for path in scratch.iterdir() if path.suffix != ".html"}


def processes_in(scratch: Path) -> list[str]:
    """Command lines and working directories that name the demo's directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            place = os.readlink(process / "cwd")
        except OSError:
            continue  # it has ended
        if str(scratch) in line or place.startswith(str(scratch)):
            found.append(f"{line} in {place}")
    return found


def test_the_demo_recovers_what_it_destroyed_and_leaves_nothing_behind() -> None:
    scratch = server_directory("drtool-demo-test-")
    report = scratch / "report.html"

    done = subprocess.run(
        [DRTOOL, "demo", "--seconds", "2", "--report", str(report)],
        env={**os.environ, "TMPDIR": str(scratch), "NO_COLOR": "1"},
        cwd=scratch, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False,
    )  # fmt: skip

    told = f"{done.stdout}\n{done.stderr}"
    try:
        assert done.returncode == 0, told
        assert done.stdout.count("MET     RPO") == 2, told
        assert done.stdout.count("MET     RTO") == 2, told
        assert "MISSED" not in done.stdout
        assert "acknowledged writes were lost" in done.stdout
        assert str(report) in told
        assert "</svg>" in report.read_text()
        assert places(scratch) == set()
        assert processes_in(scratch) == []
    finally:
        subprocess.run(["rm", "-rf", str(scratch)], check=True)

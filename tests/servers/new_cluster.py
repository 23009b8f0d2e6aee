"""New clusters quickly: initdb runs once for each set of options, and what it made is copied.

A copy is as new as what initdb makes: its files are young, and its system identifier is its own.
"""

from __future__ import annotations

import secrets
import shutil
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_CASTAGNOLI = 0x82F63B78
# Of the page header with which each file of WAL begins (access/xlog_internal.h).
_IDENTIFIER_IN_WAL = 24
_made: dict[tuple[str, ...], Path] = {}


def new_cluster(
    data: Path,
    options: tuple[str, ...],
    *,
    make: Callable[[Path], object],
    copy: Callable[[Path, Path], object],
) -> None:
    """Let `data` be a new cluster, as `make` makes one; `options` are all that it depends on."""
    if options not in _made:
        root = Path(tempfile.mkdtemp(prefix="drtool-test-new-", dir="/tmp"))
        root.chmod(0o777)
        _made[options] = root
        make(root / "data")
    copy(_made[options] / "data", data)
    _identify(data, (int(time.time()) << 32) | secrets.randbits(32))


def forget_clusters() -> None:
    """Remove what copies were made of."""
    while _made:
        shutil.rmtree(_made.popitem()[1], ignore_errors=True)


def _identify(data: Path, system_id: int) -> None:
    """Write another system identifier into a cluster that was never started."""
    identifier = struct.pack("=Q", system_id)
    control = data / "global" / "pg_control"
    content = control.read_bytes()
    begin = _checksummed(content)
    checked = identifier + content[len(identifier) : begin]
    content = checked + struct.pack("=I", _crc32c(checked)[-1]) + content[begin + 4 :]
    with control.open("r+b") as file:
        file.write(content)
    for segment in (path for path in (data / "pg_wal").iterdir() if path.is_file()):
        with segment.open("r+b") as file:
            if any(file.read(2)):  # else nothing is in it yet
                file.seek(_IDENTIFIER_IN_WAL)
                file.write(identifier)


def _checksummed(control: bytes) -> int:
    """How many bytes of a control file its checksum is of: it stands behind them, and differs by release."""
    checksums = _crc32c(control[:1024])
    for begin in range(64, 1024, 4):
        if struct.unpack_from("=I", control, begin)[0] == checksums[begin]:
            return begin
    raise AssertionError("a control file without a checksum")


def _crc32c(content: bytes) -> list[int]:
    """The checksum of each beginning of `content`, the empty one first."""
    state = 0xFFFFFFFF
    found = [0]
    for byte in content:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (_CASTAGNOLI if state & 1 else 0)
        found.append(state ^ 0xFFFFFFFF)
    return found

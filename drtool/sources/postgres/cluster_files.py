"""Whether a directory holds a PostgreSQL's data: known by the files that every one of them has."""

from __future__ import annotations

import os
import re
from itertools import islice
from pathlib import Path

# A data directory has both but for a new one; each database's directory has the first.
_MARKS = ("PG_VERSION", "postmaster.pid")
# What a server makes in the directory of a tablespace: PG_15_202209061.
_TABLESPACE = re.compile(r"PG_[0-9.]+_[0-9]+")
_MOST_NAMES = 10_000


def holds_cluster(directory: Path) -> bool:
    """Whether files of a cluster lie in `directory` itself: of its data directory, or of a tablespace."""
    if any(os.path.lexists(directory / name) for name in _MARKS):
        return True
    try:
        with os.scandir(directory) as names:
            return any(_TABLESPACE.fullmatch(one.name) for one in islice(names, _MOST_NAMES))
    except OSError:
        return False

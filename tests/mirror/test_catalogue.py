"""What the catalogue takes for unchanged: the same as the rule for one file, though in one statement."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from drtool.mirror.catalogue import open_catalogue
from drtool.mirror.entries import MirrorEntry
from drtool.sources.files.entries import TreeEntry, TreeKind
from drtool.sources.files.unchanged import MARGIN_NS, is_unchanged, signs_of

_READ_NS = 1_700_000_000 * 10**9


def test_the_files_to_read_are_those_that_the_rule_does_not_call_unchanged(tmp_path: Path) -> None:
    times = [_READ_NS - MARGIN_NS + step for step in (-(10**9), -1, 0, 1, 10**10)]
    known = [_file(number, *pair) for number, pair in enumerate(itertools.product(times, times))]
    changes: list[dict[str, Any]] = [  # fields of TreeEntry
        {},
        {"size_bytes": 8},
        {"modified_ns": 1},
        {"changed_ns": 1},
        {"inode": 1},
    ]
    for number, change in enumerate(changes):
        found = [entry._replace(**change) for entry in known]
        catalogue = open_catalogue(tmp_path / f"{number}.sqlite", identity="x")
        try:
            catalogue.record(map(_stored, known), read_ns=_READ_NS, is_pending=False)
            catalogue.saw(found)
            catalogue.plan_files(trusts_signs=True)
            planned = {job.path for job in catalogue.jobs()}
        finally:
            catalogue.close()

        assert planned == {
            now.path
            for now, then in zip(found, known, strict=True)
            if not is_unchanged(now, signs_of(then), horizon_ns=_READ_NS)
        }


def _stored(entry: TreeEntry) -> MirrorEntry:
    return MirrorEntry(tree=entry, content="0" * 64)


def _file(number: int, modified_ns: int, changed_ns: int) -> TreeEntry:
    return TreeEntry(
        path=b"f%02d" % number,
        kind=TreeKind.FILE,
        mode=0o644,
        uid=0,
        gid=0,
        owner=None,
        group=None,
        modified_ns=modified_ns,
        changed_ns=changed_ns,
        inode=(1 << 64) - 1,
        device=0,
        links=1,
        size_bytes=7,
    )

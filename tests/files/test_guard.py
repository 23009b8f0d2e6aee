"""A source that is empty, unmounted, shrunken or encrypted raises an alarm, and a sound one none."""

from __future__ import annotations

import gzip
import os
import random
from pathlib import Path

import pytest

from drtool.sources.files.guard import (
    AlarmKind,
    ChangeCounts,
    PlaceSigns,
    entropy_bits,
    has_sentinel,
    judge_changes,
    judge_place,
    judge_sentinel,
    look_at_place,
    looks_random,
)


def _kinds(counts: ChangeCounts, *, max_delete_percent: float = 10) -> list[AlarmKind]:
    return [alarm.kind for alarm in judge_changes(counts, max_delete_percent=max_delete_percent)]


def test_an_empty_source_is_an_alarm_whatever_may_be_deleted() -> None:
    """PITFALLS 86: a disk that is not mounted must never empty the mirror."""
    assert _kinds(ChangeCounts(known=20_000, deleted=20_000), max_delete_percent=100) == [
        AlarmKind.EMPTY
    ]


def test_a_source_that_was_empty_before_is_none() -> None:
    assert _kinds(ChangeCounts(known=0, deleted=0)) == []
    assert _kinds(ChangeCounts(known=0, deleted=0, new=500)) == []


@pytest.mark.parametrize(("deleted", "is_alarm"), [(0, False), (100, False), (101, True)])
def test_more_deletes_than_allowed_are_an_alarm(deleted: int, is_alarm: bool) -> None:
    kinds = _kinds(ChangeCounts(known=1000, deleted=deleted), max_delete_percent=10)

    assert (kinds == [AlarmKind.SHRUNKEN]) is is_alarm


def test_a_tree_that_was_encrypted_in_place_or_under_new_names_is_an_alarm() -> None:
    in_place = ChangeCounts(known=1000, deleted=0, changed=900, turned_random=890)
    renamed = ChangeCounts(known=1000, deleted=950, new=950, new_random=940)
    half_archives = ChangeCounts(
        known=1000, deleted=0, known_random=500, changed=1000, changed_random_before=500,
        turned_random=500,
    )  # fmt: skip

    assert _kinds(in_place) == [AlarmKind.ENCRYPTED]
    assert _kinds(renamed) == [AlarmKind.SHRUNKEN, AlarmKind.ENCRYPTED]
    assert _kinds(half_archives) == [AlarmKind.ENCRYPTED]


def test_ordinary_days_raise_no_alarm() -> None:
    days = [
        ChangeCounts(known=1000, deleted=3, changed=40, new=25),
        # Everything was rewritten, as a new release does.
        ChangeCounts(known=1000, deleted=20, changed=950, turned_random=30, new=100, new_random=9),
        # Encrypted dumps, replaced each night under new names.
        ChangeCounts(known=100, deleted=9, known_random=99, new=100, new_random=100),
        # A few archives in a small tree.
        ChangeCounts(known=10, deleted=0, changed=10, turned_random=10),
        # Old log files were compressed.
        ChangeCounts(known=1000, deleted=100, new=100, new_random=100),
    ]

    assert [_kinds(day) for day in days] == [[]] * len(days)


MOUNTED = PlaceSigns(is_mount_point=True, device=65, file_system_id=7)


@pytest.mark.parametrize(
    ("now", "before", "kinds"),
    [
        (MOUNTED, None, []),
        (MOUNTED, MOUNTED, []),
        (PlaceSigns(is_mount_point=False, device=1, file_system_id=2), MOUNTED, ["unmounted"]),
        (PlaceSigns(is_mount_point=True, device=66, file_system_id=8), MOUNTED, ["other device"]),
        # Another number after the machine was started.
        (PlaceSigns(is_mount_point=True, device=66, file_system_id=7), MOUNTED, []),
        # Numbers that say nothing.
        (
            PlaceSigns(is_mount_point=True, device=66, file_system_id=0),
            PlaceSigns(is_mount_point=True, device=65, file_system_id=0),
            ["other device"],
        ),
    ],
)
def test_a_root_that_moved_is_an_alarm(
    now: PlaceSigns, before: PlaceSigns | None, kinds: list[str]
) -> None:
    assert [str(alarm.kind) for alarm in judge_place(now, before)] == kinds


def test_a_mount_point_is_told_from_a_directory(tmp_path: Path) -> None:
    signs = {}
    for path in ("/proc", str(tmp_path), "/"):
        descriptor = os.open(path, os.O_RDONLY)
        signs[path] = look_at_place(descriptor).is_mount_point
        os.close(descriptor)

    assert signs == {"/proc": True, str(tmp_path): False, "/": True}


def test_a_missing_sentinel_is_an_alarm(tmp_path: Path) -> None:
    root = os.open(tmp_path, os.O_RDONLY)

    before = judge_sentinel(b".mounted", is_there=has_sentinel(root, b".mounted"))
    (tmp_path / ".mounted").touch()
    after = judge_sentinel(b".mounted", is_there=has_sentinel(root, b".mounted"))
    os.close(root)

    assert [alarm.kind for alarm in before] == [AlarmKind.SENTINEL_MISSING]
    assert after == []
    assert "sentinel file .mounted is missing" in before[0].finding("uploads").fact


def test_random_bytes_look_random_at_every_size_that_says_anything() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)

    for size in (1024, 2000, 4096, 10_000, 65_536, 200_000):
        for _ in range(50):
            assert looks_random(entropy_bits(chance.randbytes(size)), size)


def test_text_programs_and_short_files_do_not_look_random() -> None:
    text = Path(__file__).read_bytes()
    page = b"\x89PNG\r\n" + bytes(300) + os.urandom(60_000)

    assert not looks_random(entropy_bits(text), len(text))
    assert not looks_random(entropy_bits(page), len(page))
    assert not looks_random(entropy_bits(os.urandom(200)), 200)
    assert entropy_bits(b"") == 0.0
    assert entropy_bits(b"aaaa") == 0.0
    assert entropy_bits(bytes(range(256))) == 8.0
    assert entropy_bits(gzip.compress(text)) > entropy_bits(text)

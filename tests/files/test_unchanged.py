"""A file is taken for unchanged only if no write could have gone unnoticed (FACTS G, PITFALLS 35, 88)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drtool.sources.files.entries import TreeEntry
from drtool.sources.files.unchanged import MARGIN_NS, is_unchanged, signs_of
from tests.files.trees import entries_of

HOUR_NS = 3600 * 10**9


def _entry(root: Path) -> TreeEntry:
    return entries_of(root)[b"file"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content 1")
    return path


def test_a_file_that_nobody_touched_for_long_is_unchanged(file: Path) -> None:
    entry = _entry(file.parent)

    assert is_unchanged(entry, signs_of(entry), horizon_ns=entry.changed_ns + HOUR_NS)


def test_a_file_that_nobody_knows_is_changed(file: Path) -> None:
    entry = _entry(file.parent)

    assert not is_unchanged(entry, None, horizon_ns=entry.changed_ns + HOUR_NS)


# Each as in the table of FACTS G: what rclone, aws s3 sync or s5cmd did not notice.
def _same_size_older_mtime(file: Path) -> None:
    file.write_bytes(b"content 2")
    os.utime(file, ns=(1, 10**18))


def _same_size_same_mtime(file: Path) -> None:
    before = file.stat()
    file.write_bytes(b"content 2")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _same_size_newer_mtime(file: Path) -> None:
    file.write_bytes(b"content 2")
    os.utime(file, ns=(1, file.stat().st_mtime_ns + HOUR_NS))


def _another_file_of_that_name(file: Path) -> None:
    before = file.stat()
    other = file.with_name("other")
    other.write_bytes(b"content 2")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, file)


@pytest.mark.parametrize(
    "change",
    [
        _same_size_older_mtime,
        _same_size_same_mtime,
        _same_size_newer_mtime,
        _another_file_of_that_name,
    ],
)
def test_a_file_of_other_content_is_never_unchanged(file: Path, change: object) -> None:
    assert callable(change)
    known = signs_of(_entry(file.parent))
    # Kernels before 6.13 stamp in ticks of up to 10 ms: a change within one is for the horizon.
    tick_passed = os.stat(file).st_ctime_ns
    while os.stat(file).st_ctime_ns - tick_passed < 20_000_000:
        os.utime(file)
    os.utime(file, ns=(known.modified_ns, known.modified_ns))

    change(file)

    entry = _entry(file.parent)
    assert not is_unchanged(entry, known, horizon_ns=entry.changed_ns + HOUR_NS)


@pytest.mark.parametrize("before_horizon_ns", [-HOUR_NS, 0, MARGIN_NS])
def test_a_file_written_near_the_last_run_or_dated_after_it_is_read_again(
    file: Path, before_horizon_ns: int
) -> None:
    """PITFALLS 35: a second write within one tick of the clock leaves every sign as it was."""
    entry = _entry(file.parent)

    newest = max(entry.modified_ns, entry.changed_ns)
    assert not is_unchanged(entry, signs_of(entry), horizon_ns=newest + before_horizon_ns)
    assert is_unchanged(entry, signs_of(entry), horizon_ns=newest + MARGIN_NS + 1)


def test_a_time_of_modification_in_the_future_is_no_reason_to_trust(file: Path) -> None:
    entry = _entry(file.parent)._replace(modified_ns=1 << 62)

    assert not is_unchanged(entry, signs_of(entry), horizon_ns=entry.changed_ns + HOUR_NS)


def test_another_number_of_the_device_changes_nothing(file: Path) -> None:
    entry = _entry(file.parent)
    known = signs_of(entry)

    after_boot = entry._replace(device=entry.device + 1)

    assert is_unchanged(after_boot, known, horizon_ns=entry.changed_ns + HOUR_NS)

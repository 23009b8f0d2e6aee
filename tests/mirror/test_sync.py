"""A tree and its mirror on real servers: what goes up, what stays, what stops a run."""

from __future__ import annotations

import os
import random
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drtool.errors import (
    DestinationRefused,
    LeaseHeld,
    NotRecoverable,
    SourceUnavailable,
    SourceUnsuitable,
)
from drtool.model.finding import Severity
from tests.mirror.rig import Rig, contents, settle

pytestmark = pytest.mark.object_store

NAMES = (
    b"plain.txt", b"with space", b"plus+sign", b"100%", b"%41", b"%2Ffake", b"Case", b"case",
    "żółć".encode(), "日本語.pdf".encode(), b"not-utf8-\xff\xfe", b"new\nline", b"tab\there",
    b"back\\slash", b"quo'te\"s&<>?#;=:@!$()*,[]{}|~^`", b"trailing ", b".hidden", b"dot.",
    b".drtool/runs/not-ours", b"deep/er/and/deeper", b"empty",
)  # fmt: skip


def test_any_name_goes_up_and_comes_back(rig: Rig) -> None:
    """PITFALLS 88: space, plus, percent, unicode, case, and bytes that are no text."""
    for name in NAMES:
        path = os.path.join(os.fsencode(rig.tree), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"" if name == b"empty" else name * 3)

    outcome = rig.sync()

    assert outcome.put_files == len(NAMES)
    assert outcome.findings == ()
    assert rig.objects()["with space"] == b"with space" * 3
    assert rig.objects()["%2541"] == b"%41" * 3
    assert contents(rig.restore("out")) == contents(rig.tree)


def test_more_objects_than_one_listing_shows_are_all_known_again_from_the_bucket(
    plain: Rig,
) -> None:
    """PITFALLS 88: more than 1,000 keys."""
    for number in range(1100):
        plain.write(f"d{number % 7}/{number}", b"x%d" % number)
    plain.sync()
    plain.forget()

    outcome = plain.sync(is_rehash=True)

    assert outcome.put_files == 0
    assert outcome.read_files == 1100
    assert outcome.findings == ()


def test_a_second_run_reads_and_puts_nothing(rig: Rig) -> None:
    rig.write("a", b"a" * 100)
    settle(rig.write("b/c", b"c" * 100))
    rig.sync()

    again = rig.sync()

    assert (again.read_files, again.put_files, again.deleted_files) == (0, 0, 0)
    assert again.findings == ()


def test_an_older_file_of_the_same_size_is_put(versioned: Rig) -> None:
    """FACTS G, trap A: a file restored by tar or rsync -a is older than the mirror's and as long."""
    settle(versioned.write("a", b"new content"))
    versioned.sync()
    path = versioned.write("a", b"old content")
    os.utime(path, ns=(1, 1))

    versioned.sync()

    assert versioned.objects()["a"] == b"old content"


def test_a_change_that_left_size_and_mtime_as_they_were_is_put(versioned: Rig) -> None:
    """PITFALLS 88; FACTS G, trap B: only ctime tells."""
    path = versioned.write("a", b"content one")
    settle(path)
    versioned.sync()
    before = path.stat()
    path.write_bytes(b"content two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    versioned.sync()

    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert versioned.objects()["a"] == b"content two"


def test_a_newer_file_of_the_same_size_is_put(versioned: Rig) -> None:
    """FACTS G, trap C."""
    settle(versioned.write("a", b"content one"))
    versioned.sync()
    (versioned.tree / "a").write_bytes(b"content two")

    versioned.sync()

    assert versioned.objects()["a"] == b"content two"


def test_a_touched_file_is_read_but_not_put_again(plain: Rig) -> None:
    settle(plain.write("a", b"content"))
    plain.sync()
    os.utime(plain.tree / "a")

    again = plain.sync()

    assert (again.read_files, again.put_files) == (1, 0)


def test_a_deleted_file_leaves_a_marker_where_the_bucket_keeps_versions(versioned: Rig) -> None:
    """FACTS G, trap D; PITFALLS 71: the deletion is a marker on top of what can still be read."""
    for name in "abcdefgh":
        versioned.write(name, name.encode())
    versioned.sync()
    before = datetime.now(UTC)
    (versioned.tree / "a").unlink()

    outcome = versioned.sync()

    assert outcome.deleted_files == 1
    assert outcome.keeps_versions is True
    assert "a" not in versioned.objects()
    assert b"a" not in contents(versioned.restore("now"))
    assert contents(versioned.restore("then", before))[b"a"] == b"a"


def test_a_deleted_file_keeps_its_object_where_the_bucket_keeps_no_versions(plain: Rig) -> None:
    """PITFALLS 87: a mirror never deletes what may be the last copy."""
    for name in "abcdefgh":
        plain.write(name, name.encode())
    plain.sync()
    before = datetime.now(UTC)
    (plain.tree / "a").unlink()

    outcome = plain.sync()

    assert outcome.deleted_files == 1
    assert [finding.severity for finding in outcome.findings] == [Severity.NOTE]
    assert plain.objects()["a"] == b"a"
    assert b"a" not in contents(plain.restore("now"))
    assert contents(plain.restore("then", before))[b"a"] == b"a"


def test_a_moment_that_has_not_come_is_refused_with_the_newest_run(plain: Rig) -> None:
    plain.write("a", b"a")
    plain.sync()

    with pytest.raises(NotRecoverable, match="has not come yet") as refused:
        plain.restore("ahead", datetime.now(UTC) + timedelta(hours=2))

    assert "Its newest run ended at" in refused.value.hint
    assert plain.restore("now", datetime.now(UTC) + timedelta(seconds=30)).exists()


def test_an_empty_source_stops_the_run_and_the_mirror_stays(rig: Rig) -> None:
    """PITFALLS 86."""
    for name in "abc":
        rig.write(name, name.encode())
    rig.sync()
    for name in "abc":
        (rig.tree / name).unlink()

    with pytest.raises(SourceUnsuitable, match="empty"):
        rig.sync(max_delete_percent=100)

    assert sorted(rig.objects()) == ["a", "b", "c"]


def test_an_empty_source_stops_the_run_also_on_a_machine_that_knows_nothing(rig: Rig) -> None:
    """PITFALLS 86: what is known comes from the manifests in the bucket."""
    for name in "abc":
        rig.write(name, name.encode())
    rig.sync()
    rig.forget()
    for name in "abc":
        (rig.tree / name).unlink()

    with pytest.raises(SourceUnsuitable, match="empty"):
        rig.sync(max_delete_percent=100)


def test_a_missing_source_stops_the_run(plain: Rig) -> None:
    plain.write("a", b"a")
    plain.sync()
    plain.tree.rename(plain.directory / "elsewhere")

    with pytest.raises(SourceUnavailable):
        plain.sync()

    assert plain.objects() == {"a": b"a"}


def test_a_source_without_its_sentinel_stops_the_run(plain: Rig) -> None:
    """PITFALLS 86: a disk that is not mounted leaves a directory without the file that marks it."""
    plain.write("a", b"a")
    plain.write("mounted", b"")
    plain.sync(sentinel="mounted")
    (plain.tree / "mounted").unlink()

    with pytest.raises(SourceUnsuitable, match="sentinel"):
        plain.sync(sentinel="mounted")


def test_files_that_were_only_renamed_are_not_gone(rig: Rig) -> None:
    """A directory with a new name is no reason to stop; what is really gone with it is."""
    for name in "abcdefgh":
        rig.write(f"dir/{name}", name.encode())
    rig.sync()
    (rig.tree / "dir").rename(rig.tree / "other")

    assert rig.sync().deleted_files == 8
    assert {f"other/{name}" for name in "abcdefgh"} <= set(rig.objects())

    (rig.tree / "other").rename(rig.tree / "dir")
    for name in "abc":
        (rig.tree / "dir" / name).unlink()
    with pytest.raises(SourceUnsuitable, match=r"3 of 8 files \(38 %\)"):
        rig.sync()


def test_more_deletions_than_allowed_stop_the_run_until_they_are(rig: Rig) -> None:
    """PITFALLS 86."""
    for name in "abcdefgh":
        rig.write(name, name.encode())
    rig.sync()
    for name in "abc":
        (rig.tree / name).unlink()

    with pytest.raises(SourceUnsuitable, match="max_delete"):
        rig.sync()
    outcome = rig.sync(max_delete_percent=40)

    assert outcome.deleted_files == 3


def test_a_tree_that_somebody_encrypted_stops_the_run_until_it_is_accepted(versioned: Rig) -> None:
    rng = random.Random(5)
    for number in range(40):
        versioned.write(f"{number}.txt", b"a line of an ordinary text file\n" * 300)
    settle(versioned.tree / "39.txt")
    versioned.sync()
    for number in range(40):
        versioned.write(f"{number}.txt", rng.randbytes(9600))

    with pytest.raises(SourceUnsuitable, match="encrypted"):
        versioned.sync()
    kept = versioned.objects()["7.txt"]
    outcome = versioned.sync(accepts_source=True)

    assert kept.startswith(b"a line of")
    assert outcome.put_files == 40


def test_random_files_that_were_random_before_stop_nothing(plain: Rig) -> None:
    rng = random.Random(6)
    for number in range(40):
        plain.write(f"{number}.gpg", rng.randbytes(9600))
    plain.sync()
    for number in range(40):
        plain.write(f"{number}.gpg", rng.randbytes(9600))

    outcome = plain.sync()

    assert outcome.put_files == 40


def test_a_dry_run_names_what_would_be_done_and_does_nothing(plain: Rig) -> None:
    for name in "abcdefgh":
        plain.write(name, name.encode())
    plain.sync()
    (plain.tree / "a").unlink()
    plain.write("new", b"n")
    before = plain.objects()

    facts = {fact.name: fact.value for fact in plain.preview().facts}

    assert facts["deleted_paths"] == ("a",)
    assert "new" in str(facts["put_paths"])
    assert plain.objects() == before
    assert plain.sync().put_files == 1


def test_a_file_that_becomes_a_directory_and_back_is_mirrored(versioned: Rig) -> None:
    """Servers that keep objects as files cannot have `a` and `a/b` at once."""
    for number in range(10):
        versioned.write(f"{number}", b"x")
    versioned.write("a", b"file")
    versioned.sync()
    (versioned.tree / "a").unlink()
    versioned.write("a/b", b"below")

    versioned.sync()
    as_directory = contents(versioned.restore("one"))
    (versioned.tree / "a" / "b").unlink()
    (versioned.tree / "a").rmdir()
    versioned.write("a", b"file again")
    versioned.sync()

    assert as_directory[b"a/b"] == b"below"
    assert contents(versioned.restore("two"))[b"a"] == b"file again"


def test_a_large_file_goes_up_in_parts_and_comes_back(rig: Rig) -> None:
    """PITFALLS 88: the etag of an object in parts is no MD5."""
    content = random.Random(7).randbytes(20 << 20)
    settle(rig.write("big", content))
    rig.sync()

    again = rig.sync(is_rehash=True)

    assert (again.read_files, again.put_files, again.findings) == (1, 0, ())
    assert contents(rig.restore("out"))[b"big"] == content


def test_attributes_links_and_empty_directories_come_back(plain: Rig) -> None:
    path = plain.write("tool", b"#!/bin/sh\n")
    path.chmod(0o750)
    (plain.tree / "link").symlink_to("nowhere/../tool")
    (plain.tree / "empty").mkdir()
    plain.sync()

    out = plain.restore("out")

    status = (out / "tool").stat()
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o750, path.stat().st_mtime_ns)
    assert os.readlink(out / "link") == "nowhere/../tool"
    assert (out / "empty").is_dir()


def test_a_time_of_modification_far_off_is_mirrored(plain: Rig) -> None:
    """Years that 64 bits of nanoseconds do not reach, on a file system that holds them."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        far = replace(plain, directory=Path(directory), prefix="far-off")
        for seconds in (-(10**10), -1, 16_725_225_600, 10**11):
            path = far.write(f"{seconds}/file", b"%d" % seconds)
            at = seconds * 10**9 + 500_000_000
            os.utime(path, ns=(at, at))
            os.utime(path.parent, ns=(at, at))

        first, second = far.sync(), far.sync()

        assert (first.put_files, second.put_files, second.findings) == (4, 0, ())
        restored = far.restore("back")
        for path in far.tree.rglob("*"):
            found = restored / path.relative_to(far.tree)
            assert found.stat().st_mtime_ns == path.stat().st_mtime_ns
        client = far.server.client()
        met = client.head_object(Bucket=far.bucket_name, Key="far-off/-1/file")
        assert met["Metadata"].get("mtime") in ("-0.500000000", None)


@pytest.mark.parametrize("is_plan", [True, False], ids=["plan", "run"])
def test_a_place_that_cannot_be_made_is_refused_before_anything_is_fetched(
    plain: Rig, is_plan: bool
) -> None:
    plain.write("a", b"a")
    plain.sync()

    with pytest.raises(DestinationRefused, match="tree/a"):
        plain.restore("tree/a/below a file", is_plan=is_plan)


def test_what_was_excluded_is_not_mirrored(plain: Rig) -> None:
    from drtool.sources.files.exclude import compile_rules

    plain.write("a.tmp", b"t")
    plain.write("a", b"a")

    plain.sync(exclude=compile_rules(["*.tmp"]))

    assert plain.objects() == {"a": b"a"}


def test_a_database_of_sqlite_that_is_written_meanwhile_is_a_warning(plain: Rig) -> None:
    """Its two files are read as of one moment each: the copy may be malformed."""
    with closing(sqlite3.connect(plain.tree / "shop.db")) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE orders (id INTEGER)")
        database.commit()

        written = plain.sync()

    [finding] = written.findings
    assert finding.severity is Severity.WARNING
    assert finding.subject == "SQLite database shop.db"


def test_a_lost_catalogue_costs_no_upload(rig: Rig) -> None:
    for name in "abc":
        rig.write(name, name.encode())
    settle(rig.tree / "c")
    rig.sync()
    rig.write("d", b"d")
    rig.sync()
    rig.forget()

    outcome = rig.sync()

    assert (outcome.put_files, outcome.deleted_files) == (0, 0)
    assert outcome.read_files <= 1  # d was written within two seconds of the run that read it


def test_a_damaged_catalogue_is_begun_anew_from_the_bucket(plain: Rig) -> None:
    plain.write("a", b"a")
    plain.sync()
    for path in (plain.directory / "cache").glob("c.sqlite*"):
        if path.suffix != ".lock":
            path.write_bytes(b"no database at all" * 300)

    outcome = plain.sync()

    assert outcome.put_files == 0


def test_a_catalogue_that_another_machine_left_behind_follows_the_bucket(versioned: Rig) -> None:
    """Two machines in turn: what the bucket's newest manifest says is what counts."""
    versioned.write("a", b"one")
    versioned.sync()
    (versioned.directory / "cache").rename(versioned.directory / "kept")
    versioned.write("a", b"two!")
    versioned.sync()
    versioned.write("a", b"one")
    versioned.forget()
    (versioned.directory / "kept").rename(versioned.directory / "cache")

    versioned.sync()

    assert versioned.objects()["a"] == b"one"
    assert contents(versioned.restore("out"))[b"a"] == b"one"


def test_a_rehash_puts_back_what_somebody_removed_or_changed_in_the_bucket(rig: Rig) -> None:
    for name in "abc":
        rig.write(name, name.encode() * 5)
    rig.sync()
    client = rig.server.client()
    client.delete_object(Bucket=rig.bucket_name, Key=f"{rig.prefix}/a")
    client.put_object(Bucket=rig.bucket_name, Key=f"{rig.prefix}/b", Body=b"other")

    outcome = rig.sync(is_rehash=True)

    assert outcome.put_files == 2
    assert [finding.severity for finding in outcome.findings] == [Severity.WARNING]
    assert rig.objects() == {"a": b"aaaaa", "b": b"bbbbb", "c": b"ccccc"}


def test_a_run_that_lost_its_lease_deletes_nothing_and_leaves_no_manifest(versioned: Rig) -> None:
    for name in "abcdefgh":
        versioned.write(name, name.encode())
    versioned.sync()
    (versioned.tree / "a").unlink()

    def lost() -> None:
        raise LeaseHeld("another run took over")

    with pytest.raises(LeaseHeld):
        versioned.sync(check=lost)

    assert "a" in versioned.objects()
    assert b"a" in contents(versioned.restore("out"))


def test_two_runs_of_one_machine_never_share_a_catalogue(plain: Rig) -> None:
    def again() -> None:
        plain.sync()

    plain.write("a", b"a")

    with pytest.raises(LeaseHeld):
        plain.sync(check=again)


def test_the_bytes_of_the_catalogue_are_what_a_restored_mirror_would_say(plain: Rig) -> None:
    """Anything kept locally can be rebuilt: the lines are the same, read back or kept."""
    for name in "abc":
        plain.write(name, name.encode())
    plain.sync()
    kept = _lines(plain.directory / "cache" / "c.sqlite")
    plain.forget()

    plain.preview()

    assert _lines(plain.directory / "cache" / "c.sqlite") == kept


def _lines(path: Path) -> list[str]:
    with sqlite3.connect(path) as database:
        return [row[0] for row in database.execute("SELECT line FROM entries ORDER BY path")]


def test_a_source_that_was_a_mount_point_and_is_none_stops_the_run(plain: Rig) -> None:
    """PITFALLS 86: an unmounted disk leaves its mount point behind, and maybe files below it."""
    for name in "abc":
        plain.write(name, name.encode())
    plain.sync()
    # As the run before would have found it with the disk mounted.
    with sqlite3.connect(plain.directory / "cache" / "c.sqlite") as database:
        database.execute("UPDATE about SET value = '[true, 1, 1]' WHERE name = 'place'")

    with pytest.raises(SourceUnsuitable, match="not mounted"):
        plain.sync()
    outcome = plain.sync(accepts_source=True)

    assert outcome.put_files == 0
    assert plain.sync().findings == ()

"""Whatever is missing or damaged ends in a named error, never in a started server with less data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from drtool.errors import (
    DrtoolError,
    ExitCode,
    IntegrityError,
    NotRecoverable,
    RepositoryUnavailable,
)
from drtool.model.target import ToLatest, ToName, ToTime, ToXid
from drtool.model.wal import Lsn, WalSegment
from drtool.repository import layout
from drtool.repository.backups import Manifest
from drtool.repository.keys import NO_SECRET, KeySecret, SlotKind
from drtool.repository.layout import Lineage
from drtool.repository.log import SegmentWriter
from drtool.repository.repository import open_repository
from drtool.restore.destination import Destination
from drtool.restore.look import look
from drtool.restore.plan import plan_restore
from drtool.restore.settle import check_label
from drtool.stores.local import LocalStore
from drtool.stores.protocol import LARGEST_OBJECT_BYTES
from drtool.system.users import choose_user
from tests.archiving.rig import SOURCE, fill
from tests.restore.rig import (
    CLOCK,
    copy_of,
    local_store,
    plan_for,
    protected,
    restore,
    rows,
    settle,
    started,
    take_backup,
    wait_for,
)
from tests.servers.postgres import PostgresServer, give_to_server_user, new_server

pytestmark = pytest.mark.postgres
MIB = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A repository on disk: a backup, 40 segments of 1 MiB after it, and 20 rows spread over them."""

    root: Path
    manifest: Manifest

    def middle(self, number: int) -> str:
        """The key of the `number`-th segment after the backup's start."""
        extent = self.manifest.postgres
        first = WalSegment.holding(extent.timeline, extent.start_lsn, extent.segment_bytes)
        segment = WalSegment(1, first.number + number)
        return Lineage(SOURCE, extent.system_id, 1).segment_key(segment.name(MIB))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    root = tmp_path_factory.mktemp("archive")
    server = new_server(15, segment_mb=1)
    try:
        server.query("CREATE TABLE ledger (id int PRIMARY KEY)")
        with protected(server, local_store(root)) as repository:
            manifest = take_backup(repository, server)
            for number in range(20):
                fill(server, 2)
                server.query("INSERT INTO ledger VALUES (%s)", number)
            settle(repository, server)
    finally:
        server.close()
    return Archive(root / "repository", manifest)


@pytest.fixture
def damaged_store(archive: Archive, tmp_path: Path) -> LocalStore:
    return copy_of(archive.root, tmp_path / "copy")


def file_of(store: LocalStore, key: str) -> Path:
    return Path(store.url.removeprefix("file://")) / key


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def a_pack(archive: Archive) -> str:
    return layout.pack_key(archive.manifest.packs[0])


def the_manifest(archive: Archive) -> str:
    return layout.manifest_key(SOURCE, archive.manifest.backup_id)


def a_segment(archive: Archive) -> str:
    return archive.middle(20)


DAMAGES: list[tuple[str, Callable[[Archive], str], Callable[[Path], None], type[DrtoolError], ExitCode]] = [
    ("flipped pack", a_pack, flip, IntegrityError, ExitCode.INTEGRITY),
    ("cut pack", a_pack, cut, IntegrityError, ExitCode.INTEGRITY),
    ("missing pack", a_pack, Path.unlink, DrtoolError, ExitCode.INTEGRITY),
    ("flipped manifest", the_manifest, flip, IntegrityError, ExitCode.INTEGRITY),
    ("flipped segment", a_segment, flip, IntegrityError, ExitCode.INTEGRITY),
    ("cut segment", a_segment, cut, IntegrityError, ExitCode.INTEGRITY),
    ("empty segment", a_segment, empty, NotRecoverable, ExitCode.NOT_RECOVERABLE),
    ("missing segment", a_segment, Path.unlink, NotRecoverable, ExitCode.NOT_RECOVERABLE),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "damage", "error", "code"),
    [row[1:] for row in DAMAGES],
    ids=[row[0] for row in DAMAGES],
)
def test_damage_is_a_named_error_and_nothing_can_be_started(
    archive: Archive,
    damaged_store: LocalStore,
    server_root: Path,
    key: Callable[[Archive], str],
    damage: Callable[[Path], None],
    error: type[DrtoolError],
    code: ExitCode,
) -> None:
    """PITFALLS 6, 39, 40, 62: a damaged object is never the end of the WAL, and never data."""
    name = key(archive)
    damage(file_of(damaged_store, name))
    repository = open_repository(damaged_store, NO_SECRET)

    with pytest.raises(error) as caught:
        restore(repository, server_root / "copy", target=ToLatest())

    assert caught.value.exit_code == code
    assert name.rpartition("/")[2] in caught.value.message
    assert_refuses_to_start(server_root / "copy")


def assert_refuses_to_start(data: Path) -> None:
    """Started by hand, with its own configuration, it stops by itself and has promoted nothing."""
    if not (data / "global" / "pg_control").exists():
        return
    server = PostgresServer(data.parent, 15)
    server.data = data
    server.start(wait=False)
    process = server._process
    assert process is not None
    try:
        wait_for(
            lambda: process.poll() is not None or "ready to accept" in server.log_text(),
            "it neither stops nor starts",
        )
        assert process.poll() not in (None, 0), server.log_text()
    finally:
        server.stop()
    assert "drtool_restore_is_not_finished" in server.log_text(), server.log_text()
    assert "ready to accept connections" not in server.log_text()


def test_an_undamaged_archive_comes_back_whole(archive: Archive, server_root: Path) -> None:
    """Or the tests above would prove nothing."""
    repository = open_repository(LocalStore(archive.root, clock=CLOCK), NO_SECRET)

    outcome = restore(repository, server_root / "copy", target=ToLatest())

    assert outcome.wal_bytes > 30 * MIB
    with started(15, server_root / "copy") as copy:
        assert rows(copy) == list(range(20))
        assert not list((server_root / "copy" / "pg_wal").glob(".drtool*"))


def test_a_wrong_key_is_a_named_error(archive: Archive) -> None:
    """PITFALLS 76."""
    wrong = KeySecret(SlotKind.KEY_FILE, bytes(range(32)))

    with pytest.raises(IntegrityError, match="does not open") as caught:
        open_repository(LocalStore(archive.root, clock=CLOCK), wrong)

    assert caught.value.exit_code == ExitCode.INTEGRITY


class LeavingStore(LocalStore):
    """A store whose disk is pulled out after so many reads of WAL."""

    reads_left = 10

    def read(self, key: str, *, most_bytes: int = LARGEST_OBJECT_BYTES) -> bytes:
        if key.startswith("log/") and not key.endswith(".history"):
            self.reads_left -= 1
            if self.reads_left == 0:
                root = Path(self.url.removeprefix("file://"))
                root.rename(root.with_name("pulled out"))
        return super().read(key, most_bytes=most_bytes)


def test_a_store_that_goes_away_in_mid_replay_never_ends_in_a_shortened_database(
    archive: Archive, tmp_path: Path, server_root: Path
) -> None:
    """PITFALLS 39, promise 4: an outage is not the end of the WAL."""
    copy_of(archive.root, tmp_path / "copy")
    repository = open_repository(LeavingStore(tmp_path / "copy", clock=CLOCK), NO_SECRET)

    with pytest.raises(RepositoryUnavailable) as caught:
        restore(repository, server_root / "copy", target=ToLatest())

    assert caught.value.exit_code == ExitCode.REPOSITORY_UNAVAILABLE
    assert str(server_root / "copy") in caught.value.hint
    assert_refuses_to_start(server_root / "copy")


@pytest.mark.parametrize("target", [ToXid(4_000_000), ToName("nowhere")], ids=["xid", "name"])
def test_a_target_that_never_comes_is_not_recoverable(
    archive: Archive, server_root: Path, target: ToXid | ToName
) -> None:
    """PITFALLS 52: the replay ends before it, and says how far it came."""
    repository = open_repository(LocalStore(archive.root, clock=CLOCK), NO_SECRET)

    with pytest.raises(NotRecoverable, match="is nowhere in the WAL"):
        restore(repository, server_root / "copy", target=target)
    assert not (server_root / "copy").exists()

    named = plan_for(repository, ToLatest()).manifest.backup_id
    plan = plan_restore(look(repository, SOURCE, target, from_backup=named), target)
    with pytest.raises(NotRecoverable, match="was not reached") as caught:
        restore(repository, server_root / "copy", plan=plan)

    assert "with the last commit at" in caught.value.message
    assert_refuses_to_start(server_root / "copy")


def test_a_target_outside_the_window_is_refused_before_anything_is_copied(
    archive: Archive, server_root: Path
) -> None:
    """PITFALLS 51, 52: no directory is made for it."""
    repository = open_repository(LocalStore(archive.root, clock=CLOCK), NO_SECRET)

    with pytest.raises(NotRecoverable, match="recoverable from"):
        restore(repository, server_root / "copy", target=ToTime(CLOCK.now()))

    assert not (server_root / "copy").exists()


def test_wal_that_the_server_cannot_read_on_is_not_taken_for_its_end(
    archive: Archive, damaged_store: LocalStore, server_root: Path
) -> None:
    """PITFALLS 5, 40: a sealed segment with other bytes inside ends the replay early: that is noticed."""
    repository = open_repository(damaged_store, NO_SECRET)
    key = archive.middle(20)
    name = key.rpartition("/")[2]
    file_of(damaged_store, key).unlink()
    writer = SegmentWriter(
        repository, Lineage(SOURCE, archive.manifest.postgres.system_id, 1), name
    )
    writer.write(bytes(MIB))
    writer.finish()

    with pytest.raises(IntegrityError, match="ended at"):
        restore(repository, server_root / "copy", target=ToLatest())

    assert_refuses_to_start(server_root / "copy")


def test_a_backup_without_its_label_is_refused(archive: Archive, server_root: Path) -> None:
    """PITFALLS 29: without backup_label a start would be silently corrupt."""
    data = server_root / "copy"
    data.mkdir()
    give_to_server_user(data)
    destination = Destination(data, (), choose_user(data))
    other = f"START WAL LOCATION: {Lsn(MIB)} (file x)\n"

    for label in (None, other):
        if label is not None:
            (data / "backup_label").write_text(label)
        with pytest.raises(NotRecoverable, match="no backup_label"):
            check_label(archive.manifest, destination)

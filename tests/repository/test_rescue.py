"""The second reader: rescue.py restores what drtool stored, in an interpreter without drtool."""

from __future__ import annotations

import ast
import dataclasses
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from drtool.model.wal import Lsn, WalSegment
from drtool.repository import layout
from drtool.repository.backups import Manifest
from drtool.repository.keys import NO_SECRET, KeySecret, SlotKind
from drtool.repository.layout import Lineage
from drtool.repository.log import SegmentWriter, put_history, put_part
from drtool.repository.repository import Repository
from drtool.repository.rotation import rotate_key
from drtool.sources.postgres.facts import read_facts
from drtool.sources.postgres.recovery_settings import CUT_OFF_AFTERWARDS
from drtool.stores.local import LocalStore
from drtool.system.clock import SystemClock
from tests.postgres.unpack import fetch_wal, unpack_backup
from tests.repository.building import (
    EXTENT_OF_BACKUP,
    MIB,
    SECRET,
    SYSTEM,
    a_tree,
    new_repository,
    put_segments,
    put_tail,
    store_tree,
    tamper,
    wal_bytes,
)
from tests.repository.isolation import bare_packages, run_rescue
from tests.servers.postgres import MakePostgres, PostgresServer, give_to_server_user, server_user


class Bench:
    """A repository in a directory, and a bare interpreter to read it with."""

    def __init__(self, root: Path, secret: KeySecret = SECRET) -> None:
        self.root = root
        self.place = root / "repository"
        self.place.mkdir()
        self.store = LocalStore(self.place, clock=SystemClock())
        self.repository = new_repository(self.store, secret)
        self._packages = bare_packages(root / "packages")
        self._key_file = root / "key"
        self._key_file.write_bytes(SECRET.content + b"\n")

    def rescue(self, command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        program = self.place / layout.RESCUE_PROGRAM
        given = [str(self.place), *map(str, arguments), "--key-file", str(self._key_file)]
        return run_rescue(self._packages, program, command, *given)

    def rescue_with(self, key: str | None, command: str) -> subprocess.CompletedProcess[str]:
        program = self.place / layout.RESCUE_PROGRAM
        return run_rescue(self._packages, program, command, str(self.place), key=key)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def succeeded(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stderr
    return done


def content_of(directory: Path) -> dict[str, tuple[str, int, int, bytes]]:
    """Everything that a restore must bring back, by path."""
    found = {}
    for path in sorted(directory.rglob("*")):
        info = path.lstat()
        kind = "l" if path.is_symlink() else "d" if path.is_dir() else "f"
        if kind == "l":
            found[str(path.relative_to(directory))] = (kind, 0, 0, os.fsencode(os.readlink(path)))
            continue
        content = path.read_bytes() if kind == "f" else b""
        name = str(path.relative_to(directory))
        modified = 0 if name == "global" else info.st_mtime_ns
        found[name] = (kind, stat.S_IMODE(info.st_mode), modified, content)
    return found


def test_a_restored_tree_has_the_same_files_links_modes_and_times(
    bench: Bench, tmp_path: Path
) -> None:
    """PITFALLS 61: modes and empty directories too."""
    tree = a_tree(
        tmp_path / "tree",
        {
            "base/1/1259": os.urandom(700_000),
            "base/1/empty": b"",
            "base/1/packs well": b"page" * 300_000,
            "zażółć": b"any name",
        },
    )
    (tree / "pg_notify").mkdir(mode=0o700)
    for path in tree.rglob("*"):
        path.chmod(0o750 if path.is_dir() else 0o600)
    (tree / "pg_notify").chmod(0o700)
    (tree / "base/1/1259").chmod(0o640)
    (tree / "log").symlink_to("/var/log/elsewhere")
    os.utime(tree / "base/1/1259", ns=(1, 1_714_557_600_123_456_789))
    manifest = store_tree(bench.repository, tree)

    succeeded(bench.rescue("restore", "main", manifest.backup_id, tmp_path / "back"))

    assert content_of(tmp_path / "back") == content_of(tree)


def test_files_longer_than_a_record_come_back_whole(bench: Bench, tmp_path: Path) -> None:
    tree = a_tree(tmp_path / "tree", {})
    with (tree / "large").open("wb") as file:
        for place in (0, (256 << 20) - 5, 256 << 20, (256 << 20) + 777_777):
            file.seek(place)
            file.write(f"at {place}".encode())
    manifest = store_tree(bench.repository, tree)

    succeeded(bench.rescue("restore", "main", manifest.backup_id, tmp_path / "back"))

    done = subprocess.run(["cmp", tree / "large", tmp_path / "back/large"], check=False)
    assert done.returncode == 0


def test_list_tells_what_a_backup_needs(bench: Bench, tmp_path: Path) -> None:
    extent = dataclasses.replace(EXTENT_OF_BACKUP, start_lsn=Lsn((5 << 32) + 3 * MIB), timeline=3)
    manifest = store_tree(bench.repository, a_tree(tmp_path / "tree", {}), extent=extent)

    printed = succeeded(bench.rescue("list")).stdout

    assert f"main {manifest.backup_id} ended" in printed
    assert "needs WAL from 000000030000000500000003" in printed


def test_tablespaces_never_go_back_to_where_the_source_has_them(
    bench: Bench, tmp_path: Path
) -> None:
    """PITFALLS 25: tablespace_map would lead the server to the live location."""
    live = tmp_path / "live"
    live.mkdir()
    tree = a_tree(
        tmp_path / "tree",
        {
            "tablespace_map": f"16390 {live}\n".encode(),
            "pg_tblspc/16390/PG_15_202209061/5/16391": b"table",
        },
    )
    extent = dataclasses.replace(EXTENT_OF_BACKUP, tablespaces=((16390, str(live)),))
    manifest = store_tree(bench.repository, tree, extent=extent)

    succeeded(bench.rescue("restore", "main", manifest.backup_id, tmp_path / "back"))

    new = tmp_path / "back-tablespaces/16390"
    assert (new / "PG_15_202209061/5/16391").read_bytes() == b"table"
    assert os.readlink(tmp_path / "back/pg_tblspc/16390") == str(new)
    assert (tmp_path / "back/tablespace_map").read_text() == f"16390 {new}\n"
    assert list(live.iterdir()) == []


def test_a_destination_that_is_not_empty_is_refused(bench: Bench, tmp_path: Path) -> None:
    """PITFALLS 53."""
    manifest = store_tree(bench.repository, a_tree(tmp_path / "tree", {}))
    (tmp_path / "back").mkdir()
    (tmp_path / "back/mine").write_text("precious")

    done = bench.rescue("restore", "main", manifest.backup_id, tmp_path / "back")

    assert done.returncode == 1
    assert "not empty" in done.stderr
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["mine"]


def test_a_restore_that_fails_leaves_nothing_that_can_be_started(
    bench: Bench, tmp_path: Path
) -> None:
    tree = a_tree(tmp_path / "tree", {f"base/{n}": os.urandom(300_000) for n in range(5)})
    manifest = store_tree(bench.repository, tree)
    [pack] = bench.store.list_directories("packs/")
    [found] = bench.store.list(f"packs/{pack}/")
    sealed = bytearray(bench.store.read(found.key))
    sealed[1_000_000] ^= 1
    tamper(bench.store, found.key, bytes(sealed))

    done = bench.rescue("restore", "main", manifest.backup_id, tmp_path / "back")

    assert done.returncode == 1
    assert f"object {found.key} is damaged" in done.stderr
    assert (tmp_path / "back/base").exists()
    assert not (tmp_path / "back/global/pg_control").exists()


def test_wal_comes_out_under_its_names_with_the_tail_joined_and_filled_up(
    bench: Bench, tmp_path: Path
) -> None:
    """PITFALLS 49: the whole segment is preferred to its parts."""
    put_segments(bench.repository, range(2, 5))
    put_tail(bench.repository, 4, [(0, 1000)])
    header = bytearray(wal_bytes(5)[:40_000])
    header[32:36] = MIB.to_bytes(4, "little")
    lineage = Lineage("main", SYSTEM, 1)
    name = WalSegment(1, 5).name(MIB)
    for begin, end in ((0, 8192), (4096, 20_000), (20_000, 30_000), (35_000, 40_000)):
        put_part(
            bench.repository, lineage, layout.SegmentPart(name, begin, end), plain=header[begin:end]
        )
    put_history(bench.repository, "main", SYSTEM, timeline=2, content=b"1\t0/5000000\tno reason\n")
    first = WalSegment(1, 3).name(MIB)

    done = succeeded(bench.rescue("wal", "main", tmp_path / "wal", "--since", first))

    found = {path.name: path.read_bytes() for path in (tmp_path / "wal").iterdir()}
    assert found == {
        first: wal_bytes(3),
        WalSegment(1, 4).name(MIB): wal_bytes(4),
        name: bytes(header[:30_000]) + bytes(MIB - 30_000),
        "00000002.history": b"1\t0/5000000\tno reason\n",
    }
    assert "hole" in done.stderr


def test_verify_reads_everything_and_fails_on_a_flipped_bit(bench: Bench, tmp_path: Path) -> None:
    store_tree(bench.repository, a_tree(tmp_path / "tree", {"base/1": os.urandom(9000)}))
    put_segments(bench.repository, range(2, 4))
    assert "3 chunks and 2 objects" in succeeded(bench.rescue("verify")).stdout
    key = Lineage("main", SYSTEM, 1).segment_key(WalSegment(1, 3).name(MIB))
    sealed = bytearray(bench.store.read(key))
    sealed[-1] ^= 1
    tamper(bench.store, key, bytes(sealed))

    done = bench.rescue("verify")

    assert done.returncode == 1
    assert f"object {key} is damaged" in done.stderr


def test_old_backups_come_back_after_the_key_was_rotated(bench: Bench, tmp_path: Path) -> None:
    """PITFALLS 77."""
    tree = a_tree(tmp_path / "tree", {"base/1": b"old"})
    manifest = store_tree(bench.repository, tree)
    rotate_key(bench.repository)

    succeeded(bench.rescue("restore", "main", manifest.backup_id, tmp_path / "back"))

    assert (tmp_path / "back/base/1").read_bytes() == b"old"


def test_a_passphrase_opens_a_repository_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    bench = Bench(tmp_path, KeySecret(SlotKind.PASSPHRASE, "zażółć gęślą".encode()))

    right = bench.rescue_with("zażółć gęślą", "list")
    wrong = bench.rescue_with("zazolc gesla", "list")
    none = bench.rescue_with(None, "list")

    assert right.returncode == 0
    assert (wrong.returncode, none.returncode) == (1, 1)
    assert "the key given opens no slot; they take passphrase" in wrong.stderr
    assert "DRTOOL_KEY" not in wrong.stderr
    assert "Set DRTOOL_KEY" in none.stderr


def test_a_phrase_in_a_key_file_opens_a_repository(tmp_path: Path) -> None:
    phrase = b"correct horse battery staple, and once more\n"
    bench = Bench(tmp_path, KeySecret(SlotKind.KEY_FILE, phrase))
    (tmp_path / "key").write_bytes(phrase)

    succeeded(bench.rescue("list"))


def test_a_repository_without_a_key_needs_none(tmp_path: Path) -> None:
    bench = Bench(tmp_path, NO_SECRET)

    assert bench.rescue_with(None, "verify").returncode == 0


def test_the_program_is_written_for_python_3_9() -> None:
    source = Path(__file__).parents[2] / "drtool/repository/rescue.py"

    tree = ast.parse(source.read_text(), feature_version=(3, 9))

    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Match)]


@pytest.mark.postgres
def test_postgresql_15_starts_on_what_the_program_restored(
    make_postgres: MakePostgres, server_root: Path
) -> None:
    server = make_postgres(15, segment_mb=1)
    live = server_root / "live"
    live.mkdir()
    give_to_server_user(live)
    server.query(f"CREATE TABLESPACE elsewhere LOCATION '{live}'")
    server.query("CREATE TABLE moved (n int) TABLESPACE elsewhere")
    server.query("CREATE TABLE kept (n int)")
    bench = Bench(server_root)

    manifest = _back_up(server, bench.repository, server_root)
    server.kill9()
    server.destroy_data()
    shutil.rmtree(live)
    succeeded(bench.rescue("verify"))
    succeeded(bench.rescue("restore", "main", manifest.backup_id, server_root / "data"))
    succeeded(bench.rescue("wal", "main", server_root / "wal"))

    restored = PostgresServer(server_root, 15)
    let_replay(server_root)
    restored.start()
    try:
        assert restored.query("SELECT sum(n) FROM kept, pg_is_in_recovery()") == [(5050,)]
        assert restored.query("SELECT n FROM moved") == [(7,)]
    finally:
        restored.stop()


def _back_up(server: PostgresServer, repository: Repository, root: Path) -> Manifest:
    """A base backup, rows that are in the WAL alone, and that WAL: segments, the last one in parts."""
    facts = read_facts(server.socket_dsn())
    unpacked = unpack_backup(server.socket_dsn(), root / "unpacked")
    began, ended = unpacked.began, unpacked.ended
    assert began is not None
    assert ended is not None
    server.query("INSERT INTO kept SELECT generate_series(1, 100)")
    server.query("INSERT INTO moved VALUES (7)")
    end = Lsn.parse(server.query("SELECT pg_current_wal_flush_lsn()::text")[0][0])
    archive = root / "archive"
    archive.mkdir()
    names = fetch_wal(
        server, archive, begin=began.start_lsn, end=end, timeline=1, segment_bytes=MIB
    )
    lineage = Lineage("main", facts.system_id, 1)
    for name in names[:-1]:
        writer = SegmentWriter(repository, lineage, name)
        writer.write((archive / name).read_bytes())
        writer.finish()
    last, used = (archive / names[-1]).read_bytes(), end % MIB
    for begin, stop in ((0, used // 2), (used // 3, used)):
        part = layout.SegmentPart(names[-1], begin, stop)
        put_part(repository, lineage, part, plain=last[begin:stop])
    extent = dataclasses.replace(
        EXTENT_OF_BACKUP,
        system_id=facts.system_id,
        start_lsn=began.start_lsn,
        stop_lsn=ended.stop_lsn,
        tablespaces=tuple((space.oid, space.location) for space in began.tablespaces),
    )
    return store_tree(repository, unpacked.directory, extent=extent)


def settings_of_readme() -> list[str]:
    """What RESCUE/README.txt has a person write into postgresql.auto.conf."""
    text = Path(layout.__file__).with_name("rescue.txt").read_text()
    block = text.partition("(create it if needed):\n")[2].partition("and remove from")[0]
    return [line.strip() + "\n" for line in block.splitlines() if " = " in line]


def test_who_restores_by_hand_cuts_the_copy_off_as_drtool_does() -> None:
    told = {line.partition(" = ")[0] for line in settings_of_readme()}

    assert CUT_OFF_AFTERWARDS.keys() <= told


def let_replay(root: Path) -> None:
    """What RESCUE/README.txt says between restoring and starting."""
    data = root / "data"
    with (data / "postgresql.auto.conf").open("a") as file:
        for line in settings_of_readme():
            file.write(line.replace("/srv/WAL", f"{root}/wal"))
        # A hot standby takes questions before all is replayed.
        file.write("hot_standby = off\n")
    (data / "recovery.signal").touch()
    user = server_user()
    if user is not None:
        places = [data, root / "data-tablespaces", root / "wal"]
        subprocess.run(["chown", "-R", user, *places], check=True)

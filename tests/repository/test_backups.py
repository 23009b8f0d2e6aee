"""Manifests: a backup exists if and only if its manifest does, and says what it is."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drtool.errors import AlreadyExists, IntegrityError, NotRecoverable
from drtool.model.finding import Finding, Severity
from drtool.model.wal import Lsn
from drtool.repository import layout
from drtool.repository.backups import (
    Manifest,
    backed_up_sources,
    backup_ids,
    begin_attempt,
    commit_backup,
    decode_manifest,
    encode_manifest,
    new_backup_id,
    open_table,
    read_manifest,
    read_manifests,
    read_newest_manifest,
    unfinished_attempts,
)
from drtool.repository.chunks import ChunkReader
from drtool.repository.repository import Repository
from drtool.repository.sealing import ObjectType
from tests.repository.building import (
    EXTENT_OF_BACKUP,
    NOW,
    FailingStore,
    a_tree,
    new_repository,
    store_tree,
    tamper,
)


@pytest.fixture
def repository() -> Repository:
    return new_repository()


@pytest.fixture
def manifest(repository: Repository, tmp_path: Path) -> Manifest:
    return store_tree(repository, a_tree(tmp_path, {"base/1": b"x" * 9000}))


def test_a_manifest_comes_back_as_it_was_put(repository: Repository, manifest: Manifest) -> None:
    full = dataclasses.replace(
        manifest,
        backup_id="20240502T000000Z-0000ff",
        extent=dataclasses.replace(
            EXTENT_OF_BACKUP,
            system_id=2**64 - 1,
            start_lsn=Lsn(2**64 - 1),
            tablespaces=((16390, "/srv/zażółć gęślą"),),
        ),
        findings=(Finding(severity=Severity.PROBLEM, subject="base/1", fact="bad", fix="mend"),),
    )
    commit_backup(repository, full)

    assert read_manifest(repository, "main", full.backup_id) == full
    assert read_manifests(repository, "main") == ([manifest, full], [])
    assert backed_up_sources(repository) == ["main"]


def test_the_table_of_a_manifest_holds_the_files(
    repository: Repository, manifest: Manifest
) -> None:
    reader = ChunkReader(repository.store, repository.ring)

    table = open_table(manifest, reader)

    assert [record.attributes.path for record in table] == [
        b"PG_VERSION", b"base", b"base/1", b"global", b"global/pg_control",
    ]  # fmt: skip
    assert table.packs.ids == list(manifest.packs)


def test_a_backup_is_committed_once(repository: Repository, manifest: Manifest) -> None:
    with pytest.raises(AlreadyExists):
        commit_backup(repository, manifest)


def test_a_backup_that_is_not_there_is_not_recoverable(repository: Repository) -> None:
    with pytest.raises(NotRecoverable, match="no backup"):
        read_manifest(repository, "main", "20240501T100000Z-ffffff")


def test_a_damaged_manifest_is_named_and_hides_no_other(
    repository: Repository, manifest: Manifest
) -> None:
    later = dataclasses.replace(manifest, backup_id="20240502T000000Z-0000ff")
    commit_backup(repository, later)
    key = layout.manifest_key("main", manifest.backup_id)
    tamper(repository.store, key, repository.store.read(key)[:-1])

    manifests, errors = read_manifests(repository, "main")

    assert manifests == [later]
    assert [key in error.message for error in errors] == [True]


def test_the_newest_manifest_is_found_without_reading_those_before_it(
    repository: Repository, manifest: Manifest
) -> None:
    newest = dataclasses.replace(manifest, backup_id="20240502T000000Z-0000ff")
    damaged = dataclasses.replace(manifest, backup_id="20240503T000000Z-0000ff")
    for one in (newest, damaged):
        commit_backup(repository, one)
    # Damaged as well, and nobody looks at it.
    for one in (manifest, damaged):
        key = layout.manifest_key("main", one.backup_id)
        tamper(repository.store, key, repository.store.read(key)[:-1])

    found, errors = read_newest_manifest(repository, "main")

    assert found == newest
    assert [damaged.backup_id in error.message for error in errors] == [True]
    assert read_newest_manifest(repository, "nobody") == (None, [])


def test_a_manifest_copied_under_another_name_does_not_open(
    repository: Repository, manifest: Manifest
) -> None:
    """An old backup cannot be passed off as a newer one, nor as another source's."""
    key = layout.manifest_key("main", manifest.backup_id)
    copy = layout.manifest_key("other", manifest.backup_id)
    repository.store.create(copy, [repository.store.read(key)])

    with pytest.raises(IntegrityError, match=copy):
        read_manifest(repository, "other", manifest.backup_id)


def test_a_manifest_that_speaks_of_another_backup_is_damage(
    repository: Repository, manifest: Manifest
) -> None:
    key = layout.manifest_key("main", "20240503T000000Z-000000")
    repository.put(ObjectType.MANIFEST, key, encode_manifest(manifest))

    with pytest.raises(IntegrityError, match="another backup"):
        read_manifest(repository, "main", "20240503T000000Z-000000")


def test_a_manifest_from_the_future_says_which_drtool_reads_it(manifest: Manifest) -> None:
    document = json.loads(encode_manifest(manifest))

    for change in ({"manifest": 2}, {"kind": "mysql"}):
        with pytest.raises(IntegrityError) as refused:
            decode_manifest(
                json.dumps({**document, **change, "tool": "drtool 9"}).encode(), key="k"
            )
        assert "drtool 9" in refused.value.hint
        assert "damaged" not in refused.value.message


@pytest.mark.parametrize("missing", ["source", "packs", "table", "postgres", "sizes", "began"])
def test_a_manifest_that_lacks_something_is_damage(manifest: Manifest, missing: str) -> None:
    document = json.loads(encode_manifest(manifest))
    del document[missing]

    with pytest.raises(IntegrityError, match="damaged"):
        decode_manifest(json.dumps(document).encode(), key="k")


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"null", b"\xff", b'{"manifest": 1}'])
def test_what_is_no_manifest_is_damage(content: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode_manifest(content, key="k")


def test_a_backup_that_died_at_any_put_does_not_exist(tmp_path: Path) -> None:
    """PITFALLS 32: an interrupted backup is never listed."""
    tree = a_tree(tmp_path, {f"base/{n}": bytes([n]) * 300_000 for n in range(4)})
    store = FailingStore()
    repository = new_repository(store)
    for puts in range(50):
        store.puts_left = puts
        try:
            store_tree(repository, tree)
        except Exception:
            assert backup_ids(repository, "main") == []
            continue
        assert backup_ids(repository, "main") == ["20240501T100000Z-000001"]
        return
    raise AssertionError("the backup never came to its end")


def test_attempts_that_left_no_manifest_are_found_with_the_ids_of_their_packs(
    repository: Repository, manifest: Manifest
) -> None:
    done = begin_attempt(repository, "main", manifest.backup_id)
    dead = begin_attempt(repository, "main", "20240504T000000Z-000000")

    [found] = unfinished_attempts(repository, "main", most=5)

    assert found == dead
    assert [found.pack_id(n) for n in range(3)] == [dead.pack_id(n) for n in range(3)]
    assert len({one.pack_id(n) for one in (done, dead) for n in range(100)}) == 200


def test_backup_ids_sort_by_time_and_never_collide() -> None:
    ids = [new_backup_id(NOW + timedelta(milliseconds=n)) for n in range(50)]

    assert ids == sorted(ids)
    assert len({new_backup_id(NOW) for _ in range(50)}) == 50
    assert new_backup_id(datetime(2024, 5, 1, tzinfo=UTC)).startswith("20240501T000000.000Z-")

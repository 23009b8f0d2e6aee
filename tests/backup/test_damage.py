"""A repository that was damaged: the next backup is whole, says so, and mends what it can."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from drtool.model.finding import Severity
from drtool.model.outcome import BackupKind, BackupOutcome
from drtool.repository import chunks, layout
from drtool.repository.backups import Manifest, backup_ids, open_table
from drtool.repository.chunks import ChunkReader
from drtool.repository.places import ChunkPlace
from drtool.repository.repository import Repository
from tests.backup.reading import assert_holds
from tests.backup.stores import Died, FailsAt
from tests.backup.taking import (
    SOURCE,
    attempt_ids,
    manifest_of,
    new_repository,
    take_backup,
    through,
)
from tests.servers.postgres import PostgresServer, new_server

pytestmark = pytest.mark.postgres

MIB = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """About 30 MB of which 6 do not compress."""
    settings = {"autovacuum": "off", "bgwriter_lru_maxpages": "0", "checkpoint_timeout": "1d"}
    server = new_server(15, settings=settings)
    try:
        (server.data / "base" / "1" / "990001").write_bytes(os.urandom(6 * MIB))
        yield server
    finally:
        server.close()


@pytest.fixture(autouse=True)
def _small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs of 1 MiB, so that a small cluster has several."""
    monkeypatch.setattr(chunks, "PACK_BYTES", MIB)


def _replace(repository: Repository, key: str, content: bytes) -> None:
    """Damage an object, as a failing disk would."""
    repository.store.delete(key)
    repository.store.create(key, [content])


def _flip(repository: Repository, place: ChunkPlace) -> None:
    """Change a byte inside one chunk of a pack; its footer stays good."""
    footer = ChunkReader(repository.store, repository.ring).footer(place.pack_id)
    key = layout.pack_key(place.pack_id)
    content = bytearray(repository.store.read(key))
    content[int(footer.offsets[place.number]) + 5] ^= 0x40
    _replace(repository, key, bytes(content))


def _pack_of(manifest: Manifest, repository: Repository, path: str) -> bytes:
    """The pack that holds the beginning of a file."""
    table = open_table(manifest, ChunkReader(repository.store, repository.ring))
    [record] = [one for one in table if one.attributes.path == path.encode()]
    return table.packs.ids[int(record.extents[0]["pack"])]


def _digest_places(manifest: Manifest, repository: Repository) -> set[ChunkPlace]:
    table = open_table(manifest, ChunkReader(repository.store, repository.ring))
    return {
        table.packs.place(record.digests.pack, record.digests.chunk)
        for record in table
        if record.digests is not None
    }


def _assert_told(outcome: BackupOutcome, previous: BackupOutcome, fact: str) -> None:
    assert outcome.findings
    for finding in outcome.findings:
        assert finding.severity is Severity.WARNING
        assert finding.subject == f"backup {previous.backup_id}"
    assert any(fact in finding.fact for finding in outcome.findings)


def _assert_mended(server: PostgresServer, repository: Repository, outcome: BackupOutcome) -> None:
    """The backup is whole, refers to nothing that is gone, and the one after it has nothing to tell."""
    manifest = manifest_of(repository, outcome)
    assert_holds(manifest, repository, server.data)
    assert all(repository.store.stat(layout.pack_key(pack)) for pack in manifest.packs)
    after = take_backup(server.dsn(), repository)
    assert after.findings == ()
    assert after.kind is BackupKind.INCREMENTAL
    assert after.stored_bytes < MIB / 2
    assert_holds(manifest_of(repository, after), repository, server.data)


def test_content_of_a_lost_pack_is_stored_again(server: PostgresServer) -> None:
    repository = new_repository()
    first = take_backup(server.dsn(), repository)
    lost = _pack_of(manifest_of(repository, first), repository, "base/1/990001")
    repository.store.delete(layout.pack_key(lost))

    second = take_backup(server.dsn(), repository)

    assert lost not in manifest_of(repository, second).packs
    assert MIB / 2 < second.stored_bytes < first.stored_bytes / 2
    _assert_told(second, first, layout.pack_key(lost))
    _assert_mended(server, repository, second)


def test_content_of_a_truncated_pack_is_stored_again(server: PostgresServer) -> None:
    repository = new_repository()
    first = take_backup(server.dsn(), repository)
    lost = _pack_of(manifest_of(repository, first), repository, "base/1/990001")
    content = repository.store.read(layout.pack_key(lost))
    _replace(repository, layout.pack_key(lost), content[: len(content) // 2])

    second = take_backup(server.dsn(), repository)

    assert lost not in manifest_of(repository, second).packs
    _assert_told(second, first, "lost or damaged")
    _assert_mended(server, repository, second)


def test_without_the_previous_file_table_content_alone_is_compared(server: PostgresServer) -> None:
    repository = new_repository()
    first = take_backup(server.dsn(), repository)
    for place in set(manifest_of(repository, first).table):
        _flip(repository, place)

    second = take_backup(server.dsn(), repository)

    assert second.kind is BackupKind.FULL
    assert second.previous is None
    assert second.stored_bytes < first.stored_bytes / 2
    _assert_told(second, first, "could not be compared with")
    _assert_mended(server, repository, second)


def test_a_previous_file_table_that_is_gone_does_not_stop_a_backup(server: PostgresServer) -> None:
    repository = new_repository()
    first = take_backup(server.dsn(), repository)
    for pack_id in {place.pack_id for place in manifest_of(repository, first).table}:
        repository.store.delete(layout.pack_key(pack_id))

    second = take_backup(server.dsn(), repository)

    _assert_told(second, first, "is not in the repository")
    _assert_mended(server, repository, second)


def test_damaged_digests_are_made_anew(server: PostgresServer) -> None:
    repository = new_repository()
    first = take_backup(server.dsn(), repository)
    digests = _digest_places(manifest_of(repository, first), repository)
    for place in digests:
        _flip(repository, place)

    second = take_backup(server.dsn(), repository)

    assert not digests & _digest_places(manifest_of(repository, second), repository)
    _assert_told(second, first, "could not be compared with")
    _assert_mended(server, repository, second)


def test_without_the_previous_manifest_the_one_before_is_compared_with(
    server: PostgresServer,
) -> None:
    repository = new_repository()
    first = take_backup(server.dsn(), repository)
    second = take_backup(server.dsn(), repository)
    key = layout.manifest_key(SOURCE, second.backup_id)
    _replace(repository, key, repository.store.read(key)[:-7])

    third = take_backup(server.dsn(), repository)

    assert third.previous == first.backup_id
    assert third.stored_bytes < first.stored_bytes / 10
    assert backup_ids(repository, SOURCE)[0] == first.backup_id


def test_a_damaged_note_of_an_attempt_stops_no_backup(server: PostgresServer) -> None:
    repository = new_repository()
    with pytest.raises(Died):
        take_backup(server.dsn(), through(FailsAt(repository.store, 4, Died()), repository))
    [attempt] = attempt_ids(repository)
    _replace(repository, layout.attempt_key(SOURCE, attempt), b"not what was written")

    outcome = take_backup(server.dsn(), repository)

    assert_holds(manifest_of(repository, outcome), repository, server.data)


def test_a_damaged_pack_of_an_interrupted_backup_is_not_used(server: PostgresServer) -> None:
    repository = new_repository()
    store = FailsAt(repository.store, 6, Died())
    with pytest.raises(Died):
        take_backup(server.dsn(), through(store, repository))
    packs = [key for key in store.created if key.startswith("packs/")]
    assert packs
    _replace(repository, packs[0], repository.store.read(packs[0])[:-9])

    outcome = take_backup(server.dsn(), repository)

    used = {layout.pack_key(pack) for pack in manifest_of(repository, outcome).packs}
    assert packs[0] not in used
    assert set(packs[1:]) <= used
    assert_holds(manifest_of(repository, outcome), repository, server.data)

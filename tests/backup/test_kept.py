"""A store that acknowledges and does not keep: no backup says that it is there, and the next one heals."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from drtool.errors import IntegrityError, NotKept
from drtool.repository import confirmation, layout
from drtool.repository.backups import backup_ids, read_newest_manifest
from drtool.repository.repository import Repository
from drtool.stores.local import LocalStore
from drtool.stores.protocol import Buffer, Store, StoredObject
from tests.backup.stores import Through
from tests.backup.test_tree import same
from tests.backup.tree_taking import CLOCK, SOURCE, a_rich_tree, bring_back, snapshot
from tests.repository.building import new_repository


class Unkept(Through):
    """Acknowledges objects whose keys begin with `prefix`, and keeps none, or only their beginning."""

    def __init__(self, inner: Store, prefix: str, *, kept_bytes: int | None = None) -> None:
        super().__init__(inner)
        self._prefix = prefix
        self._kept_bytes = kept_bytes

    def create(self, key: str, parts: Sequence[Buffer]) -> None:
        if not key.startswith(self._prefix):
            super().create(key, parts)
        elif self._kept_bytes is not None:
            super().create(key, [b"".join(parts)[: self._kept_bytes]])


class Vanishing(Through):
    """Loses the first pack that was put, once it has been seen."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._has_lost = False

    def stat(self, key: str) -> StoredObject | None:
        found = self.inner.stat(key)
        if key.startswith("packs/") and not self._has_lost:
            self._has_lost = True
            self.inner.delete(key)
        return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return a_rich_tree(tmp_path / "tree")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    (tmp_path / "repository").mkdir()
    return new_repository(LocalStore(tmp_path / "repository", clock=CLOCK))


def through(store: Store, repository: Repository) -> Repository:
    return Repository(store, repository.ring, repository.root)


def assert_the_next_one_is_whole(repository: Repository, tree: Path, place: Path) -> None:
    snapshot(repository, tree)
    bring_back(repository, place)
    same(tree, place)


@pytest.mark.parametrize("kept_bytes", [None, 100], ids=["nothing", "a beginning"])
@pytest.mark.parametrize("prefix", ["packs/", "backups/"])
def test_what_the_store_acknowledges_and_does_not_keep_makes_no_backup(
    repository: Repository, tree: Path, tmp_path: Path, prefix: str, kept_bytes: int | None
) -> None:
    """Issue 8.6."""
    store = Unkept(repository.store, prefix, kept_bytes=kept_bytes)

    with pytest.raises(NotKept):
        snapshot(through(store, repository), tree)

    assert read_newest_manifest(repository, SOURCE)[0] is None
    assert_the_next_one_is_whole(repository, tree, tmp_path / "back")


@pytest.mark.parametrize("most_asked", [256, 0], ids=["asked for", "listed"])
def test_a_pack_that_vanishes_before_the_manifest_makes_no_backup(
    repository: Repository,
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most_asked: int,
) -> None:
    """The put was confirmed, and the object is lost behind it."""
    monkeypatch.setattr(confirmation, "MOST_ASKED", most_asked)

    with pytest.raises(NotKept, match=r"of the .* packs"):
        snapshot(through(Vanishing(repository.store), repository), tree)

    assert backup_ids(repository, SOURCE) == []
    assert_the_next_one_is_whole(repository, tree, tmp_path / "back")


@pytest.mark.parametrize("most_asked", [256, 0], ids=["asked for", "listed"])
def test_a_pack_of_an_earlier_backup_that_vanishes_meanwhile_makes_no_backup(
    repository: Repository,
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most_asked: int,
) -> None:
    """An incremental one stands on packs that somebody else has put."""
    monkeypatch.setattr(confirmation, "MOST_ASKED", most_asked)
    snapshot(repository, tree)
    manifest, _ = read_newest_manifest(repository, SOURCE)
    assert manifest is not None
    victim = layout.pack_key(manifest.packs[0])
    (tree / "new").write_bytes(b"new")

    class LosesAnother(Through):
        def create(self, key: str, parts: Sequence[Buffer]) -> None:
            super().create(key, parts)
            if key.startswith("packs/"):
                self.inner.delete(victim)

    with pytest.raises(NotKept, match="as they were acknowledged"):
        snapshot(through(LosesAnother(repository.store), repository), tree)

    assert backup_ids(repository, SOURCE) == [manifest.backup_id]
    assert_the_next_one_is_whole(repository, tree, tmp_path / "back")


class TellsDigests(Through):
    """An S3 server whose ETags are `digest` of what it keeps; it keeps zeros instead if told to."""

    def __init__(self, inner: Store, digest: str, *, keeps_zeros: bool) -> None:
        super().__init__(inner)
        self._digest = digest
        self._keeps_zeros = keeps_zeros

    def create(self, key: str, parts: Sequence[Buffer]) -> None:
        content = b"".join(parts)
        is_garbled = self._keeps_zeros and key.startswith("packs/")
        super().create(key, [bytes(len(content)) if is_garbled else content])

    def stat(self, key: str) -> StoredObject | None:
        found = self.inner.stat(key)
        told = hashlib.new(self._digest, self.inner.read(key)).hexdigest()[:32] if found else None
        return replace(found, md5=told) if found else None


def test_other_bytes_of_the_same_size_are_seen_by_the_digest_that_the_store_tells(
    repository: Repository, tree: Path
) -> None:
    store = TellsDigests(repository.store, "md5", keeps_zeros=True)

    with pytest.raises((IntegrityError, NotKept)):
        snapshot(through(store, repository), tree)

    assert backup_ids(repository, SOURCE) == []


def test_an_etag_that_is_no_digest_makes_the_pack_be_read_back_and_no_alarm(
    repository: Repository, tree: Path, tmp_path: Path
) -> None:
    """SSE-KMS: it has the form of an MD5 and is none."""
    store = TellsDigests(repository.store, "sha1", keeps_zeros=False)

    assert_the_next_one_is_whole(through(store, repository), tree, tmp_path / "back")

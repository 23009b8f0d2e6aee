"""A bucket mirrored into another: by the server itself, or through this machine."""

from __future__ import annotations

import itertools
import random
import threading
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from drtool.errors import AccessDenied, PolicyError, SourceUnsuitable
from drtool.mirror.buckets import BucketSettings, preview_bucket, sync_bucket
from drtool.mirror.catalogue import open_catalogue
from drtool.mirror.copying import Copied, Copier, NotCopied
from drtool.mirror.entries import MirrorEntry
from drtool.mirror.keys import is_own
from drtool.mirror.restoring import MirrorRestore, restore_from_mirror
from drtool.mirror.run import MirrorRun
from drtool.model.outcome import SyncOutcome
from drtool.model.progress import silent
from drtool.sources.files.entries import TreeEntry, TreeKind
from drtool.stores.bucket import open_bucket
from drtool.system.clock import SystemClock
from tests.mirror.rig import contents
from tests.servers.object_stores import SHARED_BUCKET, S3Server
from tests.servers.proxy import Answer, CutAnswer, LoseAnswer, always, proxied

pytestmark = pytest.mark.object_store

KEYS = ("plain", "with space", "plus+sign", "100%", "%41", "ü/日本", "a//b", "dir/", "q?&=#")


@dataclass(slots=True)
class Pair:
    """A source in one place and its mirror in another."""

    source: S3Server
    source_bucket: str
    mirror: S3Server
    mirror_bucket: str
    directory: Path
    prefix: str
    # Of a proxy before the source, and before the mirror where it is the same server.
    endpoint: str | None = None

    def put(self, key: str, content: bytes, **more: Any) -> None:
        self.source.client().put_object(
            Bucket=self.source_bucket, Key=f"{self.prefix}-src/{key}", Body=content, **more
        )

    def delete(self, key: str) -> None:
        self.source.client().delete_object(
            Bucket=self.source_bucket, Key=f"{self.prefix}-src/{key}"
        )

    @property
    def settings(self) -> BucketSettings:
        url = self.source.url(self.source_bucket, f"{self.prefix}-src", endpoint=self.endpoint)
        return BucketSettings(source="assets", bucket=open_bucket(url, clock=SystemClock()))

    @property
    def target(self) -> Any:
        endpoint = self.endpoint if self.mirror is self.source else None
        url = self.mirror.url(self.mirror_bucket, f"{self.prefix}-dst", endpoint=endpoint)
        return open_bucket(url, clock=SystemClock())

    def sync(self, **settings: Any) -> SyncOutcome:
        catalogue = open_catalogue(self.directory / "cache" / "c.sqlite", identity="assets")
        try:
            return sync_bucket(replace(self.settings, **settings), self._run(catalogue))
        finally:
            catalogue.close()

    def preview(self) -> dict[str, object]:
        catalogue = open_catalogue(self.directory / "cache" / "c.sqlite", identity="assets")
        try:
            sheet = preview_bucket(self.settings, self._run(catalogue))
            return {fact.name: fact.value for fact in sheet.facts}
        finally:
            catalogue.close()

    def objects(self) -> dict[str, bytes]:
        client, prefix = self.mirror.client(), f"{self.prefix}-dst/"
        found = {}
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=self.mirror_bucket, Prefix=prefix
        )
        for page in pages:
            for item in page.get("Contents", []):
                key = item["Key"].removeprefix(prefix)
                if not is_own(key):
                    answer = client.get_object(Bucket=self.mirror_bucket, Key=item["Key"])
                    found[key] = answer["Body"].read()
        return found

    def restore(self, name: str, moment: datetime | None = None) -> Path:
        wanted = MirrorRestore(
            source="assets",
            moment=moment,
            into=self.directory / name,
            is_plan=False,
            clock=SystemClock(),
            emit=silent,
            stop=threading.Event(),
        )
        restore_from_mirror(wanted, self.target)
        return wanted.into

    def _run(self, catalogue: Any) -> MirrorRun:
        return MirrorRun(
            bucket=self.target,
            catalogue=catalogue,
            clock=SystemClock(),
            emit=silent,
            stop=threading.Event(),
            check=lambda: None,
        )


@pytest.fixture
def same(seaweedfs: S3Server, versioned_bucket: str, tmp_path: Path) -> Pair:
    """Both on one server; the mirror keeps versions."""
    return Pair(
        seaweedfs, SHARED_BUCKET, seaweedfs, versioned_bucket, tmp_path, f"b-{uuid.uuid4().hex[:8]}"
    )


@pytest.fixture
def across(moto_s3: S3Server, seaweedfs: S3Server, versioned_bucket: str, tmp_path: Path) -> Pair:
    """From one server to another."""
    bucket = moto_s3.new_bucket()
    return Pair(moto_s3, bucket, seaweedfs, versioned_bucket, tmp_path, f"b-{uuid.uuid4().hex[:8]}")


@pytest.fixture(params=["same", "across"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """Each of the two."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Pair)
    return found


def test_any_key_is_copied_under_its_own_name(across: Pair) -> None:
    """PITFALLS 88: also keys that are no paths."""
    for key in KEYS:
        across.put(key, b"" if key.endswith("/") else key.encode())

    outcome = across.sync()

    # SeaweedFS keeps directories, and makes one slash of two: its own doing, not the mirror's.
    expected = {key for key in KEYS if "//" not in key and not key.endswith("/")}
    assert outcome.put_files == len(KEYS)
    assert expected <= set(across.objects())


def test_only_what_changed_is_copied(pair: Pair) -> None:
    for name in "abcdefgh":
        pair.put(name, name.encode())
    pair.sync()
    pair.put("a", b"A")
    pair.put("new", b"n")

    planned = pair.preview()
    outcome = pair.sync()
    again = pair.sync()

    assert (planned["new"], planned["changed"]) == (1, 1)
    assert (outcome.put_files, again.put_files) == (2, 0)
    assert pair.objects()["a"] == b"A"


def test_the_parts_that_a_killed_run_left_of_an_object_are_given_up(pair: Pair) -> None:
    pair.put("a", b"a")
    client, prefix = pair.mirror.client(), f"{pair.prefix}-dst/"
    client.create_multipart_upload(Bucket=pair.mirror_bucket, Key=f"{prefix}a")

    pair.sync()

    answer = client.list_multipart_uploads(Bucket=pair.mirror_bucket, Prefix=prefix)
    assert answer.get("Uploads", []) == []


def test_a_deleted_object_can_still_be_read_as_of_then(pair: Pair) -> None:
    for name in "abcdefgh":
        pair.put(name, name.encode())
    pair.sync()
    before = datetime.now(UTC)
    pair.delete("a")
    pair.put("b", b"changed")

    outcome = pair.sync()

    assert outcome.deleted_files == 1
    assert "a" not in pair.objects()
    then = contents(pair.restore("then", before))
    assert (then[b"a"], then[b"b"]) == (b"a", b"b")
    assert contents(pair.restore("now"))[b"b"] == b"changed"


def test_metadata_goes_along(pair: Pair) -> None:
    pair.put("a", b"x", Metadata={"owner": "shop"}, ContentType="image/png")

    pair.sync()

    met = pair.mirror.client().head_object(Bucket=pair.mirror_bucket, Key=f"{pair.prefix}-dst/a")
    assert (met["Metadata"].get("owner"), met["ContentType"]) == ("shop", "image/png")


def test_the_encoding_of_an_object_goes_along(pair: Pair) -> None:
    """Without it a browser would show the packed bytes."""
    pair.put("a", b"packed", ContentEncoding="gzip", CacheControl="max-age=60")

    pair.sync()

    met = pair.mirror.client().head_object(Bucket=pair.mirror_bucket, Key=f"{pair.prefix}-dst/a")
    assert (met["ContentEncoding"], met["CacheControl"]) == ("gzip", "max-age=60")


def test_an_emptied_source_stops_the_run(pair: Pair) -> None:
    """PITFALLS 86."""
    for name in "abcd":
        pair.put(name, name.encode())
    pair.sync()
    for name in "abcd":
        pair.delete(name)

    with pytest.raises(SourceUnsuitable, match="empty"):
        pair.sync(max_delete_percent=100)

    assert sorted(pair.objects()) == ["a", "b", "c", "d"]


def test_a_bucket_that_somebody_encrypted_stops_the_run_until_it_is_accepted(pair: Pair) -> None:
    rng = random.Random(5)
    for number in range(24):
        pair.put(f"{number}.txt", b"a line of an ordinary text file\n" * 300)
    pair.put("was random", rng.randbytes(9600))
    pair.sync()
    for number in range(24):
        pair.put(f"{number}.txt", rng.randbytes(9600))

    with pytest.raises(SourceUnsuitable, match="encrypted"):
        pair.sync()
    kept = pair.objects()["7.txt"]
    outcome = pair.sync(accepts_source=True)

    assert kept.startswith(b"a line of")
    assert outcome.put_files == 24


def test_objects_that_changed_and_are_still_text_stop_nothing(across: Pair) -> None:
    for number in range(24):
        across.put(f"{number}.txt", b"a line of an ordinary text file\n" * 300)
    across.sync()
    for number in range(24):
        across.put(f"{number}.txt", b"another line of an ordinary text file\n" * 300)

    assert across.sync().put_files == 24


def test_a_mirror_inside_its_source_is_refused(same: Pair) -> None:
    url = same.mirror.url(same.mirror_bucket)

    with pytest.raises(PolicyError, match="lies inside it"):
        same.sync(bucket=open_bucket(url, clock=SystemClock()))


def test_an_object_that_changed_since_the_listing_is_copied_as_it_is_now(pair: Pair) -> None:
    """PITFALLS 89: the copy says which etag it means, and looks again if that one is gone."""
    pair.put("a", b"new content")
    listed = _entry("a", etag="0123456789abcdef0123456789abcdef", size_bytes=3)

    done = Copier(pair.settings.bucket, pair.target).copy(listed)

    assert isinstance(done, Copied)
    assert done.entry.tree.size_bytes == 11
    assert pair.objects() == {"a": b"new content"}


def test_an_object_that_vanished_since_the_listing_is_no_failure(pair: Pair) -> None:
    listed = _entry("gone", etag="0123456789abcdef0123456789abcdef", size_bytes=3)

    done = Copier(pair.settings.bucket, pair.target).copy(listed)

    assert done == NotCopied("gone", None)


def test_an_object_too_large_for_one_copy_is_copied_in_parts(same: Pair) -> None:
    content = bytes(range(256)) * (12 << 12)
    same.put("big", content, Metadata={"owner": "shop"}, ContentType="video/mp4")
    [listed] = _listed(same)
    copier = Copier(same.settings.bucket, same.target, whole_bytes=6 << 20, part_bytes=5 << 20)

    done = copier.copy(listed)

    assert isinstance(done, Copied)
    assert same.objects() == {"big": content}
    met = same.mirror.client().head_object(Bucket=same.mirror_bucket, Key=f"{same.prefix}-dst/big")
    assert (met["Metadata"].get("owner"), met["ContentType"]) == ("shop", "video/mp4")


def test_a_source_that_breaks_off_is_read_on_where_it_broke(across: Pair) -> None:
    content = random.Random(3).randbytes(20 << 20)
    across.put("large", content)
    with proxied(across.source.address) as proxy:
        reads = itertools.count()
        proxy.choice = lambda _number, line: (
            CutAnswer(6 << 20) if _is_read(line) and next(reads) < 3 else None
        )
        across.endpoint = proxy.endpoint
        outcome = across.sync()

    assert next(reads) >= 4
    assert (outcome.put_files, outcome.findings) == (1, ())
    assert across.objects() == {"large": content}


def test_a_source_that_breaks_off_each_time_is_named_and_leaves_no_parts(across: Pair) -> None:
    across.put("large", random.Random(3).randbytes(20 << 20))
    [wanted] = _listed(across)
    with proxied(across.source.address) as proxy:
        proxy.choice = lambda _number, line: CutAnswer(300) if _is_read(line) else None
        across.endpoint = proxy.endpoint
        done = Copier(across.settings.bucket, across.target).copy(wanted)

    assert isinstance(done, NotCopied)
    assert done.error is not None
    assert across.source_bucket in done.error.message
    assert "large breaks off while it is read" in done.error.message
    assert _uploads(across) == []


def test_an_object_that_changes_while_it_is_read_on_is_never_pieced_together(across: Pair) -> None:
    across.put("large", bytes(20 << 20))
    [wanted] = _listed(across)
    with proxied(across.source.address) as proxy:
        reads = itertools.count()

        def changed(_number: int, line: str) -> CutAnswer | None:
            if not _is_read(line):
                return None
            match next(reads):
                case 0:
                    return CutAnswer(9 << 20)
                case 1:
                    across.put("large", b"1" * (20 << 20))
            return None

        proxy.choice = changed
        across.endpoint = proxy.endpoint
        done = Copier(across.settings.bucket, across.target).copy(wanted)

    assert isinstance(done, Copied)
    assert across.objects() == {"large": b"1" * (20 << 20)}
    assert _uploads(across) == []


def test_a_completed_copy_whose_answer_was_lost_is_no_failure(same: Pair) -> None:
    content = random.Random(2).randbytes(13 << 20)
    same.put("large", content)
    [wanted] = _listed(same)
    with proxied(same.mirror.address) as proxy:
        # S3 forgets an upload once it is completed; this server does not, so the proxy answers for it.
        answers = iter((LoseAnswer(), Answer(404, "NoSuchUpload")))
        proxy.choice = lambda _number, line: (
            next(answers, None) if line.startswith("POST") and "uploadId" in line else None
        )
        same.endpoint = proxy.endpoint
        copier = Copier(same.settings.bucket, same.target, whole_bytes=1 << 20, part_bytes=5 << 20)
        done = copier.copy(wanted)

    assert next(answers, None) is None
    assert isinstance(done, Copied)
    assert same.objects() == {"large": content}
    assert _uploads(same) == []


def test_what_the_source_refuses_is_not_said_of_the_mirror(across: Pair) -> None:
    across.put("a", b"a")
    [wanted] = _listed(across)
    with proxied(across.source.address) as proxy:
        proxy.choice = always(Answer(403, "AccessDenied"))
        across.endpoint = proxy.endpoint
        done = Copier(across.settings.bucket, across.target).copy(wanted)

    assert isinstance(done, NotCopied)
    assert isinstance(done.error, AccessDenied)
    assert across.source_bucket in done.error.message
    assert across.mirror_bucket not in done.error.message


def test_missing_credentials_are_named_with_what_was_looked_for(
    across: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    across.put("a", b"a")
    [wanted] = _listed(across)
    source, mirror = across.settings.bucket, across.target
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    done = Copier(source, mirror).copy(wanted)

    assert isinstance(done, NotCopied)
    assert done.error is not None
    assert "credentials" in f"{done.error.message} {done.error.hint}"
    assert across.source_bucket in done.error.message


def _is_read(line: str) -> bool:
    return line.startswith("GET") and "large" in line


def _uploads(pair: Pair) -> list[str]:
    answer = pair.mirror.client().list_multipart_uploads(
        Bucket=pair.mirror_bucket, Prefix=pair.prefix
    )
    return [upload["Key"] for upload in answer.get("Uploads", [])]


def _listed(pair: Pair) -> list[MirrorEntry]:
    answer = pair.source.client().list_objects_v2(
        Bucket=pair.source_bucket, Prefix=f"{pair.prefix}-src/"
    )
    return [
        _entry(
            item["Key"].removeprefix(f"{pair.prefix}-src/"),
            etag=item["ETag"].strip('"'),
            size_bytes=item["Size"],
        )
        for item in answer["Contents"]
    ]


def _entry(key: str, *, etag: str, size_bytes: int) -> MirrorEntry:
    tree = TreeEntry(
        path=key.encode(), kind=TreeKind.FILE, mode=0o644, uid=0, gid=0, owner=None, group=None,
        modified_ns=0, changed_ns=0, inode=0, device=0, links=1, size_bytes=size_bytes,
    )  # fmt: skip
    return MirrorEntry(tree=tree, source_etag=etag)

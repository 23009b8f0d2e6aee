"""Runs that are killed, networks that fail, files that change, objects that are not what they were."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drtool.errors import (
    AccessDenied,
    DestinationRefused,
    IntegrityError,
    NotRecoverable,
    RepositoryUnavailable,
)
from drtool.mirror.manifests import list_runs, run_key
from drtool.model.finding import Severity
from drtool.sources.files.entries import TreeEntry
from drtool.sources.files.walk import walk_tree
from drtool.stores.remote_client import RemoteLimits
from drtool.system.retry import RetryLimits
from tests.archiving.rig import until
from tests.backup.test_tree_renames import STORM, a_maildir, running
from tests.mirror.rig import Rig, contents, settle
from tests.servers.object_stores import SHARED_BUCKET, S3Server
from tests.servers.proxy import (
    Answer,
    Choice,
    CutRequest,
    LoseAnswer,
    Reset,
    Silence,
    always,
    every_other,
    first,
    proxied,
)

pytestmark = pytest.mark.object_store


def test_a_killed_run_is_gone_on_with_where_it_was(plain: Rig) -> None:
    for number in range(1500):
        plain.write(f"d{number % 10}/{number}", b"%d" % number)
    settle(plain.tree / "d9" / "1499")
    url = plain.server.url(plain.bucket_name, plain.prefix)
    command = [sys.executable, "-m", "tests.mirror.killed", url, str(plain.directory), "1200"]
    ended = subprocess.run(command, check=False, capture_output=True, timeout=120)
    runs_before = list_runs(plain.bucket)

    outcome = plain.sync()

    assert ended.returncode == -9, ended.stderr
    assert runs_before == []
    # 1,200 were put; what is remembered lags behind by 500 and what was on its way.
    assert outcome.put_files <= 900
    assert contents(plain.restore("out")) == contents(plain.tree)


def test_the_parts_that_a_killed_run_left_are_given_up_and_nobody_elses(rig: Rig) -> None:
    rig.write("big", os.urandom(17 << 20))
    with proxied(rig.server.address) as proxy:
        proxy.choice = lambda _number, line: Silence() if "partNumber=2" in line else None
        url = rig.server.url(rig.bucket_name, rig.prefix, endpoint=proxy.endpoint)
        command = [sys.executable, "-m", "tests.mirror.killed", url, str(rig.directory), "16"]
        with subprocess.Popen(command) as process:
            try:
                until(lambda: uploads_of(rig) == ["big"], "parts of the large file")
            finally:
                process.kill()
    client = rig.server.client()
    client.create_multipart_upload(Bucket=rig.bucket_name, Key=f"{rig.prefix}/another's")

    rig.sync()

    assert uploads_of(rig) == ["another's"]
    assert contents(rig.restore("out")) == contents(rig.tree)


def test_a_run_that_came_to_its_end_leaves_no_question_for_the_next(rig: Rig) -> None:
    # Settled: what changed just now is put again, and a large one in parts, which is a reason to ask.
    settle(rig.write("big", os.urandom(9 << 20)))
    rig.sync()
    rig.write("small", b"new")
    asked: list[str] = []
    with proxied(rig.server.address) as proxy:
        proxy.choice = lambda _number, line: asked.append(line)
        rig.endpoint = proxy.endpoint
        rig.sync()
        rig.endpoint = None

    assert asked
    assert [line for line in asked if line.startswith("GET") and "uploads" in line] == []


def test_a_store_that_lists_no_uploads_is_told_of_and_mirrored_to(plain: Rig) -> None:
    plain.write("a", b"a")
    with proxied(plain.server.address) as proxy:
        refuse = Answer(403, "AccessDenied")
        proxy.choice = lambda _number, line: refuse if "uploads" in line else None
        plain.endpoint = proxy.endpoint
        outcome = plain.sync()
        plain.endpoint = None

    [finding] = outcome.findings
    assert (finding.severity, "AccessDenied" in finding.fact) == (Severity.NOTE, True)
    assert plain.objects() == {"a": b"a"}
    # It is asked again as long as it has not answered.
    plain.server.client().create_multipart_upload(Bucket=plain.bucket_name, Key=f"{plain.prefix}/b")
    plain.write("b", b"b")
    assert plain.sync().findings == ()
    assert uploads_of(plain) == []


def test_nothing_is_said_of_parts_in_a_bucket_that_never_had_any(
    rclone_s3: S3Server, tmp_path: Path
) -> None:
    rig = Rig(rclone_s3, rclone_s3.new_bucket(), tmp_path)
    rig.write("a", b"a")

    assert rig.sync().findings == ()


def uploads_of(rig: Rig) -> list[str]:
    """The keys of objects that are being put in parts, as the bucket says it."""
    client = rig.server.client()
    try:
        answer = client.list_multipart_uploads(Bucket=rig.bucket_name, Prefix=f"{rig.prefix}/")
    except client.exceptions.NoSuchUpload:
        return []  # rclone, of a bucket without any
    return [one["Key"].removeprefix(f"{rig.prefix}/") for one in answer.get("Uploads", [])]


def test_a_file_turned_back_after_a_run_that_was_killed_is_put_again(rig: Rig) -> None:
    """The killed run had put the other content, and neither catalogue nor manifest tells of it."""
    client, name = rig.server.client(), rig.bucket_name
    rig.write("small", b"as it was")
    rig.write("large", b"0" * (9 << 20))
    rig.sync()
    for key, content in (("small", b"encrypted"), ("large", b"1" * (9 << 20))):
        client.put_object(Bucket=name, Key=f"{rig.prefix}/{key}", Body=content)
    rig.write("small", b"as it was")
    rig.write("large", b"0" * (9 << 20))

    rig.sync()

    assert rig.objects() == {"small": b"as it was", "large": b"0" * (9 << 20)}


def test_every_second_request_fails_and_the_mirror_is_whole(versioned: Rig) -> None:
    for number in range(30):
        versioned.write(f"{number}", b"%d" % number)
    with proxied(versioned.server.address) as proxy:
        proxy.choice = every_other(Reset())
        versioned.endpoint = proxy.endpoint

        outcome = versioned.sync()
        versioned.endpoint = None

    assert outcome.put_files == 30
    assert contents(versioned.restore("out")) == contents(versioned.tree)


def test_a_large_file_whose_upload_breaks_is_read_and_put_anew(versioned: Rig) -> None:
    content = os.urandom(17 << 20)
    versioned.write("big", content)
    with proxied(versioned.server.address) as proxy:
        proxy.choice = first(1, CutRequest(1 << 20), method="PUT")
        versioned.endpoint = proxy.endpoint

        versioned.sync()
        versioned.endpoint = None

    assert uploads_of(versioned) == []
    assert versioned.objects() == {"big": content}


def test_a_large_file_goes_up_over_a_line_on_which_every_third_put_breaks(versioned: Rig) -> None:
    """A request is tried again, not the object: with six parts none of them would ever get through."""
    content = os.urandom(48 << 20)
    versioned.write("big", content)
    puts = 0
    creations = 0

    def choose(_number: int, line: str) -> Reset | None:
        nonlocal puts, creations
        creations += line.startswith("POST") and "uploads" in line
        puts += line.startswith("PUT")
        return Reset() if line.startswith("PUT") and puts % 3 == 0 else None

    with proxied(versioned.server.address) as proxy:
        proxy.choice = choose
        versioned.endpoint = proxy.endpoint
        outcome = versioned.sync()
        versioned.endpoint = None

    assert outcome.findings == ()
    assert creations == 1
    assert uploads_of(versioned) == []
    assert versioned.objects() == {"big": content}


def test_a_large_file_whose_completion_is_answered_into_the_void_is_there_once(
    versioned: Rig,
) -> None:
    content = os.urandom(17 << 20)
    versioned.write("big", content)
    with proxied(versioned.server.address) as proxy:
        proxy.choice = once(LoseAnswer(), lambda line: "POST" in line and "uploadId=" in line)
        versioned.endpoint = proxy.endpoint
        versioned.sync()
        versioned.endpoint = None

    assert uploads_of(versioned) == []
    assert versioned.objects() == {"big": content}


@pytest.mark.parametrize("ends_well", [True, False])
def test_an_upload_whose_beginning_was_answered_into_the_void_does_not_stay(
    versioned: Rig, *, ends_well: bool
) -> None:
    versioned.write("big", os.urandom(9 << 20))
    lost = once(LoseAnswer(), lambda line: line.startswith("POST") and "uploads" in line)
    refused = Answer(403, "AccessDenied")
    with proxied(versioned.server.address) as proxy:
        proxy.choice = lambda number, line: (
            refused if line.startswith("PUT") and not ends_well else lost(number, line)
        )
        versioned.endpoint = proxy.endpoint
        if ends_well:
            versioned.sync()
        else:
            with pytest.raises(AccessDenied):
                versioned.sync()
        versioned.endpoint = None

    assert uploads_of(versioned) == []


def once(fault: LoseAnswer, is_meant: Callable[[str], bool]) -> Choice:
    """`fault` for the first request whose line is meant."""
    has_met = False

    def choose(_number: int, line: str) -> LoseAnswer | None:
        nonlocal has_met
        if has_met or not is_meant(line):
            return None
        has_met = True
        return fault

    return choose


def test_one_file_that_the_store_refuses_is_told_and_the_others_go_on(plain: Rig) -> None:
    for name in ("a", "bad", "c"):
        plain.write(name, name.encode())
    with proxied(plain.server.address) as proxy:
        refuse = Answer(400, "InvalidRequest")
        proxy.choice = lambda _number, line: refuse if "/bad" in line else None
        plain.endpoint = proxy.endpoint

        outcome = plain.sync()
        plain.endpoint = None

    [finding] = outcome.findings
    assert (finding.severity, finding.subject) == (Severity.PROBLEM, "bad")
    assert sorted(plain.objects()) == ["a", "c"]
    assert plain.sync().put_files == 1


def test_a_store_that_refuses_everything_ends_the_run(plain: Rig) -> None:
    for number in range(20):
        plain.write(f"{number}", b"x")
    with proxied(plain.server.address) as proxy:
        proxy.choice = lambda _number, line: (
            Answer(400, "InvalidRequest") if line.startswith("PUT") else None
        )
        plain.endpoint = proxy.endpoint

        with pytest.raises(RepositoryUnavailable):
            plain.sync()
        plain.endpoint = None

    assert list_runs(plain.bucket) == []


def test_a_store_that_cannot_be_asked_is_no_empty_mirror(plain: Rig) -> None:
    """STYLE, invariant 7: "it is not there" and "I could not look" are not the same answer."""
    plain.write("a", b"a")
    plain.sync()
    with proxied(plain.server.address) as proxy:
        proxy.choice = always(Answer(503, "SlowDown"))
        plain.endpoint = proxy.endpoint

        with pytest.raises(RepositoryUnavailable):
            plain.sync()
        plain.endpoint = None

    assert plain.sync().put_files == 0


def test_a_file_that_is_always_written_to_is_stored_and_told(plain: Rig) -> None:
    path = plain.write("log", b"begin\n" * 100_000)
    stop = threading.Event()

    def append() -> None:
        with path.open("ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"more\n")

    writer = threading.Thread(target=append)
    writer.start()
    try:
        outcome = plain.sync()
    finally:
        stop.set()
        writer.join()

    assert outcome.put_files == 1
    assert plain.objects()["log"].startswith(b"begin\n")
    plain.sync()
    assert plain.objects()["log"] == path.read_bytes()


def test_an_unreadable_directory_is_told_and_nothing_below_it_is_taken_for_deleted(
    plain: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the tree on another file system is not looked into: what it held is not gone."""
    from drtool.mirror.catalogue import open_catalogue

    for name in ("a", "d/b", "d/e/c", "dd"):
        plain.write(name, name.encode())
    plain.sync()
    catalogue = open_catalogue(plain.directory / "cache" / "c.sqlite", identity="uploads")
    try:
        catalogue.saw(
            item
            for item in walk_tree(plain.tree)
            if isinstance(item, TreeEntry) and item.path in (b"", b"a")
        )
        catalogue.shield(b"d")

        unseen = [path for path, is_file in catalogue.unseen() if is_file]
    finally:
        catalogue.close()

    assert unseen == [b"dd"]


def test_every_moment_between_runs_comes_back_where_versions_are_kept(versioned: Rig) -> None:
    moments: list[datetime] = []
    states: list[dict[bytes, bytes]] = []
    for step in range(4):
        versioned.write("changes", b"state %d" % step)
        versioned.write(f"new-{step}", b"x" * step)
        if step == 2:
            (versioned.tree / "new-0").unlink()
        versioned.sync(max_delete_percent=50)
        moments.append(datetime.now(UTC))
        states.append(contents(versioned.tree))

    found = [contents(versioned.restore(f"out-{n}", moment)) for n, moment in enumerate(moments)]

    assert found == states


def test_an_overwritten_file_of_a_plain_bucket_is_refused_before_anything_is_written(
    plain: Rig,
) -> None:
    plain.write("a", b"one")
    plain.write("b", b"same")
    plain.sync()
    moment = datetime.now(UTC)
    plain.write("a", b"two")
    plain.sync()

    with pytest.raises(NotRecoverable, match="1 file of uploads changed there, such as a"):
        plain.restore("out", moment)

    assert not (plain.directory / "out").exists()


def test_a_moment_before_the_first_run_is_refused_with_the_first_that_there_is(plain: Rig) -> None:
    plain.write("a", b"one")
    plain.sync()

    with pytest.raises(NotRecoverable) as caught:
        plain.restore("out", datetime.now(UTC) - timedelta(days=1))

    assert "first one ended at" in caught.value.hint


def test_an_object_that_somebody_changed_is_never_restored(plain: Rig) -> None:
    plain.write("a", b"one")
    plain.sync()
    plain.server.client().put_object(Bucket=plain.bucket_name, Key=f"{plain.prefix}/a", Body=b"two")

    with pytest.raises(IntegrityError, match="object a is not the file"):
        plain.restore("out")


def test_an_object_that_is_gone_is_told_by_its_name(plain: Rig) -> None:
    plain.write("a", b"one")
    plain.sync()
    plain.server.client().delete_object(Bucket=plain.bucket_name, Key=f"{plain.prefix}/a")

    with pytest.raises(NotRecoverable, match="object a is gone"):
        plain.restore("out")


def test_a_missing_manifest_is_told_and_a_rehash_begins_a_whole_one(versioned: Rig) -> None:
    versioned.write("a", b"one")
    versioned.sync()
    versioned.write("a", b"two")
    middle = versioned.sync().run_id
    versioned.write("b", b"three")
    versioned.sync()
    versioned.bucket.delete(run_key(middle))

    with pytest.raises(NotRecoverable, match=middle):
        versioned.restore("broken")
    versioned.sync(is_rehash=True)

    assert contents(versioned.restore("out")) == {b"a": b"two", b"b": b"three"}


def test_a_cut_manifest_is_never_half_believed(plain: Rig) -> None:
    plain.write("a", b"one")
    run_id = plain.sync().run_id
    key = run_key(run_id)
    whole = plain.bucket.read(key)
    plain.bucket.put(key, whole[: len(whole) // 2], {})

    with pytest.raises(IntegrityError):
        plain.restore("out")


def test_a_destination_with_something_in_it_is_refused(plain: Rig) -> None:
    plain.write("a", b"one")
    plain.sync()
    (plain.directory / "out").mkdir()
    (plain.directory / "out" / "mine").write_bytes(b"")

    with pytest.raises(DestinationRefused, match="not empty"):
        plain.restore("out")


def test_a_plan_of_a_restore_writes_nothing(plain: Rig) -> None:
    plain.write("a", b"one")
    plain.sync()

    into = plain.restore("out", is_plan=True)

    assert not into.exists()


def test_a_maildir_whose_messages_are_renamed_meanwhile_is_mirrored_whole(versioned: Rig) -> None:
    """The run before has each message under another name: what is not found now is let go for good."""
    a_maildir(versioned.tree, files=300)
    versioned.sync()
    for path in sorted((versioned.tree / "cur").iterdir()):
        path.rename(versioned.tree / "new" / f"{path.name}S")

    with running(STORM, versioned.tree, 0.002):
        outcome = versioned.sync()

    found = list(contents(versioned.restore("out")).values())
    assert set(found) == {b"message %d" % number for number in range(300)}
    # What was renamed after it was put may stand under two names, until the next run.
    assert len(found) < 330
    assert all("stay in the mirror" in one.fact for one in outcome.findings)


def test_a_file_that_is_renamed_before_it_is_put_is_put_under_its_new_name(rig: Rig) -> None:
    for number in range(40):
        rig.write(f"old/{number}", b"%d" % number)
    with proxied(rig.server.address) as proxy:

        def rename(_number: int, line: str) -> None:
            if line.startswith("PUT") and (rig.tree / "old/39").exists():
                (rig.tree / "old/39").rename(rig.tree / "old/renamed")

        proxy.choice = rename
        rig.endpoint = proxy.endpoint
        outcome = rig.sync()
        rig.endpoint = None

    expected = {f"old/{number}": b"%d" % number for number in range(39)} | {"old/renamed": b"39"}
    assert rig.objects() == expected
    assert contents(rig.restore("out")) == contents(rig.tree)
    assert outcome.findings == ()


@pytest.mark.parametrize("kind", ["versioned", "plain", "both at once", "seaweedfs"])
@pytest.mark.parametrize("was_directory", [True, False])
def test_a_file_and_a_directory_change_places(
    kind: str, was_directory: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Servers that keep objects as files cannot have `x` and `x/inside` at once."""
    if kind == "both at once":
        rig = Rig(request.getfixturevalue("moto_s3"), SHARED_BUCKET, tmp_path)
    elif kind == "seaweedfs":
        rig = Rig(request.getfixturevalue("seaweedfs"), SHARED_BUCKET, tmp_path)
    else:
        rig = request.getfixturevalue(kind)
    rig.limits = RemoteLimits(retries=RetryLimits(attempts=2, within_seconds=10))
    first, second = ("x/inside{}", "x") if was_directory else ("x", "x/inside{}")
    for number in range(7 if was_directory else 1):
        rig.write(first.format(number), b"first")
    rig.write("other", b"other")
    rig.sync(max_delete_percent=100.0)
    path = rig.tree / "x"
    shutil.rmtree(path) if was_directory else path.unlink()
    for number in range(1 if was_directory else 7):
        rig.write(second.format(number), b"second")

    outcome = rig.sync(max_delete_percent=100.0)
    problems = [one.subject for one in outcome.findings if one.severity is Severity.PROBLEM]
    if kind == "plain" and was_directory:
        # This server keeps a directory of its own where objects were, and no request removes it.
        assert problems == ["x"]
        return
    assert problems == []
    assert contents(rig.restore("out")) == contents(rig.tree)
    if kind != "versioned":
        # Where the server can hold both, the older ones stay as other deleted files do.
        assert (first.format(0) in rig.objects()) == (kind != "plain")


def test_a_bucket_that_only_says_that_it_keeps_versions_loses_no_deleted_file(plain: Rig) -> None:
    plain.write("a", b"a")
    plain.write("b", b"b")
    plain.sync()
    (plain.tree / "a").unlink()
    says = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    with proxied(plain.server.address) as proxy:
        proxy.choice = lambda _number, line: (
            Answer(200, "OK", says) if line.startswith("GET") and "versioning" in line else None
        )
        plain.endpoint = proxy.endpoint
        outcome = plain.sync(max_delete_percent=100.0)
        plain.endpoint = None

    assert outcome.keeps_versions is False
    assert plain.objects() == {"a": b"a", "b": b"b"}
    assert contents(plain.restore("out")) == {b"b": b"b"}


def test_nothing_is_left_of_asking_whether_a_bucket_keeps_versions(versioned: Rig) -> None:
    versioned.write("a", b"a")
    versioned.write("b", b"b")
    versioned.sync()
    (versioned.tree / "a").unlink()

    outcome = versioned.sync(max_delete_percent=100.0)

    assert outcome.keeps_versions is True
    answer = versioned.server.client().list_object_versions(
        Bucket=versioned.bucket_name, Prefix=f"{versioned.prefix}/.drtool/probe/"
    )
    assert [*answer.get("Versions", []), *answer.get("DeleteMarkers", [])] == []


def test_what_was_moved_while_a_run_put_it_is_not_deleted_by_that_run(versioned: Rig) -> None:
    for number in range(9):
        versioned.write(f"d/{number}", b"first")
    versioned.sync()
    (versioned.tree / "d/0").unlink()
    for number in range(1, 9):
        versioned.write(f"d/{number}", b"second")
    with proxied(versioned.server.address) as proxy:

        def move(_number: int, line: str) -> None:
            for number in range(1, 7):
                path = versioned.tree / f"d/{number}"
                if line.startswith("PUT") and f"/d/{number} " not in line and path.exists():
                    path.rename(versioned.directory / f"out of the tree {number}")
                    break

        proxy.choice = move
        versioned.endpoint = proxy.endpoint
        outcome = versioned.sync(max_delete_percent=25.0)
        versioned.endpoint = None
    kept = versioned.objects()
    versioned.sync(max_delete_percent=100.0)

    assert len(kept) == 9
    assert outcome.deleted_files == 0
    assert any("stay in the mirror for this run" in one.fact for one in outcome.findings)
    assert contents(versioned.restore("out")) == contents(versioned.tree)
    assert len(versioned.objects()) < 9


def test_a_refusal_that_has_nothing_to_do_with_a_changed_place_deletes_nothing(
    moto_s3: S3Server, tmp_path: Path
) -> None:
    """The bucket keeps no versions, and its server could hold both."""
    rig = Rig(moto_s3, SHARED_BUCKET, tmp_path)
    rig.limits = RemoteLimits(retries=RetryLimits(attempts=2, within_seconds=10))
    rig.write("x", b"first")
    rig.write("other", b"other")
    rig.sync()
    (rig.tree / "x").unlink()
    rig.write("x/inside", b"second")
    rig.write("other", b"changed")
    with proxied(rig.server.address) as proxy:
        refuse = Answer(500, "InternalError")
        proxy.choice = lambda _number, line: (
            refuse if line.startswith("PUT") and "/other" in line else None
        )
        rig.endpoint = proxy.endpoint
        outcome = rig.sync(max_delete_percent=100.0)
        rig.endpoint = None

    assert rig.objects() == {"x": b"first", "other": b"other", "x/inside": b"second"}
    assert [f.subject for f in outcome.findings if f.severity is Severity.PROBLEM] == ["other"]

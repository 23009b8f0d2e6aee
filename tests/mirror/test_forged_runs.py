"""Somebody who can write the mirror's bucket leaves runs there: what a restore makes of them."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
import zstandard

from drtool.errors import DrtoolError, IntegrityError
from drtool.mirror.chains import chain_at
from drtool.mirror.entries import MirrorEntry, to_line
from drtool.mirror.manifests import Run, RunKind, list_runs, new_run_id, run_key, write_run
from drtool.mirror.run_key import RunKey
from drtool.model.outcome import FactSheet
from drtool.sources.files.entries import TreeEntry, TreeKind
from tests.mirror.rig import Rig, settle

pytestmark = pytest.mark.object_store
SHELL = b"#!/bin/sh\n# what the attacker wants to run as root\n"
CAPABILITY = (b"security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
OWNER = 4321


def forged_entries(rig: Rig) -> list[str]:
    """A program of root's with every right there is, in a directory that is open to all."""
    rig.bucket.put("bin/bash", SHELL, {})
    directory = TreeEntry(
        path=b"bin", kind=TreeKind.DIRECTORY, mode=0o2777, uid=OWNER, gid=OWNER, owner=None,
        group=None, modified_ns=1, changed_ns=1, inode=2, device=0, links=1, size_bytes=0,
    )  # fmt: skip
    program = directory._replace(
        path=b"bin/bash", kind=TreeKind.FILE, mode=0o6755, size_bytes=len(SHELL),
        xattrs=(CAPABILITY, (b"user.note", b"kept")),
    )  # fmt: skip
    entries = (
        MirrorEntry(tree=directory),
        MirrorEntry(tree=program, content=sha256(SHELL).hexdigest()),
    )
    return [to_line(entry) for entry in entries]


def forge(rig: Rig, *, key: RunKey | None = None, later: int = 1) -> str:
    """A full run of the attacker's; its id."""
    ended = datetime.now(UTC) + timedelta(seconds=later)
    run = Run(
        run_id=new_run_id(ended, after=None), kind=RunKind.FULL, previous=None, source="uploads",
        began=ended, ended=ended,
    )  # fmt: skip
    file = io.BytesIO()
    write_run(file, run, forged_entries(rig), gone=(), key=key)
    rig.bucket.put(run_key(run.run_id), file.getvalue(), {})
    return run.run_id


def fact(sheet: FactSheet, name: str) -> object:
    return next(one.value for one in sheet.facts if one.name == name)


def told(sheet: FactSheet) -> str:
    return " ".join(finding.fact for finding in sheet.findings)


def has_no_rights(root: Path) -> bool:
    """Whether nothing below it is anybody's but ours, and nothing does more than its content."""
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        names = os.listxattr(path, follow_symlinks=False)
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
            return False
        if not path.is_symlink() and status.st_mode & 0o7022 & ~(stat.S_IFMT(status.st_mode)):
            return False
        if any(not name.startswith("user.") for name in names):
            return False
    return True


def test_a_signed_mirror_brings_back_owners_set_id_bits_and_attributes(plain: Rig) -> None:
    program = plain.write("bin/tool", b"ours")
    os.chown(program, OWNER, OWNER)
    program.chmod(0o4755)
    plain.sync()

    sheet = plain.restored("back")

    status = (plain.directory / "back/bin/tool").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (OWNER, 0o4755)
    assert fact(sheet, "signed") is True
    assert sheet.findings == ()


def test_a_forged_run_beside_signed_ones_is_left_out_and_told(plain: Rig) -> None:
    """The review: a forged run made a setuid root bash."""
    settle(plain.write("ours", b"ours"))
    plain.sync()
    names = (
        forge(plain),
        forge(plain, key=RunKey(b"x" * 32), later=5),
        "99991231T235959.000000Z-ffffffff",
        "20240230T000000.000000Z-ffffffff",
        "no run at all",
    )
    for name in names[2:]:
        plain.bucket.put(run_key(name), b"junk", {})

    sheet = plain.restored("back")
    outcome = plain.sync()

    assert (plain.directory / "back/ours").read_bytes() == b"ours"
    assert not (plain.directory / "back/bin").exists()
    assert "3 newer runs" in told(sheet)
    assert fact(sheet, "signed") is True
    assert (outcome.read_files, outcome.put_files) == (0, 0), "junk makes the next run no dearer"
    assert any("3 newer runs" in finding.fact for finding in outcome.findings)


@pytest.mark.parametrize("has_key", [True, False])
def test_where_nobody_vouches_for_runs_their_rights_are_not_restored(
    plain: Rig, has_key: bool
) -> None:
    plain.key = plain.key if has_key else None
    forge(plain)

    sheet = plain.restored("back", why_no_key="" if has_key else "the repository is gone")

    place = plain.directory / "back"
    assert (place / "bin/bash").read_bytes() == SHELL
    assert os.getxattr(place / "bin/bash", "user.note") == b"kept"
    assert has_no_rights(place)
    assert "nobody vouches for its runs" in told(sheet)
    assert "without its set-id bits, owner" in told(sheet)
    assert ("the repository is gone" in told(sheet)) is not has_key


def test_who_accepts_unsigned_runs_gets_all_that_they_say(plain: Rig) -> None:
    """An older mirror of which one knows that nobody else writes there."""
    forge(plain)

    plain.restored("back", accepts_unsigned=True)

    status = (plain.directory / "back/bin/bash").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (OWNER, 0o6755)


def test_a_signed_first_line_on_other_lines_is_refused(plain: Rig) -> None:
    plain.write("ours", b"ours")
    run_id = plain.sync().run_id
    [*lines, end] = unpacked(plain, run_id)
    forged = [lines[0], *forged_entries(plain)]
    told_end = json.loads(end) | {"entries": len(forged) - 1, "gone": 0}
    put_lines(plain, run_id, [*forged, json.dumps(told_end)])

    with pytest.raises(IntegrityError, match="not those that were signed"):
        plain.restored("back")

    assert not (plain.directory / "back").exists()


def test_a_signed_run_under_another_name_counts_for_nothing(plain: Rig) -> None:
    """An older state that is put in front again."""
    plain.write("ours", b"old")
    old = plain.sync().run_id
    plain.write("ours", b"new content")
    newest = plain.sync().run_id
    later = new_run_id(datetime.now(UTC) + timedelta(hours=1), after=None)
    plain.bucket.put(run_key(later), plain.bucket.read(run_key(old)), {})

    chain = chain_at(plain.bucket, None, plain.key)

    assert chain.runs[-1].run_id == newest
    assert chain.left_out == (later,)


def test_a_signed_run_of_another_source_gives_no_rights(plain: Rig) -> None:
    forge(plain, key=plain.key)

    sheet = plain.restored("back", source="other")

    assert has_no_rights(plain.directory / "back")
    assert "they are of source uploads" in told(sheet)


def test_after_an_earlier_drtool_the_next_run_reads_all_and_signs_a_whole_one(plain: Rig) -> None:
    """On a new machine: what the unsigned runs say of the tree is not signed as if we had seen it."""
    path = plain.write("ours", b"ours")
    key, plain.key = plain.key, None
    plain.sync()
    plain.key = key
    [run_id] = list_runs(plain.bucket)
    lines = unpacked(plain, run_id)
    forged = [line.replace('"mode":"0644"', '"mode":"4755"') for line in lines]
    assert forged != lines
    put_lines(plain, run_id, forged)
    plain.forget()

    outcome = plain.sync()
    sheet = plain.restored("back")

    assert outcome.read_files == 1
    assert outcome.put_files == 0, "its object is there already"
    assert fact(sheet, "signed") is True
    assert (plain.directory / "back/ours").stat().st_mode == path.stat().st_mode
    assert chain_at(plain.bucket, None, plain.key).runs[0].kind is RunKind.FULL


def test_the_catalogue_of_an_earlier_drtool_is_signed_without_reading_all_again(plain: Rig) -> None:
    settle(plain.write("ours", b"ours"))
    key, plain.key = plain.key, None
    plain.sync()
    plain.key = key

    outcome = plain.sync()

    assert outcome.read_files == 0
    assert chain_at(plain.bucket, None, plain.key).is_signed


WRONG: dict[str, Callable[[list[str]], list[str]]] = {
    "uid of another type": lambda lines: changed(lines, "uid", "0"),
    "uid beyond all": lambda lines: changed(lines, "uid", 1 << 32),
    "uid that is no whole number": lambda lines: changed(lines, "uid", 1e300),
    "mode as a number": lambda lines: changed(lines, "mode", 493),
    "mode with more bits": lambda lines: changed(lines, "mode", "7777777"),
    "size below nothing": lambda lines: changed(lines, "size", -1),
    "size of a galaxy": lambda lines: changed(lines, "size", 1 << 80),
    "time beyond all": lambda lines: changed(lines, "mtime_ns", 10**40),
    "key as a list": lambda lines: changed(lines, "key", ["a"]),
    "key that climbs": lambda lines: changed(lines, "key", "../../etc/cron.d/x"),
    "key with a surrogate": lambda lines: changed(lines, "key", "\ud800"),
    "owner as an object": lambda lines: changed(lines, "owner", {}),
    "digest as a number": lambda lines: changed(lines, "sha256", 7),
    "etag with a new line": lambda lines: changed(lines, "etag", "a\r\nx: y"),
    "version as a list": lambda lines: changed(lines, "version", []),
    "attributes as a list": lambda lines: changed(lines, "xattrs", []),
    "attribute with no base64": lambda lines: changed(lines, "xattrs", {"user.x": "?"}),
    "a link without an end": lambda lines: changed(lines, "kind", "symlink"),
    "nested without end": lambda lines: [lines[0], "[" * 200_000, *lines[1:]],
    "no object": lambda lines: [lines[0], "7", *lines[1:]],
    "gone as a number": lambda lines: [lines[0], '{"gone":7}', *lines[1:]],
    "gone above": lambda lines: [lines[0], '{"gone":"../x"}', *lines[1:]],
    "counts as texts": lambda lines: [*lines[:-1], '{"end":true,"entries":"2","gone":"0"}'],
    "a time without a zone": lambda lines: headed(lines, "began", "2024-05-01T10:00:00"),
    "a time that is a number": lambda lines: headed(lines, "ended", 5),
    "origin as a list": lambda lines: headed(lines, "origin", [1]),
    "previous as an object": lambda lines: headed(lines, "previous", {"a": 1}),
    "changes on nothing": lambda lines: headed(lines, "kind", "changes"),
    "changes on themselves": lambda lines: headed(
        headed(lines, "kind", "changes"), "previous", json.loads(lines[0])["run"]
    ),
}


def changed(lines: list[str], name: str, value: object) -> list[str]:
    entry = json.dumps(json.loads(lines[2]) | {name: value})
    return [*lines[:2], entry, *lines[3:]]


def headed(lines: list[str], name: str, value: object) -> list[str]:
    return [json.dumps(json.loads(lines[0]) | {name: value}), *lines[1:]]


def unpacked(rig: Rig, run_id: str) -> list[str]:
    packed = (
        zstandard.ZstdDecompressor().decompressobj().decompress(rig.bucket.read(run_key(run_id)))
    )
    return packed.decode().splitlines()


def put_lines(rig: Rig, run_id: str, lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")
    rig.bucket.put(run_key(run_id), zstandard.ZstdCompressor().compress(text), {})


def test_a_run_with_members_of_another_kind_is_refused_or_left_out_with_words(plain: Rig) -> None:
    """The review: 13 of 25 ended in a traceback. Without a key, so that every line is read."""
    run_id = forge(plain)
    lines = unpacked(plain, run_id)
    for number, (name, spoil) in enumerate(WRONG.items()):
        put_lines(plain, run_id, spoil(lines))
        try:
            sheet = plain.restored(f"back-{number}")
        except DrtoolError:
            continue
        assert fact(sheet, "files") in (0, 1), name
        assert has_no_rights(plain.directory / f"back-{number}"), name
    assert not (plain.directory.parent / "etc").exists()


def test_a_signed_run_stands_whatever_lies_beside_it(plain: Rig) -> None:
    plain.write("ours", b"ours")
    plain.sync()
    lines = unpacked(plain, forge(plain))
    for number, spoil in enumerate(list(WRONG.values())[::4]):
        run_id = new_run_id(datetime.now(UTC) + timedelta(seconds=2 + number), after=None)
        put_lines(plain, run_id, spoil(lines))

    plain.restored("back")

    assert (plain.directory / "back/ours").read_bytes() == b"ours"

"""What `--path` means: the choice and its check agree with each other and with git, sharing no code."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from drtool.repository.records import Attributes, EntryKind, TableRecord
from drtool.restore.tree_choice import chosen_records
from drtool.restore.tree_patterns import AskedPaths
from drtool.sources.files.exclude import compile_rules

NAMES = st.sampled_from(["a", "a!", "a-b", "a.c", "ab", "a0", "b", "ż", "a b"])
PATHS = st.lists(st.lists(NAMES, min_size=1, max_size=4).map("/".join), min_size=1, max_size=12)
PIECES = st.sampled_from(["a", "a*", "*", "**", "?", "*.c", "a?b", "b", "ż", "*b"])
LINES = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "", "", "!"]),
    st.sampled_from(["", "/"]),
    st.lists(PIECES, min_size=1, max_size=3).map("/".join),
    st.sampled_from(["", "", "/"]),
)


def records_of(paths: list[str]) -> list[TableRecord]:
    """A table's records, in its order: each path is a file unless another one lies below it."""
    every = {os.fsencode(path) for path in paths}
    above = {
        path[:end] for path in every for end in range(len(path)) if path[end : end + 1] == b"/"
    }
    return [
        TableRecord(
            attributes=Attributes(
                path=path, mode=0, uid=0, gid=0, modified_ns=0, size_bytes=0,
                kind=EntryKind.DIRECTORY if path in above or not path else EntryKind.FILE,
            )
        )
        for path in sorted(every | above | {b""})
    ]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(paths=PATHS, lines=st.lists(LINES, min_size=1, max_size=3))
def test_the_check_finds_the_choice_right_and_parents_come_first(
    paths: list[str], lines: list[str]
) -> None:
    records, rules = records_of(paths), compile_rules(lines)
    asked = AskedPaths(rules)

    chosen = [record.attributes for record in chosen_records(records, rules)]

    wanted = {
        one.attributes.path
        for one in records
        if asked.wants(one.attributes.path, is_directory=one.attributes.kind is EntryKind.DIRECTORY)
    }
    found = [entry.path for entry in chosen]
    assert {path for path in found if path in wanted} == wanted
    assert len(found) == len(set(found))
    for number, path in enumerate(found):
        assert not path or path.rpartition(b"/")[0] in found[:number]
        assert path in wanted or any(not path or one.startswith(path + b"/") for one in wanted)


def test_the_check_reads_patterns_as_git_does(tmp_path: Path) -> None:
    names = ["a", "a!", "a-b", "a.c", "ab", "b", "ż", "a b"]
    paths = [
        f"{one}/{two}/{three}" for one in names for two in names for three in ("a", "x.c", "ż")
    ]
    paths += [f"{one}/x" for one in names] + ["x", "x.c", "new\nline"]
    patterns = [
        "a", "/a", "a/", "/a/", "a/*", "/a/**", "**/a", "a/**/x.c", "*.c", "/*.c", "a?b", "a*",
        "a/a/a", "/b/*/a", "ż", "**", "*", "a b", "x", "new*", "**/b/**",
    ]  # fmt: skip
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    records = records_of(paths)
    files = [r.attributes.path for r in records if r.attributes.kind is EntryKind.FILE]
    for path in files:
        place = tmp_path / os.fsdecode(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()

    for line in patterns:
        asked = AskedPaths(compile_rules([line]))
        (tmp_path / ".git/info/exclude").write_text(line + "\n")
        told = subprocess.run(
            ["git", "-C", tmp_path, "check-ignore", "--stdin", "-z"],
            input=b"\0".join(files), capture_output=True, check=False,
        ).stdout.split(b"\0")[:-1]  # fmt: skip

        mine = [path for path in files if asked.wants(path, is_directory=False)]

        assert sorted(mine) == sorted(told), line


def test_a_pattern_that_matches_nothing_is_named() -> None:
    records = records_of(["a/x", "b/y"])
    asked = AskedPaths(compile_rules(["/a", "c", "!a/x", "#", "/a/*"]))

    for record in records:
        entry = record.attributes
        asked.wants(entry.path, is_directory=entry.kind is EntryKind.DIRECTORY)

    assert asked.unmatched == ["c"]

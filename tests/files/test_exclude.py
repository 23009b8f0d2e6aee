"""Patterns mean what they mean in a .gitignore, for names of any bytes."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from drtool.errors import PolicyError
from drtool.restore.tree_patterns import AskedPaths
from drtool.sources.files.exclude import compile_rules

# (patterns, path, is it left out); every row is also put to git itself.
CASES = [
    (["*.tmp"], b"a/b/x.tmp", True),
    (["*.tmp"], b"x.tmp.txt", False),
    (["/cache/"], b"cache/a", True),
    (["/cache/"], b"a/cache/b", False),
    (["cache/"], b"a/cache/b", True),
    (["cache/"], b"a/cache", False),
    (["logs/**", "!logs/keep"], b"logs/keep", False),
    (["logs/**", "!logs/keep"], b"logs/other", True),
    (["logs/*", "!logs/keep"], b"logs/keep", False),
    (["logs/", "!logs/keep"], b"logs/keep", True),
    (["a/**/z"], b"a/z", True),
    (["a/**/z"], b"a/b/c/z", True),
    (["a?c", "!abc"], b"abc", False),
    (["[a-c]1"], b"b1", True),
    (["\\#x"], b"#x", True),
    (["\\!x"], b"!x", True),
    (["# a comment", ""], b"a", False),
    (["*.log"], b"new\nline/x.log", True),
    (["*.log"], b"x\n.log", True),
    (["x.log"], b"x.log\n", False),
    (["*.log"], b"\xff\xfe/\x80.log", True),
    (["a*z"], b"a\xffz", True),
    (["*"], b"\n", True),
    (["*", "!*/", "!*.txt"], b"a/b/c.txt", False),
    (["*", "!*/", "!*.txt"], b"a/b/c.png", True),
    (["foo", "!foo/"], b"foo/bar", False),
    (["/a/*", "!/a/b"], b"a/b/c", False),
    (["/a/*", "!/a/b"], b"a/c/d", True),
    (["*/"], b"a/b", True),
    (["*/"], b"a", False),
    (["**/x/"], b"b/x/y", True),
    (["a/**"], b"a/b/c", True),
    (["**"], b"a", True),
    (["*a*b*c"], b"xaxbxbxc", True),
    (["*a*b*c"], b"xaxcxb", False),
    (["a/**/b/**/c*d"], b"a/b/x/b/c/cxd", True),
    (["a/**/b/**/c*d"], b"a/x/c/b/cd/x", True),
    (["a/**/b/**/c*d"], b"a/x/cd/b/x", False),
    (["a/**/b"], b"a/b/b", True),
    (["a/**/b/"], b"a/b/b/x", True),
    (["x[!a]b"], b"x/b", False),
    (["*x[!a]*b"], b"zx/b", False),
    (["x[!a]b"], b"xcb", True),
    (["*]a*", "!*[]]b*"], b"x]b", False),
]


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("a*" * 12 + "b", b"a" * 255),
        ("*a" * 40 + "*b", b"a" * 255),
        ("a?*" * 12 + "b", b"a" * 255),
        ("[a-b]*" * 12 + "c", b"a" * 255),
        ("**/a/" * 12 + "b", b"a/" * 2000 + b"a"),
        ("x/" + "**/a*a*a*a/" * 8 + "b", b"x/" + b"aaaaaaaaa/" * 400 + b"c"),
        ("/" + "*a*a*/" * 12 + "b", b"aaaaaaaaaaaaaaaaaaaa/" * 13 + b"c"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_many_stars_take_no_time(line: str, path: bytes) -> None:
    """Each took minutes for one file, or for ever."""
    rules, asked = compile_rules([line]), AskedPaths(compile_rules([line]))

    began = time.process_time()
    assert not rules.excludes(path, is_directory=False)
    assert not asked.wants(path, is_directory=False)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(("patterns", "path", "is_out"), CASES)
def test_a_pattern_leaves_out_what_git_would_ignore(
    tmp_path: Path, patterns: list[str], path: bytes, is_out: bool
) -> None:
    rules = compile_rules(patterns)

    assert rules.excludes_below(path) is is_out
    assert _git_ignores(tmp_path, patterns, path) is is_out


def _git_ignores(where: Path, patterns: list[str], path: bytes) -> bool:
    subprocess.run(["git", "init", "-q", "."], cwd=where, check=True, timeout=60)
    (where / ".gitignore").write_text("\n".join(patterns) + "\n")
    result = subprocess.run(
        ["git", "check-ignore", "--no-index", "-q", "-z", "--stdin"],
        cwd=where, input=path, check=False, timeout=60,
    )  # fmt: skip
    return result.returncode == 0


@pytest.mark.parametrize("patterns", [["*"], ["**"], ["/*"], ["*.tmp", "[!.]*", ".*"], ["?*"]])
def test_patterns_that_leave_out_everything_are_told(patterns: list[str]) -> None:
    (finding,) = compile_rules(patterns).findings()

    assert finding.fact == "leaves out every file there is"


@pytest.mark.parametrize("patterns", [[], ["*.tmp"], ["*", "!*/", "!*.txt"], ["a*", "b*"]])
def test_patterns_that_leave_something_are_not(patterns: list[str]) -> None:
    assert compile_rules(patterns).findings() == []


@pytest.mark.parametrize("line", ["a\nb", "!", "[z-a]"])
def test_a_pattern_that_means_nothing_is_refused(line: str) -> None:
    with pytest.raises(PolicyError, match="exclude pattern"):
        compile_rules([line])

"""A count and its noun agree, and a number is told as it was written."""

from __future__ import annotations

import ast
import re
from datetime import timedelta
from pathlib import Path

import pytest

import drtool
from drtool.model.measure import counted, format_limit, format_skew, parse_size
from drtool.sources.postgres.refusals import one_line
from drtool.sources.redis.refusals import unreachable

# Nouns of which there may well be one, right behind a number: `counted` makes them agree with it.
_COUNTED = re.compile(
    r"^ (masters|snapshots|segments|receivers|jobs|replicas|backups|packs|files|problems|gaps)\b"
)
# What is `1 of N files`, or never one; and the program that stands by itself.
_NEVER_ONE = {"guard.py", "letting_go.py", "keyslot.py", "rescue.py"}


@pytest.mark.parametrize(
    ("count", "words", "told"),
    [
        (0, ("run",), "0 runs"),
        (1, ("run",), "1 run"),
        (1204, ("run",), "1,204 runs"),
        (1, ("directory", "directories"), "1 directory"),
        (2, ("directory", "directories"), "2 directories"),
    ],
)
def test_a_count_and_its_noun_agree(count: int, words: tuple[str, ...], told: str) -> None:
    assert counted(count, *words) == told


def _formatted(path: Path) -> list[str]:
    """Each plural noun right behind a value that a text puts in."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.JoinedStr):
            continue
        for before, behind in zip(node.values, node.values[1:], strict=False):
            is_text = isinstance(behind, ast.Constant) and isinstance(behind.value, str)
            if isinstance(before, ast.FormattedValue) and is_text:
                match = _COUNTED.match(str(ast.literal_eval(behind)))
                if match:
                    found.append(f"{path.name}:{node.lineno}: {match[1]}")
    return found


def test_no_text_puts_a_plural_behind_a_number_by_itself() -> None:
    root = Path(drtool.__file__).parent
    known = [
        one
        for path in sorted(root.rglob("*.py"))
        if path.name not in _NEVER_ONE
        for one in _formatted(path)
    ]

    assert known == []


@pytest.mark.parametrize("text", ["16 GiB", "500 MB", "1 TiB", "64 KiB"])
def test_a_limit_is_told_in_the_unit_in_which_it_was_written(text: str) -> None:
    assert format_limit(parse_size(text)) == text


@pytest.mark.parametrize(
    ("seconds", "told"), [(-0.01, "0.0 s"), (0.04, "0.0 s"), (-0.3, "-0.3 s"), (1.2, "+1.2 s")]
)
def test_a_clock_that_is_right_has_no_sign(seconds: float, told: str) -> None:
    assert format_skew(timedelta(seconds=seconds)) == told


def test_sentences_of_a_library_are_joined_by_one_full_stop() -> None:
    libpq = 'connection failed: connection to server at "h", port 1 failed: Connection refused\n\tIs it up?'

    assert one_line(libpq) == "Connection refused. Is it up?"
    assert (
        unreachable("h:1", "Connection refused.").message
        == "h:1 cannot be reached: Connection refused"
    )

"""The harness itself finds what it is there for."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from drtool.errors import IntegrityError
from tests.fuzz.harness import Reader, case_of, run_short


def _any_error(content: bytes) -> None:
    if content != b"7":
        raise KeyError("not what was expected")


def _endless(content: bytes) -> None:
    while content != b"7":
        pass


def _backtracking(content: bytes) -> None:
    if content != b"7":
        re.match(r"(a*)*b", "a" * 40)


def _greedy(content: bytes) -> None:
    if content != b"7":
        bytes(1 << 30)


@pytest.mark.parametrize(
    ("read", "told"),
    [
        (_any_error, "KeyError"),
        (_endless, "takes more than 0.1 s"),
        (_backtracking, "takes more than 0.1 s"),
        (_greedy, "needs more than 512 MiB"),
    ],
)
def test_a_reader_that_fails_otherwise_or_takes_too_much_is_found(
    read: Callable[[bytes], None], told: str
) -> None:
    reader = Reader(name="bad", read=read, samples=[b"7"], most_seconds=0.1)

    with pytest.raises(AssertionError, match=told):
        run_short(reader)


def test_a_reader_that_refuses_with_a_typed_error_passes_and_cases_come_out_the_same_again() -> (
    None
):
    met: list[bytes] = []

    def read(content: bytes) -> None:
        met.append(content)
        if content != b"[1, 2]":
            raise IntegrityError("object x is damaged")

    reader = Reader(name="good", read=read, samples=[b"[1, 2]"])
    run_short(reader)

    assert met[1:] == [case_of(reader, "1", number) for number in range(len(met) - 1)]
    assert len(set(met)) > 100

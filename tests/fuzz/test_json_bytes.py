"""JSON from outside, and what is written in texts of its members."""

from __future__ import annotations

import json

import pytest

from drtool.model.strict_json import JsonObject, as_moment, read_json, read_object
from tests.fuzz.harness import LongRun, Reader, run_short

_DOCUMENT = {
    "name": "main-db", "count": 3, "flag": True, "at": "2026-11-29T10:00:00+00:00", "part": {"x": 1},
    "texts": ["a", "b"], "pairs": [[1, 2], [3, 4]], "named": {"a": "b"},
}  # fmt: skip


def _read_all(content: bytes) -> None:
    document = read_object(content)
    document.text("name").encode("utf-8", "surrogateescape")
    assert document.whole("count") < 1 << 64
    document.flag("flag")
    document.moment("at").astimezone()
    document.inner("part").whole("x")
    document.texts("texts")
    document.pairs("pairs")
    document.texts_by_name("named")


READERS = [
    Reader(
        name="JSON object",
        read=_read_all,
        samples=[json.dumps(_DOCUMENT).encode()],
        expected=(ValueError,),
    ),
]


@pytest.mark.parametrize("reader", READERS, ids=str)
def test_mutated_json_is_refused_with_one_kind_of_error(reader: Reader) -> None:
    run_short(reader)


@pytest.mark.fuzz
@pytest.mark.parametrize("reader", READERS, ids=str)
def test_long_mutated_json_is_refused_with_one_kind_of_error(
    reader: Reader, long_run: LongRun
) -> None:
    long_run(reader)


@pytest.mark.parametrize(
    "content",
    [
        b'{"x": 1e999}', b'{"x": NaN}', b'{"x": -Infinity}', b'{"x": ' + b"9" * 400 + b"}",
        b"[" * 100_000, b'{"x":' * 50_000 + b"1" + b"}" * 50_000, b"\xff\xfe{", b"",
    ],
    ids=lambda content: content[:12],
)  # fmt: skip
def test_numbers_that_are_none_and_deep_nesting_are_value_errors(content: bytes) -> None:
    with pytest.raises(ValueError):
        read_json(content)


def test_a_document_that_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="more than 10"):
        read_json(b"[" + b" " * 20 + b"]", most_bytes=10)


@pytest.mark.parametrize(
    "told", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-11-29T10:00:00"]
)
def test_a_moment_that_cannot_be_told_in_every_zone_is_a_value_error(told: str) -> None:
    with pytest.raises(ValueError):
        as_moment(told, "at")


@pytest.mark.parametrize("value", [True, 1.0, "1", None, -1, 1 << 64, [], {}])
def test_a_number_of_another_type_is_named(value: object) -> None:
    with pytest.raises(ValueError, match="count"):
        JsonObject({"count": value}).whole("count")

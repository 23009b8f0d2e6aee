"""Valid bytes turned into bytes that somebody might send: damaged, cut, joined, exaggerated."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from random import Random
from typing import Any

_WIDTHS = (1, 2, 4, 8)
_DIGITS = re.compile(rb"-?\d+(?:\.\d+)?")
# As text, since most formats write their numbers so.
_NUMBERS = (
    b"0", b"-1", b"1e999", b"-1e999", b"NaN", b"Infinity", b"1.5", b"", b"0x10", b"00", b"+1", b"1_000",
    b"2147483648", b"4294967296", b"9223372036854775807", b"9223372036854775808",
    b"18446744073709551616", b"9" * 30, b"9" * 400, b"9" * 5000, "٣".encode(),
)  # fmt: skip
_DEEP = 20_000
_LONGEST_DOCUMENT = 1 << 20
# Stands for a number that `json.dumps` would not write.
_MARK = "\x00number\x00"


def mutated(random: Random, samples: Sequence[bytes]) -> bytes:
    """One of the samples, changed once or a few times."""
    content = random.choice(samples)
    if content[:1] in (b"{", b"[") and random.random() < 0.6:
        changed = _mutated_json(random, content)
        if changed is not None:
            return changed
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        content = random.choice(_CHANGES)(random, content, samples)
    return content


def _flip(random: Random, content: bytes, samples: Sequence[bytes]) -> bytes:
    del samples
    changed = bytearray(content or b"\0")
    for _ in range(random.choice((1, 1, 2, 16))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _cut(random: Random, content: bytes, samples: Sequence[bytes]) -> bytes:
    del samples
    return content[: random.randrange(len(content) + 1)]


def _removed(random: Random, content: bytes, samples: Sequence[bytes]) -> bytes:
    del samples
    begin, end = _span(random, content)
    return content[:begin] + content[end:]


def _repeated(random: Random, content: bytes, samples: Sequence[bytes]) -> bytes:
    del samples
    begin, end = _span(random, content)
    times = random.choice((1, 2, 2, 50))
    return content[:end] + (content[begin:end] * times)[: 1 << 18] + content[end:]


def _spliced(random: Random, content: bytes, samples: Sequence[bytes]) -> bytes:
    other = random.choice(samples)
    begin, end = _span(random, other)
    at = random.randrange(len(content) + 1)
    return content[:at] + other[begin:end] + content[random.choice((at, len(content))) :]


def _inserted(random: Random, content: bytes, samples: Sequence[bytes]) -> bytes:
    del samples
    at = random.randrange(len(content) + 1)
    more = random.choice(
        (b"\0", b"\xff", b"\n", b"\x1b[2J", b"\xed\xa0\x80", b"[" * _DEEP, b"a" * 70_000)
    )
    return content[:at] + more + content[at:]


def _extreme_number(random: Random, content: bytes, samples: Sequence[bytes]) -> bytes:
    """A binary number in place of what is there: 0, the greatest, and their neighbours, either way round."""
    del samples
    width = random.choice(_WIDTHS)
    top = 1 << 8 * width
    value = random.choice(
        (0, 1, 2, top - 1, top - 2, top // 2, top // 2 - 1, random.randrange(top))
    )
    at = random.randrange(max(1, len(content) - width + 1))
    return (
        content[:at]
        + value.to_bytes(width, random.choice(("big", "little")))
        + content[at + width :]
    )


def _extreme_digits(random: Random, content: bytes, samples: Sequence[bytes]) -> bytes:
    found = list(_DIGITS.finditer(content[: 1 << 16]))
    if not found:
        return _flip(random, content, samples)
    match = random.choice(found)
    return content[: match.start()] + random.choice(_NUMBERS) + content[match.end() :]


_CHANGES = (
    _flip, _flip, _cut, _removed, _repeated, _spliced, _inserted, _extreme_number, _extreme_number,
    _extreme_digits, _extreme_digits,
)  # fmt: skip


def _span(random: Random, content: bytes) -> tuple[int, int]:
    begin = random.randrange(len(content) + 1)
    return begin, min(len(content), begin + random.choice((1, 2, 4, 8, 64, 512, len(content))))


def _mutated_json(random: Random, content: bytes) -> bytes | None:
    """The document with a member of another type, a number too large, a key too many or too few."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    numbers: list[str] = []
    for _ in range(random.choice((1, 1, 2, 4))):
        document = _with_another_node(random, document, numbers)
    text = json.dumps(document)
    if len(text) > _LONGEST_DOCUMENT:
        return None
    for number in numbers:
        text = text.replace(json.dumps(_MARK), number, 1)
    return text.encode()


def _with_another_node(random: Random, document: Any, numbers: list[str]) -> Any:
    holders = [node for node in _nodes(document) if isinstance(node, dict | list) and node]
    if not holders or random.random() < 0.03:
        return _odd_value(random, numbers)
    holder = random.choice(holders)
    place = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    match random.randrange(6):
        case 0:
            del holder[place]
        case 1 if isinstance(holder, dict):
            holder[random.choice(("", "x", "\x1b", f"{place}x"))] = holder[place]
        case 2 if isinstance(holder, list):
            holder.extend([holder[place]] * random.choice((1, 100)))
        case 3:
            holder[place] = random.choice([holder[key] for key in _keys(holder)])
        case _:
            holder[place] = _odd_value(random, numbers)
    return document


def _keys(holder: Any) -> list[Any]:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


def _nodes(document: Any) -> list[Any]:
    nodes, at = [document], 0
    while at < len(nodes) < 5000:
        node = nodes[at]
        nodes.extend(
            node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        )
        at += 1
    return nodes


def _odd_value(random: Random, numbers: list[str]) -> Any:
    match random.randrange(5):
        case 0:
            number = random.choice(
                ("1e999", "-1e999", "NaN", "Infinity", "9" * 400, "9" * 5000, "-0.0", "1e15")
            )
            numbers.append(number)
            return _MARK
        case 1:
            return random.choice(
                (-1, 0, 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**64, -(2**63), 0.5, 1e300)
            )
        case 2:
            nested: Any = []
            for _ in range(random.choice((1, 30, 400))):
                nested = [nested] if random.random() < 0.5 else {"x": nested}
            return nested
        case 3:
            return random.choice(
                ("", "x", "\0", "\ud800", "\udcff", "../../x", "a" * 70_000, "9999-12-31T23:59:59-14:00",
                 "0001-01-01T00:00:00+14:00", "2026-01-01", "2026-01-01T00:00:00", "é" * 300, "-1", "0")
            )  # fmt: skip
        case _:
            return random.choice((None, True, False, [], {}, [None], {"": None}))

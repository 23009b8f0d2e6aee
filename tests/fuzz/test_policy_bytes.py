"""What a policy file, an option, an exclude pattern or the name of a file may say."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from drtool.config.policy_file import parse_policy
from drtool.config.scalars import SCALARS
from drtool.model.measure import UTC_ZONE, format_moment, parse_moment, parse_size, parse_span
from drtool.policy.scalars import CronLine
from drtool.policy.secrets import Redactor, Secret
from drtool.restore.tree_patterns import AskedPaths
from drtool.sources.files.exclude import compile_rules
from tests.fuzz.harness import LongRun, Reader, run_short

_POLICY = (Path(__file__).parents[2] / "policies" / "stefano.yaml").read_bytes()
_MERGES = b"""version: 1
stack: shop
timezone: UTC
objectives: {default: &d {<<: {rpo: 15m}, rto: 1h}}
repository: {url: "file:///srv/drtool", key: none}
sources:
  a: &a {kind: files, path: /srv/a, schedule: &s {backup: "0 2 * * *", check: "*/5 * * * *"}}
  b: {<<: [*a, {path: /srv/c}], path: /srv/b, schedule: *s}
"""


def _read_policy(content: bytes) -> None:
    parse_policy(content.decode("utf-8", "replace"), "policy.yaml")


def _read_values(content: bytes) -> None:
    """Each line as a size, a span, a moment, a crontab line: refused, or fit to be used and told."""
    for line in content.decode("utf-8", "surrogateescape").split("\n")[:50]:
        for read in (parse_size, parse_span, lambda text: parse_moment(text, UTC_ZONE)):
            try:
                value = read(line)
            except ValueError:
                continue
            if isinstance(value, datetime):
                format_moment(value.astimezone(), UTC_ZONE)
            elif not isinstance(value, int):
                datetime.now(UTC) - value
        for scalar in (SCALARS[CronLine], SCALARS[int]):
            try:
                scalar.read(line)
            except ValueError:
                continue


def _match(content: bytes) -> None:
    """The first line as a pattern, the others as paths."""
    line, *paths = content.split(b"\n")
    rules = compile_rules([line.decode("utf-8", "surrogateescape")])
    asked = AskedPaths(rules)
    for path in paths[:20]:
        # What the kernel would give: names of at most 255 bytes in a path of at most 4096.
        path = b"/".join(name[:255] for name in path[:4096].split(b"/") if name).replace(
            b"\0", b"x"
        )
        if path:
            rules.excludes(path, is_directory=False)
            asked.wants(path, is_directory=False)


def _redact(content: bytes) -> None:
    redactor = Redactor()
    redactor.learn(Secret("postgresql://drtool:s3cret!!@db/x?password=tops3cret"))
    text = redactor.redact(content.decode("utf-8", "replace"))
    assert "s3cret!!" not in text


READERS = [
    Reader(name="policy", read=_read_policy, samples=[_POLICY]),
    Reader(name="policy with merges", read=_read_policy, samples=[_MERGES]),
    Reader(
        name="values",
        read=_read_values,
        samples=[
            b"64MiB\n1h30m\n2024-05-01T10:00\n0 2 * * *\n9999w\n1.5 TB\n12\n*/5 1-3,4 * jan mon",
            b"0001-01-01T00:00+14:00\n9999-12-31T23:59:59.999999-12:00\n99999999999d\n0-59/1 * * * *",
        ],
    ),
    Reader(
        name="patterns",
        read=_match,
        samples=[
            b"a*b*c\naxxbxxc\na/b/c\n" + b"a" * 255,
            b"**/a/**/b*/\nx/a/y/b\n" + b"a/" * 2000,
            b"[!a-c]?*\\*x/**\nab*x/y\n" + b"xy" * 120,
        ],
    ),
    Reader(
        name="redaction",
        read=_redact,
        samples=[
            b"error: postgresql://u:pw@host/db password='x y' s3cret!! a.b.c-d+e://x:y@z",
            b"a." * 30_000,
            b"password='" * 3000,
            b"x://y:" * 8000,
        ],
    ),
]


@pytest.mark.parametrize("reader", READERS, ids=str)
def test_what_a_person_or_a_policy_says_is_read_or_refused(reader: Reader) -> None:
    run_short(reader)


@pytest.mark.fuzz
@pytest.mark.parametrize("reader", READERS, ids=str)
def test_long_what_a_person_or_a_policy_says_is_read_or_refused(
    reader: Reader, long_run: LongRun
) -> None:
    long_run(reader)

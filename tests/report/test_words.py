"""Each kind of source is told in its own words: WAL is PostgreSQL's alone."""

from __future__ import annotations

from dataclasses import replace
from zoneinfo import ZoneInfo

import pytest

from drtool.model.outcome import Reached, RestoreOutcome
from drtool.report.page import render_page
from drtool.report.text import Style, render
from tests.report import samples

STYLE = Style(ZoneInfo("Europe/Warsaw"))


def of_kind(kind: str) -> RestoreOutcome:
    """The sample restore as a source of that kind would have it."""
    outcome = samples.met()
    if kind == "postgres":
        return outcome
    phases = tuple(phase for phase in outcome.phases if phase.name in ("plan", "fetch"))
    reached = Reached(commit_time=outcome.reached.commit_time, lsn=None, timeline=None)
    log_bytes = outcome.wal_bytes if kind == "redis" else 0
    changed = replace(outcome, kind=kind, phases=phases, reached=reached, wal_bytes=log_bytes)
    return replace(changed, log=None, changed_settings=(), lost_writes=None)


@pytest.mark.parametrize(
    ("kind", "said", "unsaid"),
    [
        ("postgres", ["912 MB of WAL", "backup"], ["snapshot", "stream"]),
        ("redis", ["912 MB of stream", "snapshot", "mark"], ["WAL", "commit", "osition"]),
        ("files", ["1.48 GB of files", "snapshot"], ["WAL", "stream", "commit", "osition", "mark"]),
    ],
)
def test_a_restore_is_told_in_the_words_of_its_kind(
    kind: str, said: list[str], unsaid: list[str]
) -> None:
    report = samples.report(of_kind(kind))
    text = render(report, STYLE)
    page = render_page(report)
    body = page[page.index("<body>") :]

    for words in said:
        assert words in text
        assert words in body
    # The drawing of what was lost has a class of its own called `mark`, which nobody reads.
    readable = body.replace('class="mark', "").replace("archive_", "")
    for words in unsaid:
        assert words not in text, words
        assert words not in readable, words

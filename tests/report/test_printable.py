"""What others chose, a lease's owner or a row of an answer, cannot redraw what is shown."""

from __future__ import annotations

import io
import json
import re
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from drtool.cli.failure import tell
from drtool.cli.front import Front
from drtool.errors import RepositoryUnavailable
from drtool.model.finding import Finding, Severity
from drtool.model.outcome import Fact, FactSheet, Failure, RestoreReport
from drtool.model.progress import Noted, PhaseAdvanced, PhaseBegan
from drtool.report.bars import BarsProgress
from drtool.report.documents import document, dumps
from drtool.report.page import render_page
from drtool.report.printable import printable, printable_lines, printable_outcome
from drtool.report.progress import LinesProgress
from drtool.report.text import Style, render
from tests.report.samples import met, missed
from tests.report.samples import report as sample
from tests.report.test_progress import SteppedClock

# Up one line, erase it, and a verdict of its own in green; the same in C1; the title of the window; an
# override of direction; a line of its own; half of a surrogate pair.
HOSTILE = (
    "x\x1b[1A\x1b[2K\x1b[32;1mMET\x1b[0m all is well\x9b1A\x1b]0;t\x07"
    "\u202eTEM\u2066\nMET all\r\u2028\udc9b"
)
ACTING = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
OUR_COLOURS = re.compile("\x1b\\[[0-9]{1,2}(;1)?m")
ZONE = ZoneInfo("Europe/Warsaw")


def poisoned(value: Any) -> Any:
    """The value with the hostile text at the end of every text in it that is not one of a few words."""
    if isinstance(value, str) and not isinstance(value, Enum):
        return value + HOSTILE
    if isinstance(value, tuple):
        return tuple(poisoned(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        closed = ("kind", "unit", "level", "name", "timezone")
        texts = [field.name for field in fields(value) if field.name not in closed]
        return replace(value, **{name: poisoned(getattr(value, name)) for name in texts})
    return value


def report() -> RestoreReport:
    plain = sample(met(), missed())
    hostile: RestoreReport = poisoned(plain)
    return hostile


def sheet() -> FactSheet:
    finding = Finding(severity=Severity.WARNING, subject=HOSTILE, fact=HOSTILE, fix=HOSTILE)
    facts = (Fact(name="lease", value=HOSTILE), Fact(name="rows", value=(HOSTILE, HOSTILE)))
    return FactSheet(kind="wal-status", title=HOSTILE, facts=facts, findings=(finding,))


@pytest.mark.parametrize("has_colour", [True, False])
def test_a_text_holds_no_control_but_our_own_colours(has_colour: bool) -> None:
    for outcome in (report(), sheet()):
        text = render(outcome, Style(ZONE, has_colour=has_colour))

        assert "all is well" in text
        rest = OUR_COLOURS.sub("", text) if has_colour else text
        assert not ACTING.search(rest), ACTING.findall(rest)
        assert "32;1mMET\x1b[0m all" not in text
        assert not any(line.lstrip().startswith("MET all") for line in rest.splitlines())


def test_a_page_holds_no_control_and_no_override_of_direction() -> None:
    page = render_page(report())

    assert "all is well" in page
    assert not ACTING.search(page), ACTING.findall(page)


def test_a_json_answer_is_the_same_value_without_a_control_in_its_text() -> None:
    content = document(sheet())

    text = printable_lines(dumps(content))

    assert not ACTING.search(text)
    assert json.loads(text) == content


def test_progress_of_lines_and_bars_shows_controls_as_text() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    lines, bars = io.StringIO(), Terminal()
    for view in (
        LinesProgress(lines, clock=SteppedClock(), redact=printable),
        BarsProgress(bars, redact=printable),
    ):
        with view:
            view(PhaseBegan(phase="fetch", title=HOSTILE, total=10))
            view(PhaseAdvanced(phase="fetch", done=1, detail=HOSTILE))
            view(Noted(HOSTILE, "warning"))

    assert not ACTING.search(lines.getvalue())
    assert len(lines.getvalue().splitlines()) == 3
    assert "\\u001b[2K" in bars.getvalue()
    assert "\u202e" not in bars.getvalue()
    assert "\x1b]0;" not in bars.getvalue()


@pytest.mark.parametrize("wants_json", [True, False])
def test_the_front_door_lets_no_control_out(
    wants_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    front = Front()
    front.wants_json = wants_json

    with front.progress() as view:
        view(Noted(HOSTILE, "warning"))
    front.show(sheet())
    tell(front, RepositoryUnavailable(f"no answer from {HOSTILE}", hint=HOSTILE))

    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert "all is well" in text
        assert not ACTING.search(text), ACTING.findall(text)
        assert not any(line.startswith("MET all") for line in text.splitlines())


def test_what_is_printable_stays_as_it_is() -> None:
    for text in ("zażółć gęślą jaźń", "日本 2024-05-01 10:00", "👩‍🚒", "a\\x1b", ""):
        assert printable(text) == text
    plain = sheet().facts[0]
    failure = Failure(error="Bug", message="one\n  two", hint="three", exit_code=1, retryable=False)

    assert printable_outcome(failure) is failure
    assert plain.value == HOSTILE

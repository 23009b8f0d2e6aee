"""The report's page stands alone, says everything, and can be read by everyone."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from drtool.drill.judging import Asked
from drtool.model.objective import LossInterval, Verdict
from drtool.model.outcome import Judgement, LogSpan, Promise, Reached
from drtool.model.target import ToTime
from drtool.model.wal import Lsn
from drtool.report.drawing import NARROW, WIDE, draw_log, draw_loss, draw_phases
from drtool.report.page import render_page
from drtool.report.text import render
from drtool.wiring.judged import judged
from tests.report import samples
from tests.report.test_words import STYLE

VOID = {"meta", "link", "img", "br", "hr", "input", "line", "rect", "path", "circle"}


class Outline(HTMLParser):
    """Elements as they open and close, with their attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.faults: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        self.text += data


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    return parser


def test_every_element_of_the_page_is_closed() -> None:
    parsed = outline(render_page(samples.report()))

    assert parsed.faults == []
    assert parsed.open == []


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    page = render_page(samples.report())
    parsed = outline(page)

    assert not re.search(r"https?:|//\w|@import|url\((?!#)", page.replace("s3://", ""))
    assert not {tag for tag, _ in parsed.elements} & {"script", "link", "img", "iframe", "a"}
    assert "default-src 'none'" in page


def test_hostile_names_stay_text() -> None:
    page = render_page(samples.report(samples.missed()))

    assert "<script" not in page
    assert "/srv/restore/<script>alert(1)</script>" in outline(page).text


def test_every_drawing_has_a_title_and_a_description_and_ids_are_unique() -> None:
    parsed = outline(render_page(samples.report()))

    drawings = [attributes for tag, attributes in parsed.elements if tag == "svg"]
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(drawings) == 12
    assert len(ids) == len(set(ids))
    for drawing in drawings:
        assert drawing["role"] == "img"
        assert set((drawing["aria-labelledby"] or "").split()) <= set(ids)


def test_the_page_tells_what_an_auditor_asks() -> None:
    text = outline(render_page(samples.report(samples.met()))).text

    for words in (
        "MET",
        "between 4.1 s and 6.2 s",
        "at most 15 min",
        "0/5A3F1B28",
        "20240501T080001Z-3f9a",
        "2024-05-01 10:04:06+02:00 Europe/Warsaw (08:04:06Z)",
        "12,408",
        "select count(*) > 0 from orders",
        "archive_mode",
        "pg_ctl start",
        "Between phases",
    ):
        assert words in text, words


def luminance(colour: str) -> float:
    """Source: WCAG 2.2, relative luminance."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_has_enough_contrast_by_day_and_by_night() -> None:
    page = render_page(samples.report())
    themes = [
        dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in page.split(":root {")[1:3]
    ]

    assert len(themes) == 2
    for theme in themes:
        for ink, ground in (
            ("ink", "page"),
            ("ink", "card"),
            ("soft", "card"),
            ("soft", "page"),
            ("met", "met-ground"),
            ("missed", "missed-ground"),
            ("unknown", "unknown-ground"),
            ("soft", "track"),
        ):
            assert contrast(theme[ink], theme[ground]) >= 4.5, (ink, ground, theme)


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_drawings_stay_inside_their_width(width: int) -> None:
    for outcome in (samples.met(), samples.missed()):
        phases = draw_phases(outcome, width)
        loss, log = draw_loss(outcome, width), draw_log(outcome, width)

        assert loss is not None
        assert log is not None
        assert all(bar.x >= 0 and bar.x + bar.width <= width + 2 for bar in phases.bars)
        for band in (loss, log):
            assert all(s.x >= 0 and s.x + s.width <= width + 0.01 for s in band.stretches)
            assert all(0 <= mark.x <= width + 0.01 for mark in band.marks)


def test_a_loss_that_nobody_measured_is_not_drawn() -> None:
    outcome = samples.met()
    unmeasured = tuple(
        replace(judgement, measured=None, verdict=Verdict.UNKNOWN)
        for judgement in outcome.judgements
    )

    page = render_page(samples.report(replace(outcome, judgements=unmeasured)))

    assert "What was lost" not in page
    assert "not measured" in page
    assert "UNKNOWN" in page


def test_an_outcome_of_which_little_is_known_has_a_page_too() -> None:
    outcome = replace(
        samples.met(),
        phases=(),
        total_seconds=0.0,
        judgements=(),
        reached=Reached(commit_time=None, lsn=None, timeline=None),
        log=None,
        lost_at=None,
        lost_writes=None,
    )

    parsed = outline(render_page(samples.report(outcome)))

    assert parsed.faults == []
    assert "No objective was judged" in parsed.text


def test_a_loss_that_was_not_measured_from_a_disaster_does_not_speak_of_one() -> None:
    """The trial: --to T without --lost-at was "Before the disaster, between 0.00 s and 0.00 s was lost"."""
    loss = LossInterval(timedelta(0), timedelta(0))
    judgement = Judgement(
        objective=Promise.RPO,
        promised=timedelta(minutes=15),
        measured=loss,
        verdict=Verdict.MET,
        explanation="everything is there",
    )
    moment = datetime(2024, 5, 1, 10, tzinfo=UTC)
    asked = Asked(target=ToTime(moment), declared=moment + timedelta(hours=1))
    known = replace(asked, lost_at=moment + timedelta(minutes=1))

    reports = [
        samples.report(judged(samples.met(), one, judgement, duration=judgement))
        for one in (asked, known)
    ]

    for shown in (render(reports[0], STYLE), render_page(reports[0])):
        assert "0.00 s before the moment asked for" in shown
        assert "--lost-at" in shown
    assert "Before the disaster" not in render_page(reports[0])
    assert "Before the disaster" in render_page(reports[1])
    assert "before the moment asked for" not in render(reports[1], STYLE)


def test_no_loss_at_all_is_drawn_without_a_fault() -> None:
    outcome = samples.met()
    nothing = LossInterval(timedelta(0), timedelta(0))
    judgements = tuple(
        replace(judgement, measured=nothing) if judgement.objective is Promise.RPO else judgement
        for judgement in outcome.judgements
    )
    span = LogSpan(backup_start=Lsn(5), backup_stop=Lsn(5))
    reached = replace(outcome.reached, lsn=Lsn(5))

    page = render_page(
        samples.report(replace(outcome, judgements=judgements, log=span, reached=reached))
    )

    assert outline(page).faults == []

"""The restore report as one HTML page: no script, nothing loaded from elsewhere, good on paper."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from drtool.model.measure import format_moment, format_promise, format_size, format_span
from drtool.model.objective import LossInterval, Verdict
from drtool.model.outcome import Judgement, RestoreReport
from drtool.report.drawing import NARROW, WIDE, draw_log, draw_loss, draw_phases
from drtool.report.printable import printable_outcome
from drtool.report.words import backup_word, key_words, measured_words, reached_word, with_log

# Told by shape as well as by colour: some readers see no colours, and some printers print none.
SIGNS = {Verdict.MET: "✓", Verdict.MISSED: "✕", Verdict.UNKNOWN: "?", Verdict.STALE: "⌛"}


def render_page(report: RestoreReport) -> str:
    """The page, as text; whoever writes it sends it through the redactor first."""
    report = printable_outcome(report)
    return _template().render(report=report, zone=ZoneInfo(report.timezone), widths=(WIDE, NARROW))


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("drtool.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        size=format_size,
        span=format_promise,
        exact="{:,.2f} s".format,
        seconds=_show_seconds,
        measured=measured_words,
        moment=_show_moment,
        sign=SIGNS.__getitem__,
        used=share_used,
        number="{:,}".format,
        backup_word=backup_word,
        reached_word=reached_word,
        with_log=with_log,
        key_words=key_words,
        px="{:.2f}".format,
    )
    environment.globals.update(draw_phases=draw_phases, draw_loss=draw_loss, draw_log=draw_log)
    return environment.get_template("page.html.j2")


def _show_seconds(seconds: float) -> str:
    return format_span(timedelta(seconds=seconds))


def _show_moment(moment: datetime | None, zone: ZoneInfo) -> str:
    return "unknown" if moment is None else format_moment(moment, zone)


def share_used(judgement: Judgement) -> float | None:
    """How much of the promise was used up, 1.0 being all of it; None if nothing was measured."""
    measured = judgement.measured
    if measured is None:
        return None
    worst = measured.at_most if isinstance(measured, LossInterval) else measured
    if judgement.promised <= timedelta(0):
        return None
    return worst / judgement.promised

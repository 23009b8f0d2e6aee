"""Progress in three forms: plain lines, JSON lines, bars."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from drtool.model.progress import Event, Noted, PhaseAdvanced, PhaseBegan, PhaseEnded
from drtool.model.wal import Lsn
from drtool.policy.secrets import Redactor, Secret
from drtool.report.bars import BarsProgress
from drtool.report.progress import JsonProgress, LinesProgress, ProgressView, QuietProgress


class SteppedClock:
    """A clock that stands where a test puts it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds

    def wait(self, seconds: float, until: threading.Event | None = None) -> bool:
        self.seconds += seconds
        return until is not None and until.is_set()


def fetch(view: ProgressView, clock: SteppedClock) -> None:
    """A fetch of 10 GB in 100 seconds, told of every second."""
    view(PhaseBegan(phase="fetch", title="Fetch base backup", total=10**10))
    for second in range(1, 101):
        clock.seconds = float(second)
        view(PhaseAdvanced(phase="fetch", done=second * 10**8))
    view(PhaseEnded(phase="fetch", seconds=100.0))


def test_lines_tell_begin_end_and_at_most_one_line_every_five_seconds() -> None:
    stream, clock = io.StringIO(), SteppedClock()

    with LinesProgress(stream, clock=clock) as view:
        fetch(view, clock)

    lines = stream.getvalue().splitlines()
    assert lines[0] == "Fetch base backup (10 GB) ..."
    assert lines[-1] == "Fetch base backup: done in 1 min 40 s, 10 GB, 100 MB/s"
    assert 18 <= len(lines) - 2 <= 20
    assert lines[2] == "Fetch base backup: 6%, 600 MB of 10 GB, 100 MB/s, 1 min 34 s left"


def test_wal_is_told_as_positions_with_a_rate_in_bytes() -> None:
    stream, clock = io.StringIO(), SteppedClock()

    with LinesProgress(stream, clock=clock) as view:
        goal = int(Lsn.parse("1/20000000"))
        view(PhaseBegan(phase="replay", title="Replay WAL", total=goal, unit="wal"))
        view(PhaseAdvanced(phase="replay", done=int(Lsn.parse("1/10000000"))))
        clock.seconds = 10.0
        view(PhaseAdvanced(phase="replay", done=int(Lsn.parse("1/18000000"))))

    assert stream.getvalue().splitlines() == [
        "Replay WAL (1/20000000) ...",
        "Replay WAL: 0%, 1/10000000 of 1/20000000",
        "Replay WAL: 50%, 1/18000000 of 1/20000000, 13.4 MB/s, 10 s left",
    ]


def test_json_lines_are_objects_with_a_version() -> None:
    stream, clock = io.StringIO(), SteppedClock()

    with JsonProgress(stream, clock=clock) as view:
        fetch(view, clock)
        view(Noted("slow disk", level="warning"))

    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert all(event["drtool"] == 1 and event["kind"] == "progress" for event in events)
    assert [event["event"] for event in events[:2]] == ["phase-began", "phase-advanced"]
    assert events[1]["total"] == 10**10
    assert events[-1] == {
        "drtool": 1,
        "kind": "progress",
        "event": "noted",
        "text": "slow disk",
        "level": "warning",
    }


def test_quiet_tells_only_warnings() -> None:
    stream, clock = io.StringIO(), SteppedClock()

    with QuietProgress(stream, clock=clock) as view:
        fetch(view, clock)
        view(Noted("all is well"))
        view(Noted("slow disk", level="warning"))

    assert stream.getvalue() == "warning: slow disk\n"


def test_bars_show_bytes_rate_and_positions() -> None:
    stream, clock = io.StringIO(), SteppedClock()

    with BarsProgress(stream) as view:
        fetch(view, clock)
        view(PhaseBegan(phase="replay", title="Replay [WAL]", total=0x20000000, unit="wal"))
        view(PhaseAdvanced(phase="replay", done=0x10000000))
        view(PhaseAdvanced(phase="replay", done=0x18000000))
        view(Noted("a [bold] word", level="warning"))

    shown = stream.getvalue()
    assert "Fetch base backup" in shown
    assert "10 GB of 10 GB" in shown
    assert "Replay [WAL]" in shown
    assert "0/18000000" in shown
    assert "a [bold] word" in shown


def test_bars_honour_no_color() -> None:
    stream, clock = io.StringIO(), SteppedClock()

    with BarsProgress(stream, is_plain=True) as view:
        fetch(view, clock)

    assert not any(f"\x1b[{code}m" in stream.getvalue() for code in range(30, 38))


VIEWS: list[Callable[[io.StringIO, Callable[[str], str]], ProgressView]] = [
    lambda stream, redact: LinesProgress(stream, clock=SteppedClock(), redact=redact),
    lambda stream, redact: JsonProgress(stream, clock=SteppedClock(), redact=redact),
    lambda stream, redact: BarsProgress(stream, redact=redact),
]


@pytest.mark.parametrize("make", VIEWS)
def test_no_view_shows_a_secret(
    make: Callable[[io.StringIO, Callable[[str], str]], ProgressView],
) -> None:
    redactor, stream = Redactor(), io.StringIO()
    redactor.learn(Secret("postgresql://ann:hunter22@db/shop"))
    events: list[Event] = [
        PhaseBegan(phase="a", title="connect to postgresql://ann:hunter22@db/shop", total=None),
        PhaseAdvanced(phase="a", done=1, detail="password hunter22"),
        Noted("hunter22 is wrong", level="warning"),
    ]

    with make(stream, redactor.redact) as view:
        for event in events:
            view(event)

    assert "hunter22" not in stream.getvalue()


@pytest.mark.parametrize("make", VIEWS)
def test_events_from_many_threads_are_taken_whole(
    make: Callable[[io.StringIO, Callable[[str], str]], ProgressView],
) -> None:
    stream = io.StringIO()

    with make(stream, str) as view:

        def work(number: int) -> None:
            name = f"p{number}"
            view(PhaseBegan(phase=name, title=name, total=100))
            for done in range(100):
                view(PhaseAdvanced(phase=name, done=done))
            view(PhaseEnded(phase=name, seconds=1.0))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

    assert all(f"p{number}" in stream.getvalue() for number in range(8))


def test_a_watcher_that_went_away_stops_nothing() -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    with LinesProgress(Gone(), clock=SteppedClock()) as view:
        view(Noted("one"))
        view(Noted("two"))

    assert view is not None


@pytest.mark.parametrize("make", VIEWS)
def test_an_event_of_a_phase_that_never_began_is_ignored(
    make: Callable[[io.StringIO, Callable[[str], str]], ProgressView],
) -> None:
    stream = io.StringIO()

    with make(stream, str) as view:
        view(PhaseAdvanced(phase="nowhere", done=1))
        view(PhaseEnded(phase="nowhere", seconds=1.0))

    assert "Traceback" not in stream.getvalue()

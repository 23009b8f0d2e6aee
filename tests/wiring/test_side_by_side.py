"""Several sources at once: each by itself, and none at the cost of another."""

from __future__ import annotations

import _thread
import threading

import pytest

from drtool.errors import DrtoolError, SourceUnavailable
from drtool.model.progress import (
    Emit,
    Event,
    Noted,
    PhaseAdvanced,
    PhaseBegan,
    PhaseEnded,
    silent,
)
from drtool.wiring.side_by_side import Job, side_by_side

LIMIT_SECONDS = 30.0


def test_sources_run_at_the_same_time() -> None:
    meeting = threading.Barrier(3)

    def job(_: Emit) -> int:
        return meeting.wait(LIMIT_SECONDS)

    ended = side_by_side({"a": job, "b": job, "c": job}, silent, at_once=3, stop=threading.Event())

    assert sorted(str(one) for one in ended.values()) == ["0", "1", "2"]


def test_one_at_a_time_is_one_after_the_other_in_order() -> None:
    seen: list[str] = []

    def job(name: str) -> Job[None]:
        def run(_: Emit) -> None:
            seen.append(f"{name} begins")
            seen.append(f"{name} ends")

        return run

    side_by_side({name: job(name) for name in "abc"}, silent, at_once=1, stop=threading.Event())

    assert seen == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]


def test_a_source_that_fails_is_told_at_once_and_stops_no_other() -> None:
    is_told = threading.Event()
    events: list[Event] = []

    def watch(event: Event) -> None:
        events.append(event)
        is_told.set()

    def fails(_: Emit) -> str:
        raise SourceUnavailable("nobody answers at 192.0.2.1")

    def waits(_: Emit) -> str:
        assert is_told.wait(LIMIT_SECONDS)
        return "done"

    # The one that waits is first: a failure behind it must not wait for its turn to be told.
    ended = side_by_side({"slow": waits, "gone": fails}, watch, at_once=2, stop=threading.Event())

    assert list(ended) == ["slow", "gone"]
    assert ended["slow"] == "done"
    assert isinstance(ended["gone"], SourceUnavailable)
    assert events == [Noted("source gone has failed: why is said at the end", "warning")]


def test_a_bug_in_one_source_is_raised_when_the_others_are_done() -> None:
    seen: list[str] = []

    def has_a_bug(_: Emit) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        side_by_side(
            {"bug": has_a_bug, "well": lambda _: seen.append("well")},
            silent,
            at_once=1,
            stop=threading.Event(),
        )

    assert seen == ["well"]


def test_a_single_source_raises_its_error_and_its_events_bear_no_name() -> None:
    events: list[Event] = []

    def fails(emit: Emit) -> None:
        emit(Noted("well so far"))
        raise SourceUnavailable("and now it is gone")

    with pytest.raises(DrtoolError, match="and now it is gone"):
        side_by_side({"only": fails}, events.append, at_once=3, stop=threading.Event())

    assert events == [Noted("well so far")]


def test_events_bear_the_name_of_their_source() -> None:
    events: list[Event] = []

    def job(emit: Emit) -> None:
        emit(PhaseBegan(phase="fetch", title="fetching", total=2))
        emit(PhaseAdvanced(phase="fetch", done=1))
        emit(PhaseEnded(phase="fetch", seconds=0.5))
        emit(Noted("that was it"))

    side_by_side({"a": job, "b": lambda _: None}, events.append, at_once=1, stop=threading.Event())

    assert events == [
        PhaseBegan(phase="a/fetch", title="a: fetching", total=2),
        PhaseAdvanced(phase="a/fetch", done=1),
        PhaseEnded(phase="a/fetch", seconds=0.5),
        Noted("a: that was it"),
    ]


def test_after_an_interrupt_nothing_begins_and_what_runs_is_asked_to_end() -> None:
    seen: list[str] = []
    stop, has_ended = threading.Event(), threading.Event()

    def runs(emit: Emit) -> None:
        emit(PhaseBegan(phase="fetch", title="fetching", total=None))
        _thread.interrupt_main()
        assert stop.wait(LIMIT_SECONDS)
        # Nothing is raised out of telling how far it is: what runs looks at the token, and ends.
        emit(PhaseAdvanced(phase="fetch", done=1))
        has_ended.set()

    jobs: dict[str, Job[None]] = {"a": runs, "b": lambda _: seen.append("began")}
    with pytest.raises(KeyboardInterrupt):
        side_by_side(jobs, silent, at_once=1, stop=stop)

    assert has_ended.wait(LIMIT_SECONDS)
    assert seen == []

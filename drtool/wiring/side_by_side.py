"""Several sources at once: each has its own events and its own failure, and one that fails stops no other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from drtool.errors import DrtoolError
from drtool.model.outcome import Failure
from drtool.model.progress import Emit, Event, Noted, PhaseAdvanced, PhaseBegan, PhaseEnded

T = TypeVar("T")
# The run of one source; it is given where to tell how far it is.
Job = Callable[[Emit], T]


def side_by_side(
    jobs: Mapping[str, Job[T]], emit: Emit, *, at_once: int, stop: threading.Event
) -> dict[str, T | DrtoolError]:
    """What each source's job gave, or why it failed, in the order of `jobs`; `at_once` run at a time.

    A single job runs in this very thread, which is the one that a signal interrupts, and its error is
    raised. Of several, that one failed is told as a warning when it does, and why by whoever asked. An error
    that is no DrtoolError is a bug: it is raised once all have ended. After an interrupt no further job
    begins, and `stop` is set: every job looks at it where it can end.
    """
    if len(jobs) == 1:
        [(name, job)] = jobs.items()
        return {name: job(emit)}
    with ThreadPoolExecutor(at_once, thread_name_prefix="source") as threads:
        try:
            futures = {
                name: threads.submit(_with_failure, name, job, emit) for name, job in jobs.items()
            }
            bugs = [future.exception() for future in futures.values()]
        except BaseException:  # this thread was interrupted
            stop.set()
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    for bug in bugs:
        if bug is not None:
            raise bug
    return {name: future.result() for name, future in futures.items()}


def with_failures(ended: Mapping[str, T | DrtoolError]) -> tuple[T | Failure, ...]:
    """The answers of a command: of each source what its job gave, or its failure in words."""
    return tuple(
        _failure(name, one) if isinstance(one, DrtoolError) else one for name, one in ended.items()
    )


def _failure(name: str, error: DrtoolError) -> Failure:
    return Failure(
        error=type(error).__name__,
        message=f"source {name}: {error.message}",
        hint=error.hint,
        exit_code=int(error.exit_code),
        retryable=error.retryable,
    )


def _with_failure(name: str, job: Job[T], emit: Emit) -> T | DrtoolError:
    try:
        return job(_told_apart(emit, name))
    except DrtoolError as error:
        emit(Noted(f"source {name} has failed: why is said at the end", "warning"))
        return error


def _told_apart(emit: Emit, name: str) -> Emit:
    """The events of one source among several: their phases and sentences bear its name."""

    def tell(event: Event) -> None:
        match event:
            case Noted(text):
                emit(replace(event, text=f"{name}: {text}"))
            case PhaseBegan(phase=phase, title=title):
                emit(replace(event, phase=f"{name}/{phase}", title=f"{name}: {title}"))
            case PhaseEnded(phase=phase):
                emit(replace(event, phase=f"{name}/{phase}"))
            case PhaseAdvanced(phase=phase):
                emit(replace(event, phase=f"{name}/{phase}"))

    return tell

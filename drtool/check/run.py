"""Looks at all parts side by side; what could not be looked at is told, and counts as failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from drtool.errors import DrtoolError, Interrupted
from drtool.model.checked import CheckedPart, Look
from drtool.model.finding import Finding, Severity
from drtool.model.progress import Emit, PhaseAdvanced, PhaseBegan, PhaseEnded
from drtool.system.clock import Clock, Stopwatch

# Sources that are looked at side by side: most of the time is waiting for one that does not answer.
THREADS = 8

# What a look gives: what was seen, in a few words, and what is wrong with it.
Seen = tuple[str, Iterable[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A source or the repository; `look` looks at one thing after the other."""

    name: str
    kind: str
    look: Callable[[], Iterator[Look]]


def run_checks(parts: Sequence[Part], *, clock: Clock, emit: Emit) -> tuple[CheckedPart, ...]:
    """Look at every part; the answers are in the order of `parts`.

    One that fails does not keep the others from being looked at.
    """
    watch = Stopwatch(clock)
    emit(PhaseBegan(phase="check", title="Checking", total=len(parts), unit="objects"))
    with ThreadPoolExecutor(THREADS, thread_name_prefix="check") as pool:
        going = {pool.submit(_look_at, part): part for part in parts}
        for done, future in enumerate(as_completed(going), start=1):
            future.result()
            emit(PhaseAdvanced(phase="check", done=done, detail=going[future].name))
        checked = tuple(future.result() for future in going)
    emit(PhaseEnded(phase="check", seconds=watch.seconds()))
    return checked


def attempt(name: str, look: Callable[[], Seen]) -> Look:
    """Look at one thing; an error that was to be expected becomes what was found."""
    try:
        seen, findings = look()
        return Look(name=name, seen=seen, findings=tuple(findings))
    except Interrupted:
        raise
    except DrtoolError as error:
        return not_looked(name, error)


def not_looked(name: str, error: DrtoolError) -> Look:
    """Nobody could look: that is a problem, and never a pass."""
    finding = Finding(
        severity=Severity.PROBLEM, subject=name, fact=error.message, fix=_fix_of(error)
    )
    return Look(
        name=name,
        seen="could not be looked at",
        findings=(finding,),
        exit_code=int(error.exit_code),
    )


def _fix_of(error: DrtoolError) -> str:
    return error.hint or "Run `drtool check` again; if it stays so, run it with -v."


def _look_at(part: Part) -> CheckedPart:
    looks: list[Look] = []
    try:
        looks.extend(part.look())  # what was seen before a failure is kept
    except Interrupted:
        raise
    except DrtoolError as error:
        looks.append(not_looked(part.kind, error))
    return CheckedPart(name=part.name, kind=part.kind, looks=tuple(looks))

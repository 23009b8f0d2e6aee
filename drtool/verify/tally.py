"""What a verification has counted and found so far, and reading that goes on side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from drtool.errors import DrtoolError
from drtool.model.finding import Finding, Harm, Severity
from drtool.model.progress import Emit, PhaseAdvanced, PhaseBegan, PhaseEnded
from drtool.model.window import LogGap
from drtool.system.clock import Clock, Stopwatch

T = TypeVar("T")

THREADS = 4
AHEAD = 16
# Objects of others that are told by name: whoever may write to the store can add millions.
MOST_FOREIGN = 1000


class Tally:
    """Counts and findings. Belongs to the thread that verifies."""

    def __init__(self, emit: Emit, clock: Clock) -> None:
        self._emit = emit
        self._clock = clock
        self._phase = ""
        self.objects = 0
        self.read_bytes = 0
        self.findings: list[Finding] = []
        self.gaps: list[LogGap] = []
        # Keys of objects that are damaged or missing, with what is wrong; and those read to their end.
        self.damaged: dict[str, str] = {}
        self.read_whole: set[str] = set()
        # What somebody without the key has added, with what it is not; the first of them by name.
        self.foreign: dict[str, str] = {}
        self.more_foreign = 0

    def phase(self, name: str, title: str) -> Callable[[], None]:
        """Announce a phase; the function returned ends it."""
        watch = Stopwatch(self._clock)
        self._phase = name
        self._emit(PhaseBegan(phase=name, title=title, total=None, unit="objects"))
        return lambda: self._emit(PhaseEnded(phase=name, seconds=watch.seconds()))

    def looked_at(self, name: str, read_bytes: int = 0) -> None:
        """One more object was looked at, or read."""
        self.objects += 1
        self.read_bytes += read_bytes
        if self.objects % 16 == 0:
            self._emit(PhaseAdvanced(phase=self._phase, done=self.objects, detail=name))

    def problem(self, subject: str, fact: str, fix: str = "", *, harm: Harm = Harm.DAMAGE) -> None:
        """Something that is wrong, and makes the verification fail."""
        fact = _named_once(subject, fact)
        self.findings.append(
            Finding(severity=Severity.PROBLEM, subject=subject, fact=fact, fix=fix, harm=harm)
        )

    def wrong(self, subject: str, error: DrtoolError) -> None:
        """An error that names what is wrong."""
        self.problem(subject, error.message, error.hint)

    def damage(self, key: str, fact: str, fix: str = "") -> None:
        """An object that is damaged or missing: told, and to be remembered."""
        self.damaged[key] = fact
        self.problem(key, fact, fix)

    def not_ours(self, key: str, fact: str) -> None:
        """An object that nobody with the key has put, and that nothing is missing without."""
        if key in self.foreign:
            return
        if len(self.foreign) < MOST_FOREIGN:
            self.foreign[key] = fact
        else:
            self.more_foreign += 1

    def warn(self, subject: str, fact: str, fix: str = "") -> None:
        """Something that a person should know."""
        fact = _named_once(subject, fact)
        self.findings.append(
            Finding(severity=Severity.WARNING, subject=subject, fact=fact, fix=fix)
        )

    def note(self, subject: str, fact: str) -> None:
        """Something that need not worry anybody."""
        self.findings.append(Finding(severity=Severity.NOTE, subject=subject, fact=fact))


def _named_once(subject: str, fact: str) -> str:
    """What a message says of its object, for a finding that names the object already."""
    return fact.removeprefix(f"object {subject} ")


def side_by_side(tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
    """The results of `tasks`, in order, with 4 at work and at most 16 under way.

    The first error is raised, and nothing that was not begun is begun afterwards.
    """
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="verify")
    under_way: deque[Future[T]] = deque()
    try:
        for task in tasks:
            under_way.append(pool.submit(task))
            if len(under_way) == AHEAD:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)

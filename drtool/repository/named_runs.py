"""Runs of a log as the names of its objects tell, each begun and ended by an object of ours.

A listing is read in place of thousands of objects, and a name is only a hint: whoever may write to the
store can make one without the key. Beyond the log's end, and behind a hole, one such object would feign
a log that nobody can read. So the objects that begin and end each run have to be ours (their heads tell),
and what is not goes out of the run. Between two objects of ours a name is believed until the object is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

_AT_A_TIME = 8
# Of a run that ends in foreign objects so many are looked at together.
_BATCH = 16

IsOurs = Callable[[str], bool]


class Piece(NamedTuple):
    """An object of a log, by its name: the bytes from `begin` up to, not including, `end`."""

    begin: int
    end: int
    key: str


class NamedRun(NamedTuple):
    """Pieces without a hole between them; `last` is the key of the one that reaches farthest, `first` that
    of the one that begins first.
    """

    begin: int
    end: int
    last: str
    first: str


def add_piece(runs: list[NamedRun], piece: Piece) -> None:
    """Add a piece; pieces come in order of their beginning, save that parts follow their segment."""
    if not runs or piece.begin > runs[-1].end:
        runs.append(NamedRun(piece.begin, piece.end, piece.key, piece.key))
        return
    run = runs[-1]
    first = piece.key if piece.begin < run.begin else run.first
    last = piece.key if piece.end > run.end else run.last
    runs[-1] = NamedRun(min(run.begin, piece.begin), max(run.end, piece.end), last, first)


def runs_of_ours(
    runs: Sequence[NamedRun], *, is_ours: IsOurs, pieces_of: Callable[[NamedRun], Iterable[Piece]]
) -> list[NamedRun]:
    """The runs, each cut back to the first and the last object of ours in it.

    Two short reads for each run, where nobody has added anything. `pieces_of` lists a run again, in
    order; it is asked, and its answer held, for a run that ends in a foreign object.
    """
    found: list[NamedRun] = []
    ours = judged(sorted({key for run in runs for key in (run.first, run.last)}), is_ours)
    for run in runs:
        if run.first in ours and run.last in ours:
            found.append(run)
        else:
            found += _cut_back(list(pieces_of(run)), is_ours)
    return found


def _cut_back(pieces: list[Piece], is_ours: IsOurs) -> list[NamedRun]:
    believed: set[str] = set()
    while True:
        runs: list[NamedRun] = []
        for piece in pieces:
            add_piece(runs, piece)
        suspect = [run for run in runs if not {run.first, run.last} <= believed]
        if not suspect:
            return runs
        looked: set[str] = set()
        for run in suspect:
            within = [one for one in pieces if run.begin <= one.begin and one.end <= run.end]
            farthest = sorted(within, key=lambda one: one.end, reverse=True)[:_BATCH]
            looked |= {one.key for one in (*within[:_BATCH], *farthest)} - believed
        believed |= judged(sorted(looked), is_ours)
        pieces = [one for one in pieces if one.key not in looked or one.key in believed]


def judged(keys: Sequence[str], is_ours: IsOurs) -> set[str]:
    """Those of the keys that are ours."""
    if len(keys) < 2:
        return {key for key in keys if is_ours(key)}
    executor = ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="head")
    try:
        answers = list(executor.map(is_ours, keys))
    finally:
        # A store that is away is not asked for all the others too.
        executor.shutdown(cancel_futures=True)
    return {key for key, answer in zip(keys, answers, strict=True) if answer}

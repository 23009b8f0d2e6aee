"""Progress as bars on a terminal: bytes or objects, rate, time left."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.table import Column
from rich.text import Text

from drtool.model.measure import format_size
from drtool.model.progress import Event, Noted, PhaseAdvanced, PhaseBegan, PhaseEnded
from drtool.report.progress import Redact, seconds_left, show_progress, show_seconds

# Narrower terminals have room for what is counted, not for its details.
WIDE_COLUMNS = 110


def _one_line() -> Column:
    """A column that is never broken over two lines."""
    return Column(no_wrap=True, overflow="ellipsis")


class _AmountColumn(ProgressColumn):
    """`1.2 GB of 3.4 GB`, and what was done once it is over; nothing for a phase that counts nothing."""

    def render(self, task: Task) -> Text:
        done, goal = task.fields["done"], task.fields["goal"]
        is_over = task.fields["seconds"] is not None
        if not done and (goal is None or is_over):
            return Text("")
        return Text(show_progress(done, None if is_over else goal, task.fields["unit"]))


class _RateColumn(ProgressColumn):
    """Bytes a second, where bytes are counted."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if task.fields["unit"] != "bytes" or not task.fields["done"] or not speed:
            return Text("")
        return Text(f"{format_size(int(speed))}/s", style="cyan")


class _TimeColumn(ProgressColumn):
    """How long it took, or how long is left."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        took = task.fields["seconds"]
        if took is not None:
            return Text(show_seconds(took), style="green")
        done, goal = task.fields["done"], task.fields["goal"]
        left = seconds_left(done, goal, rate=task.speed or 0.0, elapsed=task.elapsed or 0.0)
        return Text("" if left is None else f"{show_seconds(left)} left")


class BarsProgress:
    """An `Emit` that draws one bar a phase; finished phases stay where they are."""

    def __init__(self, stream: TextIO, *, redact: Redact = str, is_plain: bool = False) -> None:
        self._redact = redact
        self._console = Console(
            file=stream, no_color=is_plain, highlight=False, force_terminal=True
        )
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        columns: list[ProgressColumn] = [
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}", table_column=_one_line()),
            BarColumn(bar_width=24 if self._console.width >= WIDE_COLUMNS else 8),
            _AmountColumn(table_column=_one_line()),
            _RateColumn(table_column=_one_line()),
            _TimeColumn(table_column=_one_line()),
        ]
        if self._console.width >= WIDE_COLUMNS:
            columns.append(
                TextColumn("[dim]{task.fields[detail]}[/]", table_column=Column(no_wrap=True))
            )
        self._progress = Progress(
            *columns,
            console=self._console,
            refresh_per_second=8,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case PhaseBegan():
                    self._begin(event)
                case PhaseAdvanced():
                    self._advance(event)
                case PhaseEnded():
                    self._end(event)
                case Noted(text=text, level=level):
                    style = "yellow" if level == "warning" else ""
                    mark = "! " if level == "warning" else ""
                    self._console.print(escape(mark + self._redact(text)), style=style)

    def _begin(self, event: PhaseBegan) -> None:
        self._tasks[event.phase] = self._progress.add_task(
            escape(self._redact(event.title)),
            total=event.total,
            unit=event.unit,
            done=0,
            goal=event.total,
            seconds=None,
            detail="",
        )

    def _advance(self, event: PhaseAdvanced) -> None:
        number = self._tasks.get(event.phase)
        if number is None:
            return
        goal = event.total if event.total is not None else self._task(number).fields["goal"]
        self._progress.update(
            number,
            completed=event.done,
            total=goal,
            done=event.done,
            goal=goal,
            detail=escape(self._redact(event.detail)),
        )

    def _end(self, event: PhaseEnded) -> None:
        number = self._tasks.pop(event.phase, None)
        if number is None:
            return
        # A phase that nobody could count is a whole bar once it is over; what was counted is in `done`.
        whole = self._task(number).completed or 1
        self._progress.update(
            number, total=whole, completed=whole, seconds=event.seconds, detail=""
        )

    def _task(self, number: TaskID) -> Task:
        return next(task for task in self._progress.tasks if task.id == number)

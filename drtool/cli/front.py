"""What one run of `drtool` knows of how it was called, and the only place from which it prints."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from drtool.errors import PolicyError

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from drtool.model.outcome import Outcome
    from drtool.policy.policy import Policy
    from drtool.policy.secrets import Redactor
    from drtool.report.documents import Json
    from drtool.report.progress import ProgressView
    from drtool.system.clock import Clock
    from drtool.wiring.opening import Opening
    from drtool.wiring.surroundings import Surroundings

# Secrets of the libraries below us, which no policy names.
SECRET_VARIABLES = (
    "PGPASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
)


class Front:
    """One run: its global options, its redactor, and the event that asks it to stop."""

    def __init__(self) -> None:
        self.policy_path: Path | None = None
        self.wants_json = False
        self.no_color = False
        self.is_quiet = False
        self.verbosity = 0
        self.ends_cleanly = False
        self.signals_to_stop = 0
        self.has_begun = False
        self.changes_something = False
        # Why the answer did not reach standard output, once that is so.
        self.answer_lost = ""
        self.has_failed = False
        self.stop = threading.Event()
        self._opening: Opening | None = None

    @property
    def environ(self) -> Mapping[str, str]:
        return os.environ

    @cached_property
    def redactor(self) -> Redactor:
        from drtool.policy.secrets import Redactor, Secret

        redactor = Redactor()
        for name in SECRET_VARIABLES:
            if self.environ.get(name):
                redactor.learn(Secret(self.environ[name]))
        return redactor

    @cached_property
    def clock(self) -> Clock:
        from drtool.system.clock import SystemClock

        return SystemClock()

    @cached_property
    def policy_file(self) -> Path:
        from drtool.config.policy_file import find_policy

        return find_policy(self.policy_path, self.environ, Path.cwd())

    @cached_property
    def policy(self) -> Policy:
        """The policy; whatever secrets it refers to that are there are hidden from now on."""
        from drtool.config.policy_file import read_policy

        policy = read_policy(self.policy_file)
        for reference in policy.secret_references():
            try:
                self.redactor.resolve(reference, self.environ)
            except PolicyError:
                continue  # said with its hint by the command that needs this secret
        return policy

    def zone(self) -> ZoneInfo:
        """The zone in which moments are shown: the policy's, or UTC before it is read."""
        from zoneinfo import ZoneInfo

        return self.policy.timezone if "policy" in self.__dict__ else ZoneInfo("UTC")

    def progress(self) -> ProgressView:
        """The view that fits standard error; a context manager."""
        from drtool.report.progress import JsonProgress, LinesProgress, QuietProgress

        redact = self._shown_line
        if self.wants_json:
            return JsonProgress(sys.stderr, clock=self.clock, redact=redact)
        if self.is_quiet:
            return QuietProgress(sys.stderr, clock=self.clock, redact=redact)
        if sys.stderr.isatty() and self.environ.get("TERM") != "dumb":
            from drtool.report.bars import BarsProgress

            return BarsProgress(sys.stderr, redact=redact, is_plain=not self.colours(sys.stderr))
        return LinesProgress(sys.stderr, clock=self.clock, redact=redact)

    def surroundings(self, view: ProgressView) -> Surroundings:
        """What the wiring needs of this run."""
        from drtool.wiring.surroundings import Surroundings

        self.has_begun = True
        return Surroundings(
            environ=self.environ,
            redactor=self.redactor,
            emit=view,
            clock=self.clock,
            stop=self.stop,
            opening=self._opening,
        )

    def open_repository(self) -> None:
        """Begin to open the repository of the policy, for a command that is sure to need it.

        To be called before the command's own modules are imported: both go on at once.
        """
        from drtool.wiring.opening import Opening

        self._opening = Opening(self.policy, self.environ, redactor=self.redactor, clock=self.clock)

    def colours(self, stream: TextIO) -> bool:
        return not self.no_color and not self.environ.get("NO_COLOR") and stream.isatty()

    def show(self, outcome: Outcome) -> None:
        """Print an answer as text or as one JSON object."""
        from drtool.report.documents import document
        from drtool.report.text import Style, render

        if self.wants_json:
            self.print_document(document(outcome))
        else:
            style = Style(self.zone(), has_colour=self.colours(sys.stdout))
            self.print_text(render(outcome, style))

    def show_all(self, kind: str, outcomes: tuple[Outcome, ...]) -> None:
        """Print several answers of one command; with --json they are one object."""
        if self.wants_json and len(outcomes) != 1:
            from drtool.report.documents import several

            self.print_document(several(kind, outcomes))
            return
        for number, outcome in enumerate(outcomes):
            if number:
                self.print_text("")
            self.show(outcome)

    def print_text(self, text: str) -> None:
        self._answer(self.redactor.redact(text))

    def flush(self) -> None:
        """Of what a library printed; what is printed here is flushed at once."""
        try:
            sys.stdout.flush()
        except OSError:
            silence(sys.stdout)

    def _answer(self, text: str) -> None:
        """Print on standard output; where that fails, what was to be said goes to standard error."""
        if not self.answer_lost:
            try:
                _print(text, sys.stdout)
                return
            except OSError as error:
                silence(sys.stdout)
                self.answer_lost = error.strerror or str(error)
                done = " What was done stands:" if self.changes_something else ""
                self.print_note(
                    "drtool: warning: the answer could not be written to standard output:"
                    f" {self.answer_lost}.{done}"
                )
        self.print_note(text)

    def print_document(self, content: dict[str, Json]) -> None:
        from drtool.report.documents import dumps
        from drtool.report.printable import printable_lines

        # Redacted before it is quoted: `***` inside a string can never break the JSON.
        text = dumps({key: self._redacted(value) for key, value in content.items()})
        self._answer(printable_lines(text))

    def print_note(self, text: str) -> None:
        """A line beside the answer, on standard error."""
        from drtool.report.printable import printable_lines

        try:
            _print(printable_lines(self.redactor.redact(text)), sys.stderr)
        except OSError:
            silence(sys.stderr)  # nobody can be told; how the command ends is not changed by it

    def _shown_line(self, text: str) -> str:
        from drtool.report.printable import printable

        return printable(self.redactor.redact(text))

    def _redacted(self, value: Json) -> Json:
        if isinstance(value, str):
            return self.redactor.redact(value)
        if isinstance(value, list):
            return [self._redacted(item) for item in value]
        if isinstance(value, dict):
            return {key: self._redacted(item) for key, item in value.items()}
        return value


def _print(text: str, stream: TextIO) -> None:
    """Print; a reader who has had enough changes nothing about how the command ends.

    Only here is a broken pipe no failure: one that escapes from a verb is a lost connection.
    """
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        silence(stream)


def silence(stream: TextIO) -> None:
    """Let a stream that nobody reads lead nowhere; Python would try it again at exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

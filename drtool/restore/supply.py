"""What a replay may be given: exactly the plan's WAL and the histories there are, and nothing else.

The plan is authoritative: a segment within it that cannot be read is an error, never an end; a
segment outside it is not there, whatever the repository holds.
"""

from __future__ import annotations

import threading

from drtool.errors import IntegrityError, ObjectMissing
from drtool.model.wal import WalSegment, history_name
from drtool.repository import layout
from drtool.repository.layout import Lineage, parse_history_name
from drtool.repository.log import read_log_object, read_segment
from drtool.repository.repository import Repository
from drtool.restore.plan import RestorePlan
from drtool.system.clock import Clock
from drtool.system.retry import RetryLimits, retrying

# A store that is away for longer than this ends the replay: it can be begun again.
PATIENCE = RetryLimits(attempts=12, within_seconds=120, longest_pause_seconds=20)


class WalSupply:
    """Reads WAL segments and history files by PostgreSQL's names. Any thread may use it."""

    def __init__(
        self,
        repository: Repository,
        plan: RestorePlan,
        *,
        clock: Clock,
        patience: RetryLimits = PATIENCE,
    ) -> None:
        self._repository = repository
        self._plan = plan
        self._clock = clock
        self._patience = patience
        self._stopped = threading.Event()
        self.segment_bytes = plan.manifest.postgres.segment_bytes
        size = self.segment_bytes
        self.planned = tuple(segment for span in plan.spans for segment in span.segments(size))
        self._names = {self.name(segment): segment for segment in self.planned}

    def name(self, segment: WalSegment) -> str:
        """PostgreSQL's name of a segment."""
        return segment.name(self.segment_bytes)

    def taken_over(self, name: str) -> tuple[tuple[str, int], ...]:
        """The timelines of the path that ended within the segment `name`: the name that the segment had
        on each, and how many of its bytes that timeline wrote.
        """
        segment, size = self._names.get(name), self.segment_bytes
        if segment is None:
            return ()
        return tuple(
            (WalSegment(switch.timeline, segment.number).name(size), switch.switch_point % size)
            for switch in self._plan.history.ancestors
            if switch.timeline < segment.timeline
            and switch.switch_point // size == segment.number
            and switch.switch_point % size
        )

    def has(self, name: str) -> bool:
        """Whether `name` is part of the plan. A False is certain."""
        timeline = parse_history_name(name)
        if timeline is not None:
            return timeline in self._plan.histories or timeline in self._plan.path[1:]
        return name in self._names

    def read(self, name: str) -> bytes | None:
        """The whole file, authenticated; None for a history that is surely not there.

        A store that does not answer is asked again within limits, then its error is raised.
        """
        timeline = parse_history_name(name)
        if timeline is None:
            return self._patiently(self._names[name])
        try:
            return self._history(timeline)
        except ObjectMissing:
            if timeline in self._plan.path:
                raise
            return None

    def stop(self) -> None:
        """Begin no further try."""
        self._stopped.set()

    def _patiently(self, segment: WalSegment) -> bytes:
        manifest = self._plan.manifest
        lineage = Lineage(manifest.source, manifest.postgres.system_id, segment.timeline)
        try:
            return retrying(
                lambda: read_segment(
                    self._repository, lineage, segment, segment_bytes=self.segment_bytes
                ),
                limits=self._patience,
                clock=self._clock,
                stop=self._stopped,
            )
        except ObjectMissing as error:
            raise IntegrityError(
                f"WAL segment {self.name(segment)} was in the repository when the restore began, and"
                " is not there now",
                hint="Look who deletes there (a lifecycle rule?), and run the restore again.",
            ) from error

    def _history(self, timeline: int) -> bytes:
        manifest = self._plan.manifest
        key = layout.history_key(manifest.source, manifest.postgres.system_id, timeline)
        try:
            return retrying(
                lambda: read_log_object(self._repository, key),
                limits=self._patience,
                clock=self._clock,
                stop=self._stopped,
            )
        except ObjectMissing as error:
            raise ObjectMissing(
                key, hint=f"It is {history_name(timeline)}, which the timeline path needs."
            ) from error

"""The path of timelines that a server has come along, and its history files in the repository."""

from __future__ import annotations

from drtool.archiving.patience import Patience
from drtool.errors import IntegrityError, SourceUnavailable
from drtool.model.progress import Noted
from drtool.model.wal import TimelineHistory, history_name
from drtool.repository import layout
from drtool.repository.log import OtherContent, put_history
from drtool.repository.repository import Repository
from drtool.sources.postgres.connection import ReplicationConnection
from drtool.sources.postgres.facts import ServerFacts
from drtool.sources.postgres.refusals import BranchLeft
from drtool.sources.postgres.walstream import fetch_history


class HistoryKeeper:
    """Puts every history of a server's path that the repository lacks (PITFALLS 11).

    It remembers what it has put, so that a reconnect costs no request.
    """

    def __init__(self, repository: Repository, source: str, patience: Patience) -> None:
        self._repository = repository
        self._source = source
        self._patience = patience
        self._kept: dict[tuple[int, int], bytes] = {}

    def keep(self, connection: ReplicationConnection, facts: ServerFacts) -> TimelineHistory:
        """The server's path, once its histories are durable.

        SourceUnavailable if the server does not (yet) give the history of its own timeline, BranchLeft
        if the repository holds another one under its name. One of an older timeline that the server
        no longer has is noted, if the repository lacks it.
        """
        if facts.timeline == 1:
            return TimelineHistory(1)
        path = parsed_history(facts.timeline, self._keep_one(connection, facts, facts.timeline))
        for timeline in path.path()[:-1]:
            if timeline > 1:
                self._keep_older(connection, facts, timeline)
        return path

    def _keep_older(
        self, connection: ReplicationConnection, facts: ServerFacts, timeline: int
    ) -> None:
        try:
            self._keep_one(connection, facts, timeline)
        except SourceUnavailable as error:
            if error.retryable:
                raise
            if not self._is_stored(facts.system_id, timeline):
                name = history_name(timeline)
                note = f"{facts.place} has {name} no more, and the repository lacks it"
                self._patience.emit(Noted(note, "warning"))
            self._kept[facts.system_id, timeline] = b""

    def _keep_one(
        self, connection: ReplicationConnection, facts: ServerFacts, timeline: int
    ) -> bytes:
        known = self._kept.get((facts.system_id, timeline))
        if known is not None:
            return known
        content = fetch_history(connection, timeline)
        parsed_history(timeline, content)  # what is no history is not stored
        try:
            self._patience.put(
                lambda: put_history(
                    self._repository, self._source, facts.system_id,
                    timeline=timeline, content=content,
                )
            )  # fmt: skip
        except OtherContent as error:
            raise came_another_way(facts, timeline, self._source) from error
        self._kept[facts.system_id, timeline] = content
        return content

    def _is_stored(self, system_id: int, timeline: int) -> bool:
        key = layout.history_key(self._source, system_id, timeline)
        return self._repository.store.stat(key) is not None


def left_hint(source: str) -> str:
    """What to do where a server is not on the branch that the repository holds."""
    return (
        "If its data directory was put back from a copy (or a standby was promoted twice), let it go on"
        f" beside what is stored: `drtool wal receive {source} --accept-source`, then"
        f" `drtool backup {source}`. If it is a clone, give it a source of its own."
    )


def came_another_way(facts: ServerFacts, timeline: int, source: str) -> BranchLeft:
    """The error for a timeline that the repository knows to have begun elsewhere."""
    return BranchLeft(
        f"{facts.place} came to timeline {timeline} by another way than the repository holds it:"
        f" two servers were promoted to it, or a copy was",
        hint=left_hint(source),
    )


def parsed_history(timeline: int, content: bytes) -> TimelineHistory:
    """A history file as the server gave it; IntegrityError if it is none."""
    try:
        return TimelineHistory.parse(timeline, content.decode("utf-8", "replace"))
    except ValueError as error:
        raise IntegrityError(
            f"the server's {history_name(timeline)} is no history: {error}",
            hint="Look at the file in its pg_wal directory.",
        ) from error

"""Before a base backup: the log is brought up to the server, so that no WAL is lost at its checkpoint.

A checkpoint removes WAL that no slot keeps. The one that a base backup begins with must not come while
the receiver is still behind, as it is after a restart (PITFALLS 97).
"""

from __future__ import annotations

import threading
from contextlib import suppress

from drtool.archiving.receive_settings import ReceiveSettings, lease_name
from drtool.archiving.window import WalFetch
from drtool.errors import Interrupted, LeaseHeld, SourceUnavailable
from drtool.model.measure import format_size
from drtool.model.progress import Emit, Noted
from drtool.model.wal import Lsn
from drtool.repository.lease import lease_holder
from drtool.repository.log_inventory import take_inventory
from drtool.repository.repository import Repository
from drtool.sources.postgres.facts import ServerFacts
from drtool.system.clock import Clock

# A receiver that stores nothing more for so long, or for three of its intervals, is not waited for.
STALLED_SECONDS = 60.0
BEGINNING_SECONDS = 10.0
MOST_SECONDS = 1800.0
_LOOK_SECONDS = 1.0


class CatchingUp:
    """Brings the log up to where the server was when the backup was asked for."""

    def __init__(
        self,
        repository: Repository,
        settings: ReceiveSettings,
        facts: ServerFacts,
        *,
        clock: Clock,
        emit: Emit,
        stop: threading.Event,
    ) -> None:
        self._repository = repository
        self._settings = settings
        self._facts = facts
        self._clock = clock
        self._emit = emit
        self._stop = stop

    def run(self) -> WalFetch | None:
        """Return once less than a segment is missing, with a warning if it could not be brought so far.

        Where no receiver runs, WAL is fetched here, from the log's end on: the fetch is returned and
        goes on beside the backup, so that nothing is left out between the two; the caller closes it.
        What cannot be had does not keep the backup from being taken: it is all the more needed then.
        """
        began = seen_at = self._clock.monotonic()
        seen, is_told = self._behind(), False
        flush = self._settings.wal.flush.total_seconds()
        # One that holds its lease and has stored nothing yet begins soon, or hangs.
        patience = BEGINNING_SECONDS + 2 * flush
        if seen is not None:
            patience = max(STALLED_SECONDS, 3 * flush)
        while True:
            if lease_holder(self._repository, lease_name(self._settings.source)) is None:
                if seen is None:
                    return None  # nothing to go on from
                with suppress(LeaseHeld):  # a receiver has come just now
                    return self._fetched(Lsn(self._facts.flushed - seen))
            if seen is not None and seen <= self._facts.segment_bytes:
                return None
            if not is_told:
                is_told = True
                self._tell(seen)
            if self._clock.wait(_LOOK_SECONDS, self._stop):
                raise Interrupted("the wait for the receiver was broken off")
            now, behind = self._clock.monotonic(), self._behind()
            if behind != seen:
                seen, seen_at = behind, now
            if now - seen_at > patience or now - began > MOST_SECONDS:
                self._warn("the receiver does not get on")
                return None

    def _tell(self, behind: int | None) -> None:
        told = "all of it" if behind is None else format_size(behind)
        name = self._settings.source
        self._emit(Noted(f"the log of {name} lacks {told} of WAL; the receiver is waited for"))

    def _behind(self) -> int | None:
        """Bytes between the log's end and the server; None if its timeline has no log yet."""
        facts = self._facts
        inventory = take_inventory(
            self._repository,
            self._settings.source,
            facts.system_id,
            segment_bytes=facts.segment_bytes,
        )
        log = inventory.timelines.get(facts.timeline)
        return max(0, facts.flushed - log.runs[-1].end) if log and log.runs else None

    def _fetched(self, begin: Lsn) -> WalFetch | None:
        """A fetch that has come as far as the server was; None, with a warning, if it cannot."""
        facts = self._facts
        fetch = WalFetch(self._repository, self._settings, begin=begin, clock=self._clock)
        fetch.__enter__()
        try:
            fetch.wait_until(
                facts.flushed,
                timeline=facts.timeline,
                timeout_seconds=MOST_SECONDS,
                stop=self._stop,
            )
        except SourceUnavailable as error:
            fetch.__exit__(None, None, None)
            self._warn(error.message)
            return None
        except BaseException:
            fetch.__exit__(None, None, None)
            raise
        return fetch

    def _warn(self, why: str) -> None:
        self._emit(
            Noted(
                f"the log of {self._settings.source} could not be brought up first: {why}",
                "warning",
            )
        )

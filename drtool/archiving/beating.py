"""Marks: a heartbeat commits on the primary, and its moment is kept once the log holds it."""

from __future__ import annotations

import threading
from collections import deque

import psycopg

from drtool.archiving.slot_keeping import KeptSlot
from drtool.errors import DrtoolError
from drtool.model.objective import Mark
from drtool.model.progress import Emit, Noted
from drtool.model.wal import Lsn
from drtool.repository.layout import Lineage
from drtool.repository.marks import put_mark
from drtool.repository.repository import Repository
from drtool.sources.postgres.connection import connect
from drtool.sources.postgres.heartbeat import beat
from drtool.sources.postgres.synchronous import is_synchronous, standby_names
from drtool.system.clock import Clock

# Marks that wait for their WAL; an outage longer than this many beats loses the oldest of them.
MOST_PENDING = 1000
LONGEST_PAUSE_SECONDS = 60.0


class Heart:
    """Beats on the primary every `seconds`, in a thread of its own, until `stop`.

    A primary that cannot be asked is reported once and asked again with growing pauses; receiving
    goes on meanwhile. It also watches whether commits wait for `application_name`, and sets
    `at_once` while they do, and how much WAL `slot` keeps.
    """

    def __init__(
        self,
        dsn: str,
        *,
        application_name: str,
        seconds: float,
        clock: Clock,
        slot: KeptSlot | None = None,
    ) -> None:
        self._dsn = dsn
        self._slot = slot
        self._application_name = application_name
        self._seconds = seconds
        self._clock = clock
        self._stop = threading.Event()
        self._pending: deque[Mark] = deque(maxlen=MOST_PENDING)
        self._thread: threading.Thread | None = None
        self._failures = 0
        self._failure: BaseException | None = None

    def start(self, *, at_once: threading.Event, emit: Emit) -> None:
        """Begin to beat, if it does not yet."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(
            target=self._run, args=(at_once, emit), name="heartbeat", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop beating. A beat that hangs is left to its own time-out."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def keep(self, repository: Repository, lineage: Lineage, durable: Lsn) -> int:
        """Put the marks that the log, durable up to `durable` of `lineage`, now holds; their number.

        A store that is away leaves them waiting: marks must not hold up the WAL. A bug that ended the
        heartbeat is raised here: without marks nothing would tell how far a recovery could come.
        """
        if self._failure is not None:
            raise self._failure
        kept = 0
        while self._pending:
            mark = self._pending[0]
            if mark.timeline > lineage.timeline or mark.lsn > durable:
                break
            if mark.timeline == lineage.timeline:
                try:
                    put_mark(repository, lineage, mark)
                except DrtoolError:
                    break
                kept += 1
            self._pending.popleft()
        return kept

    def _run(self, at_once: threading.Event, emit: Emit) -> None:
        try:
            self._beat_until_stopped(at_once, emit)
        except BaseException as error:  # noqa: BLE001 - the thread that receives raises it
            self._failure = error

    def _beat_until_stopped(self, at_once: threading.Event, emit: Emit) -> None:
        while not self._stop.is_set():
            try:
                with connect(self._dsn, purpose="marks") as connection:
                    self._beat_on(connection, at_once, emit)
            except DrtoolError as error:
                if not self._failures:
                    text = f"no marks are made: {error.message}; until then nothing tells how far"
                    emit(Noted(f"{text} a recovery could come. {error.hint}", "warning"))
                self._failures = min(self._failures + 1, 10)
                pause = min(self._seconds * 2**self._failures, LONGEST_PAUSE_SECONDS)
                self._clock.wait(pause, self._stop)

    def _beat_on(
        self, connection: psycopg.Connection, at_once: threading.Event, emit: Emit
    ) -> None:
        while not self._stop.is_set():
            if self._slot is not None:
                self._slot.look(connection)
            self._pending.append(beat(connection))
            if self._failures:
                emit(Noted("marks are made again", "recovery"))
            self._failures = 0
            if is_synchronous(standby_names(connection), self._application_name):
                at_once.set()
            else:
                at_once.clear()
            self._clock.wait(self._seconds, self._stop)

"""What tests of the receiver share: a repository, a receiver in a thread, and the server's own WAL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from drtool.archiving.receive import receive_wal
from drtool.archiving.receive_settings import Received, ReceiveSettings
from drtool.model.progress import Event, Noted
from drtool.model.wal import Lsn, WalSegment, segments_between
from drtool.policy.sources import WalSettings
from drtool.repository.keys import NO_SECRET
from drtool.repository.layout import Lineage
from drtool.repository.log import read_segment
from drtool.repository.log_inventory import LogInventory, take_inventory
from drtool.repository.repository import Repository, create_repository
from drtool.sources.postgres.facts import read_facts
from drtool.stores.capabilities import Capabilities
from drtool.stores.memory import MemoryStore
from drtool.stores.protocol import Store
from drtool.system.clock import SystemClock
from tests.servers.postgres import PostgresServer

SOURCE = "main-db"
LIMIT_SECONDS = 60.0
ABLE = Capabilities(
    creates_atomically=True,
    replaces_if_matching=True,
    reads_after_write=True,
    ranges=True,
    lists_in_order=True,
)


def new_repository(store: Store | None = None) -> Repository:
    return create_repository(
        store or MemoryStore(), NO_SECRET, now=datetime.now(UTC), capabilities=ABLE
    )


def until(condition: Callable[[], object], what: str = "") -> None:
    """Poll until `condition` holds; fail after a minute."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never so: {what}"
        time.sleep(0.01)


def settings_for(
    server: PostgresServer, *, flush: float = 0.2, heartbeat: float = 0.5, slot: str | None = None
) -> ReceiveSettings:
    wal = WalSettings(
        flush=timedelta(seconds=flush),
        heartbeat=timedelta(seconds=heartbeat),
        slot=slot or "none",
    )
    return ReceiveSettings(source=SOURCE, dsn=server.dsn(), wal=wal)


class Running:
    """A receiver in a thread of its own."""

    def __init__(self, repository: Repository, settings: ReceiveSettings) -> None:
        self.stop = threading.Event()
        self.events: list[Event] = []
        self.result: Received | None = None
        self.error: BaseException | None = None
        self._repository = repository
        self._settings = settings
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = receive_wal(
                self._repository,
                self._settings,
                stop=self.stop,
                clock=SystemClock(),
                emit=self.events.append,
            )
        except BaseException as error:
            self.error = error

    def end(self) -> Received:
        """Stop it and return what it says; what it raised is raised."""
        self.stop.set()
        self.thread.join(LIMIT_SECONDS)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result

    def told(self, words: str, level: str) -> int:
        return sum(
            words in event.text and event.level == level
            for event in self.events
            if isinstance(event, Noted)
        )

    @property
    def warnings(self) -> list[str]:
        return [
            event.text
            for event in self.events
            if isinstance(event, Noted) and event.level == "warning"
        ]


@contextmanager
def receiving(repository: Repository, settings: ReceiveSettings) -> Iterator[Running]:
    """A receiver that is stopped at the end of the block, whatever happens in it."""
    running = Running(repository, settings)
    try:
        yield running
    finally:
        running.stop.set()
        running.thread.join(LIMIT_SECONDS)
    if running.error is not None:
        raise running.error


def inventory(repository: Repository, server: PostgresServer) -> LogInventory:
    facts = read_facts(server.dsn())
    return take_inventory(repository, SOURCE, facts.system_id, segment_bytes=facts.segment_bytes)


def held_to(repository: Repository, server: PostgresServer, timeline: int = 1) -> Lsn:
    """Where the last run of a timeline ends; zero if there is none."""
    log = inventory(repository, server).timelines.get(timeline)
    return log.runs[-1].end if log and log.runs else Lsn(0)


def flushed(server: PostgresServer) -> Lsn:
    return Lsn.parse(str(server.query("SELECT pg_current_wal_flush_lsn()")[0][0]))


def acknowledged(server: PostgresServer) -> Lsn | None:
    """What the receiver has reported as durable, as the server sees it."""
    rows = server.query(
        "SELECT flush_lsn FROM pg_stat_replication WHERE application_name = %s", f"drtool-{SOURCE}"
    )
    return Lsn.parse(str(rows[0][0])) if rows and rows[0][0] else None


def sent(server: PostgresServer) -> Lsn | None:
    """How far the server has sent its WAL to the receiver."""
    rows = server.query(
        "SELECT sent_lsn FROM pg_stat_replication WHERE application_name = %s", f"drtool-{SOURCE}"
    )
    return Lsn.parse(str(rows[0][0])) if rows and rows[0][0] else None


def is_streaming(server: PostgresServer) -> bool:
    return acknowledged(server) is not None


def logged(
    repository: Repository, server: PostgresServer, begin: Lsn, *, end: Lsn, timeline: int = 1
) -> bytes:
    """The bytes that the repository holds from the segment start before `begin` up to `end`."""
    facts = read_facts(server.dsn())
    lineage = Lineage(SOURCE, facts.system_id, timeline)
    size = facts.segment_bytes
    joined = b"".join(
        read_segment(repository, lineage, segment, segment_bytes=size)
        for segment in segments_between(timeline, begin, end, segment_bytes=size)
    )
    return joined[: end - begin // size * size]


def own_files(server: PostgresServer, begin: Lsn, *, end: Lsn, timeline: int = 1) -> bytes:
    """The same bytes from the server's pg_wal."""
    size = read_facts(server.dsn()).segment_bytes
    names = [
        segment.name(size) for segment in segments_between(timeline, begin, end, segment_bytes=size)
    ]
    directory: Path = server.data / "pg_wal"
    return b"".join((directory / name).read_bytes() for name in names)[: end - begin // size * size]


def segment_of(lsn: Lsn, size: int, timeline: int = 1) -> WalSegment:
    return WalSegment.holding(timeline, lsn, size)


def fill(server: PostgresServer, megabytes: int) -> None:
    """Write about so much WAL."""
    server.query("CREATE TABLE IF NOT EXISTS filler (id bigserial, content text)")
    for _ in range(megabytes):
        server.query(
            "INSERT INTO filler (content) SELECT string_agg(md5(random()::text), '')"
            " FROM generate_series(1, 30 * 1024) GROUP BY generate_series / 30"
        )

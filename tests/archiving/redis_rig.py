"""What tests of the stream's receiver share: a receiver in a thread, and a second link to compare with."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from drtool.archiving.redis import StreamReceived, StreamSettings, receive_stream
from drtool.model.progress import Event, Noted
from drtool.policy.sources import RedisTopology
from drtool.repository.backups import read_manifests
from drtool.repository.repository import Repository
from drtool.repository.stream_inventory import StreamInventory, take_stream_inventory
from drtool.repository.stream_known import read_known
from drtool.repository.stream_missing import StreamMissing, find_missing
from drtool.repository.streambranch import find_path
from drtool.repository.streampath import read_path
from drtool.sources.redis.address import Login, NodeAddress
from drtool.sources.redis.psync import Position, StreamBytes, open_link
from drtool.system.clock import Clock, SystemClock
from tests.archiving.rig import LIMIT_SECONDS, until
from tests.servers.redis import RedisServer

SOURCE = "cache"


def settings_for(
    servers: Sequence[RedisServer],
    topology: RedisTopology = RedisTopology.STANDALONE,
    *,
    flush: float = 0.2,
    key: str | None = None,
) -> StreamSettings:
    return StreamSettings(
        source=SOURCE,
        topology=topology,
        nodes=tuple(NodeAddress.parse(server.address) for server in servers),
        login=Login(),
        flush_seconds=flush,
        heartbeat_seconds=0.3,
        heartbeat_key=key,
    )


class Running:
    """A receiver in a thread of its own."""

    def __init__(
        self, repository: Repository, settings: StreamSettings, clock: Clock | None = None
    ) -> None:
        self.stop = threading.Event()
        self.events: list[Event] = []
        self.result: StreamReceived | None = None
        self.error: BaseException | None = None
        self._repository = repository
        self._settings = settings
        self._clock = clock or SystemClock()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = receive_stream(
                self._repository,
                self._settings,
                stop=self.stop,
                clock=self._clock,
                emit=self.events.append,
            )
        except BaseException as error:
            self.error = error

    def end(self) -> StreamReceived:
        """Stop it and return what it says; what it raised is raised."""
        self.stop.set()
        self.thread.join(LIMIT_SECONDS)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result

    @property
    def warnings(self) -> list[str]:
        return [
            event.text
            for event in self.events
            if isinstance(event, Noted) and event.level == "warning"
        ]

    def recovered(self, words: str) -> int:
        return sum(
            words in event.text and event.level == "recovery"
            for event in self.events
            if isinstance(event, Noted)
        )

    def warned(self, words: str) -> bool:
        return any(words in text for text in self.warnings)


@contextmanager
def receiving(
    repository: Repository, settings: StreamSettings, *, clock: Clock | None = None
) -> Iterator[Running]:
    """A receiver that is stopped at the end of the block, whatever happens in it; nothing is missed then."""
    running = Running(repository, settings, clock)
    try:
        yield running
    finally:
        running.stop.set()
        running.thread.join(LIMIT_SECONDS)
    if running.error is not None:
        raise running.error
    told = missing(repository)
    assert told == (), told


def missing(repository: Repository) -> tuple[StreamMissing, ...]:
    """What something tells of and is not there: never anything, whatever a receiver went through."""
    known = read_known(repository, SOURCE)
    manifests, _ = read_manifests(repository, SOURCE)
    extents = [one.redis for one in manifests]
    return find_missing(repository, inventory(repository), extents, known=known)


def inventory(repository: Repository) -> StreamInventory:
    return take_stream_inventory(repository, SOURCE)


def position_of(server: RedisServer) -> Position:
    """Where a server's history is now."""
    with server.client() as client:
        told = client.info("replication")
    return Position(told["master_replid"], int(told["master_repl_offset"]))


def holds(repository: Repository, position: Position) -> bool:
    """Whether the byte before `position` is archived."""
    found = inventory(repository)
    return find_path(found, position.replid, begin=position.offset - 1).end >= position.offset


def wait_held(repository: Repository, server: RedisServer) -> Position:
    """Wait until all that `server` has written by now is archived; how far that is."""
    goal = position_of(server)
    until(lambda: holds(repository, goal), f"{goal} is archived")
    return goal


def attached(server: RedisServer) -> list[int]:
    """What each reader that announces no port has acknowledged, as the server sees it."""
    with server.client() as client:
        told = client.info("replication")
    found = [value for name, value in told.items() if name.startswith("slave")]
    return [int(one["offset"]) for one in found if isinstance(one, dict) and int(one["port"]) == 0]


def archived(repository: Repository, begin: Position, *, end: int) -> bytes:
    path = find_path(inventory(repository), begin.replid, begin=begin.offset)
    return b"".join(read_path(repository, SOURCE, path, end=end))


class Witness:
    """A second link of its own, that keeps every byte in memory."""

    def __init__(self, server: RedisServer) -> None:
        self.begin = position_of(server)
        self.content = bytearray()
        self._stop = threading.Event()
        self._link = open_link(
            NodeAddress.parse(server.address), Login(), clock=SystemClock(), position=self.begin
        )
        assert self._link.begun.position == self.begin
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._link as link:
            while not self._stop.is_set():
                item = link.receive(0.1)
                if isinstance(item, StreamBytes):
                    self.content += item.content
                    link.acknowledge(item.end)

    def upto(self, offset: int) -> bytes:
        """What was sent from the beginning to `offset`."""
        until(lambda: self.begin.offset + len(self.content) >= offset, "the witness is behind")
        return bytes(self.content[: offset - self.begin.offset])

    def close(self) -> None:
        self._stop.set()
        self._thread.join(LIMIT_SECONDS)


def write(server: RedisServer, count: int, *, size: int = 100) -> None:
    """Some writes, one after the other in pipelines."""
    with server.client() as client:
        for first in range(0, count, 500):
            pipe = client.pipeline(transaction=False)
            for number in range(first, min(first + 500, count)):
                pipe.set(f"key:{number}", b"x" * size)
            pipe.execute()


def benchmark(server: RedisServer, requests: int, *, size: int = 64) -> subprocess.Popen[bytes]:
    """`redis-benchmark` at full speed, in a process of its own."""
    command = [
        "redis-benchmark", "-h", "127.0.0.1", "-p", str(server.port), "-q", "-t", "set",
        "-n", str(requests), "-d", str(size), "-r", "100000", "-P", "16", "-c", "4",
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for_more(repository: Repository, server: RedisServer) -> None:
    """Wait until something that came after now is archived: a ping, if nothing else."""
    before = position_of(server).offset
    until(lambda: position_of(server).offset > before, "a ping")
    wait_held(repository, server)


class LooksOfOthers:
    """Tells how others ask the server for INFO."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._known = self._count()

    def more(self) -> bool:
        """Whether anybody else did since this was last true, or since this was made."""
        count = self._count()
        self._known += 1  # by this very question
        is_more = count > self._known
        self._known = max(count, self._known)
        return is_more

    def _count(self) -> int:
        with self._server.client() as client:
            return int(client.info("commandstats")["cmdstat_info"]["calls"])


def wait_asked(server: RedisServer) -> None:
    """Wait until the receiver that has joined asks the server how far it is, again and again.

    What is written before it first did looks as if it had come late. Three seconds at most: of some
    receivers the clock stands still, and some may not ask.
    """
    looks, count, deadline = LooksOfOthers(server), 0, time.monotonic() + 3
    while count < 4 and time.monotonic() < deadline:
        count += looks.more()
        time.sleep(0.02)

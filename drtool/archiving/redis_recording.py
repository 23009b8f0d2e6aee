"""How the stretches of a shard's stream are joined is recorded: links, beginnings, what was lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from drtool.archiving.patience import Patience
from drtool.archiving.redis_clock import ServerClock
from drtool.archiving.redis_joining import Start
from drtool.model.measure import counted
from drtool.model.progress import Noted
from drtool.repository.backups import read_newest_manifest
from drtool.repository.extents import RedisExtent
from drtool.repository.repository import Repository
from drtool.repository.stream_inventory import StreamInventory, take_stream_inventory
from drtool.repository.streambranch import left_behind
from drtool.repository.streamlog import StreamBegin, StreamLink, put_begin, put_link
from drtool.sources.redis.psync import FullResync, Position, ReplicaLink

# Tries to join follow each other, and listing what is held takes long.
_KNOWN_SECONDS = 5.0


class HeldStream:
    """What is archived of a source's stream, as it was a few seconds ago; any thread."""

    def __init__(self, repository: Repository, source: str, patience: Patience) -> None:
        self._repository, self._source, self._clock = repository, source, patience.clock
        self._lock = threading.Lock()
        self._known: tuple[StreamInventory, float] | None = None

    def look(self) -> StreamInventory:
        with self._lock:
            now = self._clock.monotonic()
            if self._known is None or now - self._known[1] > _KNOWN_SECONDS:
                self._known = take_stream_inventory(self._repository, self._source), now
            return self._known[0]

    def forget(self) -> None:
        """Something was put: what is known is out of date."""
        with self._lock:
            self._known = None


@dataclass(slots=True, kw_only=True)
class StreamRecorder:
    """Records for one shard. `ask_for_base` is called when no snapshot leads to what comes next.

    `has_snapshot`: whether there was one as the receiver began. `node` is the master's name, `writer`
    its product and version, where it told them, `renamed` its commands of another name. One thread.
    """

    repository: Repository
    source: str
    shard: str
    patience: Patience
    server_clock: ServerClock
    held: HeldStream
    has_snapshot: bool
    ask_for_base: Callable[[], None] | None
    node: str = ""
    writer: tuple[str, str] | None = None
    renamed: tuple[str, ...] = ()
    links: int = 0
    gaps: int = 0

    def record(self, link: ReplicaLink, start: Start, held: Position | None) -> None:
        """Put how the stretch that `link` begins is joined to `held`, which is what we had until now."""
        begun, asked = link.begun.position, start.position
        if isinstance(link.begun, FullResync):
            reason = start.reason or "the server no longer had what came next"
            # What was asked for and refused is where the gap begins.
            lost = start.previous or (None if start.is_new else asked)
            self._begin(begun, reason, lost, is_loss=lost is not None)
            return
        if start.is_new and asked is not None:
            self._begin(asked, start.reason, start.previous, is_loss=start.is_loss)
        if asked is None:
            return
        is_return = start.is_return or (held is not None and held.replid != begun.replid)
        if asked.replid != begun.replid or (is_return and not start.is_new):
            self._link(begun.replid, asked, held)

    def _link(self, name: str, asked: Position, held: Position | None) -> None:
        word = StreamLink(
            replication_id=name,
            previous=asked.replid,
            offset=asked.offset,
            at=self.server_clock.now(),
            shard=self.shard,
            node=self.node,
            writer=self.writer,
            renamed=self.renamed,
        )
        self.patience.put(lambda: put_link(self.repository, self.source, word))
        self.held.forget()
        self.links += 1
        self._emit(f"{self.shard} goes on as {name} from {asked.offset}: a failover", "info")
        if held is not None and held.offset > asked.offset:
            self._emit(
                f"{self.shard}: the new master never had the last"
                f" {counted(held.offset - asked.offset, 'byte')} that are archived of the old"
                " one: Redis has lost those writes. They are kept, and"
                " reached by a restore to a moment before the failover"
            )
        self._require_snapshot()

    def _require_snapshot(self) -> None:
        """A snapshot of what the old master had alone leads to nothing that comes from now on."""
        manifest, _ = read_newest_manifest(self.repository, self.source)
        if manifest is None or not isinstance(manifest.extent, RedisExtent):
            return
        inventory = self.held.look()
        for one in manifest.extent.shards:
            left = left_behind(inventory, one.replication_id, begin=one.offset, after=one.taken_at)
            if left is not None:
                ask = self.ask_for_base
                what_now = "a new one is taken by itself"
                if ask is None:
                    what_now = f"take a new one with `drtool backup {self.source}`"
                else:
                    ask()
                self._emit(
                    f"the newest snapshot of {one.name} is of a history that a failover has ended:"
                    f" {what_now}"
                )
                return

    def _begin(
        self, position: Position, reason: str, previous: Position | None, *, is_loss: bool
    ) -> None:
        word = StreamBegin(
            replication_id=position.replid,
            offset=position.offset,
            reason=reason,
            at=self.server_clock.now(),
            shard=self.shard,
            node=self.node,
            previous=(previous.replid, previous.offset) if previous else None,
        )
        self.patience.put(lambda: put_begin(self.repository, self.source, word))
        self.held.forget()
        if is_loss and previous is not None:
            self.gaps += 1
            ask = self.ask_for_base
            what_now = f"take a new one now with `drtool backup {self.source}`"
            text = (
                f"the stream of {self.shard} has a gap after {previous.offset} of"
                f" {previous.replid}: {reason}. Snapshots made before reach only so far;"
                f" {what_now if ask is None else 'a new one is taken by itself'}"
            )
            if ask is not None:
                ask()
            self._emit(text)
        elif not self.has_snapshot:
            self._emit(
                f"{self.shard} has no snapshot yet: take one with `drtool backup {self.source}`"
            )

    def _emit(self, text: str, level: str = "warning") -> None:
        self.patience.emit(Noted(text, "info" if level == "info" else "warning"))

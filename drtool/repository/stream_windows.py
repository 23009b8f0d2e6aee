"""The moments that a Redis can be returned to: from each snapshot for as far as its stream goes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from drtool.model.window import TimeRange, merged
from drtool.repository.cluster_coverage import TopologyLog, uncovered_since
from drtool.repository.extents import RedisExtent, RedisShard
from drtool.repository.repository import Repository
from drtool.repository.stream_inventory import StreamInventory
from drtool.repository.streambranch import find_path
from drtool.repository.streampath import newest


def stream_windows(
    repository: Repository, inventory: StreamInventory, extents: Iterable[RedisExtent]
) -> tuple[TimeRange, ...]:
    """Ranges of time, broken where the stream is, and where a cluster had a master that no snapshot has.

    One index is read for each end of a path.
    """
    topologies = TopologyLog(repository, inventory.source)
    known: dict[tuple[str, int], datetime | None] = {}

    def end_of(shard: RedisShard) -> datetime | None:
        path = find_path(inventory, shard.replication_id, begin=shard.offset)
        if path.last_id is None:
            return None
        place = path.last_id, path.end
        if place not in known:
            last = newest(repository, inventory.source, path)
            known[place] = last.moment if last else None
        return known[place]

    ranges = []
    for extent in extents:
        ends = [end_of(shard) for shard in extent.shards]
        reached = [end for end in ends if end is not None]
        begin = end = extent.stopped_at
        if len(reached) == len(ends):
            uncovered = uncovered_since(topologies, inventory, extent)
            end = max(begin, min([*reached, *([] if uncovered is None else [uncovered])]))
        ranges.append(TimeRange(begin, end))
    return merged(ranges)

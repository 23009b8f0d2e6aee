"""A database that came back without its content does not become the newest backup without a word."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drtool.backup.plan import Accepted
from drtool.backup.shrunken import breaks
from drtool.errors import SourceUnsuitable
from drtool.repository.backups import backup_ids, read_manifests
from drtool.repository.held import Held, shrank
from drtool.repository.repository import Repository
from tests.backup.taking import SOURCE, new_repository, take_backup
from tests.restore.redis_rig import SOURCE as CACHE
from tests.restore.redis_rig import servers_of, take_snapshot
from tests.servers.postgres import PostgresServer, new_server
from tests.servers.redis import MakeRedis, RedisServer

MB = 1 << 20


def held(count: int, size_bytes: int = 0) -> Held:
    return Held(count=count, noun="keys", size_bytes=size_bytes)


@pytest.mark.parametrize(
    ("before", "now", "most", "said"),
    [
        (held(1000), held(1), 50, "100 % of the keys are gone"),
        (held(1000), held(499), 50, "50 % of the keys are gone"),
        (held(1000), held(500), 50, None),
        (held(1000), held(499), 60, None),
        (held(1000), held(2000), 50, None),
        # Nothing at all is never what was allowed.
        (held(1), held(0), 100, "it is empty"),
        (held(1000), held(0), 100, "it is empty"),
        (held(0), held(0), 50, None),
        # A few keys come and go.
        (held(9), held(1), 50, None),
        (held(3, 100 * MB), held(3, MB), 50, "99 % of the bytes are gone"),
        (held(3, 100 * MB), held(3, 40 * MB), 50, None),
        (held(3, 100 * MB), held(3, MB), 100, None),
        (held(3, MB), held(3, 10), 50, None),
    ],
)
def test_what_is_much_less_is_told(before: Held, now: Held, most: int, said: str | None) -> None:
    fact = shrank(before, now, max_percent=most)

    assert (fact is None) == (said is None)
    assert said is None or said in str(fact)


def windows(repository: Repository, source: str) -> list[str]:
    """What status would say of breaks."""
    manifests, _ = read_manifests(repository, source)
    return [finding.fact for finding in breaks(manifests)]


@pytest.mark.redis
def test_a_redis_that_came_back_empty_is_refused_until_it_is_accepted(
    make_redis: MakeRedis, repository: Repository
) -> None:
    server = make_redis()
    _fill(server, 1000)
    first = take_snapshot(repository, servers_of(server)).backup_id
    server.kill9()
    server.start()
    _fill(server, 1)

    with pytest.raises(SourceUnsuitable, match=r"holds 1 key .* held 1,000 keys") as refused:
        take_snapshot(repository, servers_of(server))

    assert first in refused.value.message
    assert "--accept-source" in refused.value.hint
    assert backup_ids(repository, CACHE) == [first]
    assert windows(repository, CACHE) == []

    outcome = take_snapshot(repository, servers_of(server), accepts=Accepted(source=True))

    assert any("it was accepted" in finding.fact for finding in outcome.findings)
    [told] = windows(repository, CACHE)
    assert first in told
    assert outcome.backup_id in told
    # From here on it is as it should be.
    take_snapshot(repository, servers_of(server))


def _fill(server: RedisServer, count: int) -> None:
    with server.client() as client, client.pipeline(transaction=False) as pipe:
        for number in range(count):
            pipe.set(f"key:{number}", number)
        pipe.execute()


@pytest.fixture
def cluster() -> Iterator[PostgresServer]:
    server = new_server(15, settings={"wal_keep_size": "1GB"})
    yield server
    server.close()


@pytest.fixture
def repository() -> Repository:
    return new_repository()


@pytest.mark.postgres
def test_a_cluster_whose_tables_are_all_dropped_is_refused_until_it_is_accepted(
    cluster: PostgresServer, repository: Repository
) -> None:
    with cluster.connect() as connection:
        connection.autocommit = True
        for number in range(12):
            connection.execute(f"CREATE TABLE t{number} (id int PRIMARY KEY)")
    first = take_backup(cluster.dsn(), repository).backup_id
    manifests, _ = read_manifests(repository, SOURCE)
    assert manifests[0].postgres.relations == 24
    with cluster.connect() as connection:
        connection.autocommit = True
        for number in range(12):
            connection.execute(f"DROP TABLE t{number}")

    with pytest.raises(SourceUnsuitable, match="it is empty, and held 24 relations") as refused:
        take_backup(cluster.dsn(), repository)

    assert "--accept-source" in refused.value.hint
    assert backup_ids(repository, SOURCE) == [first]

    outcome = take_backup(cluster.dsn(), repository, accepts_source=True)

    assert any("it was accepted" in finding.fact for finding in outcome.findings)
    assert len(windows(repository, SOURCE)) == 1

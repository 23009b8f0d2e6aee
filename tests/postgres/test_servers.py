"""The servers of the tests are what they say they are."""

from __future__ import annotations

import pytest

from tests.servers.postgres import MakePostgres, PostgresServer

pytestmark = pytest.mark.postgres


def test_the_shared_servers_answer_to_the_replication_role(postgres: PostgresServer) -> None:
    rows = postgres.query("SHOW server_version_num", user="drtool")

    assert int(rows[0][0]) // 10000 == postgres.major


def test_a_killed_server_starts_again_where_it_was(make_postgres: MakePostgres) -> None:
    server = make_postgres(18, segment_mb=1, checksums=False)
    server.query("CREATE TABLE kept AS SELECT 1")

    server.kill9()
    server.start()

    assert server.query("SELECT * FROM kept") == [(1,)]
    assert server.query("SHOW wal_segment_size") == [("1MB",)]
    assert server.query("SHOW data_checksums") == [("off",)]

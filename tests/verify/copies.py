"""A server as a restore runs it: private, on a data directory of its own, asked by a verifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from drtool.model.progress import Emit, silent
from drtool.model.verification import Verification
from drtool.policy.sources import Check
from drtool.sources.postgres.binaries import find_binaries
from drtool.sources.postgres.entrance import Entrance
from drtool.sources.postgres.server import RunningServer, ServerPlan, start_server
from drtool.system.clock import SystemClock
from drtool.system.users import choose_user
from drtool.verify.cluster import CheckLimits, ClusterVerifier
from tests.servers.postgres import PostgresServer, server_directory


@dataclass(frozen=True)
class Copy:
    """`run` is a superuser's statement; `ask` puts questions as a restore does."""

    server: RunningServer
    major: int

    def run(self, statement: str, *, dbname: str = "postgres", user: str = "postgres") -> list[Any]:
        dsn = self.server.dsn(dbname=dbname, user=user)
        with psycopg.connect(dsn, autocommit=True) as session:
            cursor = session.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def ask(
        self,
        *questions: str | Check,
        seconds: float = 30,
        database: str = "postgres",
        emit: Emit = silent,
    ) -> Verification:
        verifier = ClusterVerifier(
            questions=[one if isinstance(one, Check) else Check(sql=one) for one in questions],
            database=database,
            role="postgres",
            binaries=find_binaries(self.major),
            owner=choose_user(self.server.socket_directory),
            limits=CheckLimits(lock_seconds=1, question_seconds=seconds),
            emit=emit,
        )
        entrance = verifier.enter(self.server)
        assert isinstance(entrance, Entrance), entrance
        return verifier.answers(self.server, entrance)

    def answers(self, *questions: str | Check, **more: Any) -> Sequence[tuple[bool | None, str]]:
        return [(one.passed, one.answer) for one in self.ask(*questions, **more).questions]


@contextmanager
def running_copy(major: int, **settings: str) -> Iterator[Copy]:
    """A cluster that drtool itself starts."""
    made = PostgresServer(server_directory(), major)
    try:
        made.initdb()
        plan = ServerPlan(
            data_directory=made.data,
            binaries=find_binaries(major),
            run_as=choose_user(made.data),
            settings={"listen_addresses": "", "shared_buffers": "16MB", "fsync": "off", **settings},
        )
        with start_server(plan, clock=SystemClock()) as server:
            server.wait_ready(timeout_seconds=60)
            yield Copy(server, major)
    finally:
        made.close()

"""What is measured on: a PostgreSQL 15 with data like a real application's, a policy, a repository."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drtool.errors import ExitCode
from tests.bench.measuring import DRTOOL, Cost, run
from tests.servers.postgres import PostgresServer, new_server, server_directory

_SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "synchronous_commit": "off",
    "maintenance_work_mem": "256MB",
    "autovacuum": "off",
    "wal_keep_size": "4GB",
}
_STEP = 200_000
# Done, or done but with a promise that nobody could judge.
_ANSWERS = (ExitCode.DONE, ExitCode.OBJECTIVE_MISSED)
_POLICY = """\
version: 1
stack: bench
timezone: UTC
objectives: {{default: {{rpo: 15m, rto: 1h}}}}
repository: {{url: "file://{repository}", key: "env:DRTOOL_BENCH_KEY"}}
sources:
  main-db:
    kind: postgres
    dsn: env:DRTOOL_BENCH_DSN
retention: {{recovery_window: 14d, minimum: 1}}
"""
# Words, names, amounts and documents as applications keep them: zstd makes about a quarter of it.
_ROWS = """
insert into events select i,
  timestamptz '2024-01-01' + i * interval '7.3 seconds' + random() * interval '5 s',
  (array['order.created','order.paid','user.login','page.view','cart.updated'])[1+floor(random()*5)::int],
  substr(md5((random()*200000)::int::text), 1, 4+(random()*8)::int) || '.' || substr(md5(i::text), 1, 6)
    || '@' || (array['example.org','example.com','mail.example','post.example'])[1+floor(random()*4)::int],
  round((random()*10000)::numeric, 2),
  jsonb_build_object('session', md5(random()::text),
    'ip', format('10.%s.%s.%s', (random()*255)::int, (random()*255)::int, (random()*255)::int),
    'agent', (array['Mozilla/5.0 (X11; Linux x86_64)','Mozilla/5.0 (iPhone)','curl/8.5.0'])
      [1+floor(random()*3)::int],
    'items', (random()*9)::int, 'total', round((random()*900)::numeric, 2),
    'tags', jsonb_build_array('a'||(random()*50)::int, 'b'||(random()*50)::int),
    'note', repeat(substr(md5((random()*500)::int::text), 1, 8)||' ', 4+(random()*8)::int))
from generate_series({first}::bigint, {last}::bigint) i
"""


@dataclass(frozen=True, slots=True)
class Bed:
    """A filled server, and a directory of our own for everything else."""

    server: PostgresServer
    root: Path
    rows: int

    def drtool(self, *arguments: str, repository: str = "repository") -> Cost:
        """Run the real command with `--json`, on a repository below the root that is made if need be."""
        place = self.root / repository
        policy = self.root / f"{repository}.yaml"
        if not policy.exists():
            policy.write_text(_POLICY.format(repository=place))
            run([DRTOOL, "repository", "init", "--policy", str(policy)], self.environment())
        return run(
            [DRTOOL, *arguments, "--policy", str(policy), "--json", "-q"],
            self.environment(),
            accepted=_ANSWERS,
        )

    def environment(self) -> dict[str, str]:
        """The secrets that the policy refers to."""
        return {
            "DRTOOL_BENCH_DSN": self.server.dsn(),
            "DRTOOL_BENCH_KEY": "correct horse battery staple",
        }

    def forget(self, repository: str) -> None:
        """Remove a repository."""
        shutil.rmtree(self.root / repository, ignore_errors=True)
        (self.root / f"{repository}.yaml").unlink(missing_ok=True)

    def peer(self, name: str) -> str:
        """The path of one of PostgreSQL's programs."""
        return str(self.server.bin_dir / name)


def answer(cost: Cost) -> dict[str, Any]:  # JSON
    """The object that the command printed."""
    document: dict[str, Any] = json.loads(cost.printed)
    return document


def settle() -> None:
    """Write out what earlier runs left, so that the next one does not pay for it."""
    os.sync()


@contextmanager
def bed(rows: int) -> Iterator[Bed]:
    """A server with `rows` events, about 580 bytes each with their indexes; all gone at the end."""
    root = server_directory("drtool-bench-")
    server = new_server(15, settings=_SETTINGS)
    try:
        print(f"filling PostgreSQL 15 with {rows:,} rows", flush=True)
        _fill(server, rows)
        yield Bed(server, root, rows)
    finally:
        server.close()
        shutil.rmtree(root, ignore_errors=True)


def _fill(server: PostgresServer, rows: int) -> None:
    server.query(
        "create table events (id bigint primary key, at timestamptz not null, kind text, email text,"
        " amount numeric(12,2), payload jsonb)"
    )
    for first in range(1, rows + 1, _STEP):
        server.query(_ROWS.format(first=first, last=min(first + _STEP - 1, rows)))
    for columns in ("at", "email", "kind, amount", "(payload->>'session')"):
        server.query(f"create index on events ({columns})")
    server.query("vacuum analyze events")
    server.query("checkpoint")

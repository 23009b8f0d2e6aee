"""A stack of one PostgreSQL, one Redis and one tree of files, and somebody who writes to all three."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from drtool.config.policy_file import parse_policy
from drtool.drill.ledger import LedgerEntry
from drtool.model.progress import silent
from drtool.policy.policy import Policy
from drtool.policy.secrets import Redactor
from drtool.system.clock import SystemClock
from drtool.wiring.surroundings import Surroundings
from tests.acceptance.site import Site, until
from tests.servers.ports import free_port
from tests.servers.postgres import PostgresServer, binaries_of, new_server
from tests.servers.redis import RedisServer, new_redis

CLOCK = SystemClock()
MAJOR = 15
WRITER = 1
# The writer leaves the machine to the archiving and the snapshots for so long after each write.
PAUSE_SECONDS = 0.01
JOIN_SECONDS = 60.0
# What a restore needs to bring a cluster up; without pg_amcheck and pg_checksums its deep checks are
# left out ("not measured"): they have tests of their own, and here there are many restores.
_PROGRAMS = ("initdb", "postgres", "pg_ctl", "pg_controldata", "pg_waldump")
_POLICY = """\
version: 1
stack: shop
timezone: Europe/Warsaw
objectives: {{default: {{rpo: 15m, rto: 1h}}}}
repository: {{url: "file://{root}/repository", key: "file:{root}/drtool.key"}}
sources:
  main-db:
    kind: postgres
    dsn: env:MAIN_DB_DSN
    wal: {{mode: stream, flush: 500ms, heartbeat: 250ms}}
    bin_dir: {root}/programs
  cache:
    kind: redis
    nodes: ["{address}"]
    stream: true
    flush: 500ms
    heartbeat: 250ms
    heartbeat_key: "drtool:mark"
    restore: {{port: {port}}}
  uploads:
    kind: files
    path: {root}/uploads
restore_root: {root}/restored
"""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Running servers, a tree, and a repository that is still empty."""

    site: Site
    postgres: PostgresServer
    redis: RedisServer
    policy: Policy
    around: Surroundings

    @property
    def uploads(self) -> Path:
        return self.site.root / "uploads"

    @contextmanager
    def receiving(self, *words: str, lease: str) -> Iterator[None]:
        """`drtool ... receive` while the block lasts, once it has its lease; it ends with 0."""
        process = self.site.start(*words)
        held = self.site.repository / "leases" / lease
        try:
            until(lambda: held.exists() or process.poll() is not None, f"lease {lease}")
            yield
        except BaseException as error:
            process.kill()
            error.add_note(str(self.site.finished(process, words, code=None)))
            raise
        process.terminate()
        self.site.finished(process, words)


@contextmanager
def new_stack(site: Site) -> Iterator[Stack]:
    """A stack that nobody writes to yet."""
    with ExitStack() as cleaning:
        postgres = new_server(MAJOR, segment_mb=1)
        cleaning.callback(postgres.close)
        redis = new_redis("7.0")
        cleaning.callback(redis.close)
        site.environ["MAIN_DB_DSN"] = postgres.dsn()
        # A random key, which no command has to stretch.
        key = site.root / "drtool.key"
        key.touch(mode=0o600)
        key.write_text(secrets.token_hex(32))
        text = _POLICY.format(root=site.root, address=redis.address, port=free_port())
        (site.root / "policies").mkdir()
        (site.root / "policies" / "shop.yaml").write_text(text)
        (site.root / "programs").mkdir()
        for program in _PROGRAMS:
            (site.root / "programs" / program).symlink_to(binaries_of(MAJOR) / program)
        (site.root / "uploads").mkdir()
        (site.root / "uploads" / "readme").write_text("what customers sent\n")
        postgres.query("CREATE TABLE papers (number bigint PRIMARY KEY, file text NOT NULL)")
        site.run("repository", "init")
        around = Surroundings(
            environ=site.environ,
            redactor=Redactor(),
            emit=silent,
            clock=CLOCK,
            stop=threading.Event(),
        )
        yield Stack(
            site=site,
            postgres=postgres,
            redis=redis,
            policy=parse_policy(text, "the test's policy"),
            around=around,
        )


@dataclass(slots=True)
class Story:
    """What was written where, and when: one entry a write, in order, kept outside the stores."""

    files: list[LedgerEntry] = field(default_factory=list)
    rows: list[LedgerEntry] = field(default_factory=list)
    keys: list[LedgerEntry] = field(default_factory=list)


class Writer:
    """Puts a file, then a row that refers to it, then a key that refers to the row; again and again."""

    def __init__(self, stack: Stack) -> None:
        self.story = Story()
        self._stack = stack
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, name="writer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(JOIN_SECONDS)
        assert not self._thread.is_alive()

    def _write(self) -> None:
        number = 0
        insert = "INSERT INTO papers (number, file) VALUES (%s, %s)"
        with (
            psycopg.connect(self._stack.postgres.dsn(), autocommit=True) as session,
            self._stack.redis.client() as redis,
        ):
            while not self._stop.wait(PAUSE_SECONDS):
                number += 1
                with _entered(self.story.files, number):
                    put_file(self._stack.uploads / name_of(number), content_of(number))
                with _entered(self.story.rows, number):
                    session.execute(insert, (number, name_of(number)))
                with _entered(self.story.keys, number):
                    redis.set(f"paper:{number}", str(number))


def name_of(number: int) -> str:
    return f"paper-{number}"


def content_of(number: int) -> bytes:
    return b"paper %d\n" % number * 20


def put_file(path: Path, content: bytes) -> None:
    """Return once the file is whole, has its name, and is on the disk."""
    beside = path.with_name(f".{path.name}")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)


@contextmanager
def _entered(entries: list[LedgerEntry], number: int) -> Iterator[None]:
    """An entry for the write that the block is, once it is acknowledged."""
    begun = CLOCK.now()
    yield
    entries.append(LedgerEntry(writer=WRITER, number=number, begun=begun, acknowledged=CLOCK.now()))

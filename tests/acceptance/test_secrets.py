"""No secret appears in anything that is printed, reported, stored, or seen in a process list."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest

from drtool.repository.keys import KeySecret, SlotKind
from drtool.repository.repository import Repository, open_repository
from drtool.repository.sealing import ObjectType
from drtool.stores.local import LocalStore
from drtool.system.clock import SystemClock
from tests.acceptance.site import SOURCE, Site
from tests.servers.postgres import PostgresServer, new_server, server_directory

pytestmark = pytest.mark.postgres
# Characters that a URI, a shell, JSON, YAML and HTML each write in ways of their own.
PASSWORD = 'pw/Wort&9"<x>%'
WRONG_PASSWORD = "never-right-4711"
KEY = 'pass phrase/&<7>"of-the-repository'
WRONG_KEY = "another-pass-phrase-0815"
PAGE = b"account 4242 of Erika Mustermann"
HBA = """\
local all all trust
host all drtool 127.0.0.1/32 scram-sha-256
host replication drtool 127.0.0.1/32 scram-sha-256
"""


@dataclass(frozen=True, kw_only=True)
class Leftovers:
    """Everything that a day of work left behind: printed, written, stored, and seen of processes."""

    site: Site
    server: PostgresServer
    command_lines: set[bytes]
    environments: set[bytes]

    def repository(self) -> Repository:
        store = LocalStore(self.site.repository, clock=SystemClock())
        return open_repository(store, KeySecret(SlotKind.PASSPHRASE, KEY.encode()))


def dsn(server: PostgresServer, password: str = PASSWORD) -> str:
    encoded = quote(password, safe="")
    return f"postgresql://drtool:{encoded}@127.0.0.1:{server.port}/postgres"


def spellings() -> dict[str, bytes]:
    """Each secret as it is, and as a URI would write it."""
    words = (PASSWORD, WRONG_PASSWORD, KEY, WRONG_KEY)
    found = {word: word.encode() for word in words}
    return {**found, **{f"{word} encoded": quote(word, safe="").encode() for word in words}}


def found_in(content: bytes) -> list[str]:
    return [name for name, spelling in spellings().items() if spelling in content]


@pytest.fixture(scope="module")
def leftovers() -> Iterator[Leftovers]:
    server = new_server(15, segment_mb=1)
    site = Site(root=server_directory())
    try:
        server.query(f"CREATE ROLE drtool LOGIN REPLICATION PASSWORD '{PASSWORD}'")
        server.query("CREATE TABLE people AS SELECT %s::text AS line", PAGE.decode())
        server.write_hba(HBA)
        server.query("SELECT pg_reload_conf()")
        site.environ.update(MAIN_DB_DSN=dsn(server), DRTOOL_KEY=KEY)
        with watched() as seen:
            work(site)
            fail(site, server)
        yield Leftovers(
            site=site,
            server=server,
            command_lines=seen.command_lines,
            environments=seen.environments,
        )
    finally:
        server.close()
        shutil.rmtree(site.root, ignore_errors=True)


def work(site: Site) -> None:
    """What works, as text and as JSON."""
    url = f"file://{site.repository}"
    site.run("init", "policies/shop.yaml", "--repository", url, "--stack", "shop")
    site.write_policy(key="env:DRTOOL_KEY", checks='["select count(*) = 1 from people"]')
    site.run("policy", "check", "--json", code=None)
    site.run("repository", "init", "--json")
    with site.receiving():
        site.run("backup", SOURCE)
        site.run("backup", SOURCE, "--json")
        site.mark_after(datetime.now(UTC))
    for words in (["status"], ["wal", "status"], ["repository", "info"], ["verify", "--whole"]):
        site.run(*words, code=None)
        site.run(*words, "--json", code=None)
    command = ["restore", SOURCE, "--to", "latest", "--into"]
    site.run(*command, str(site.root / "copy"), "--report", str(site.root / "report.html"))
    site.run(*command, str(site.root / "other"), "--plan", "--json")


def fail(site: Site, server: PostgresServer) -> None:
    """What fails, each with its traceback too."""
    wrong = dsn(server, WRONG_PASSWORD)
    nowhere = dsn(server).replace(str(server.port), "1")
    for words in (["backup", SOURCE], ["wal", "receive", SOURCE], ["backup", SOURCE, "--json"]):
        for flags in ([], ["-v"]):
            site.run(*words, *flags, code=5, MAIN_DB_DSN=wrong)
    site.run("backup", SOURCE, "-v", code=5, MAIN_DB_DSN=nowhere)
    site.run("backup", SOURCE, "-v", code=2, MAIN_DB_DSN=f"postgresql//drtool:{PASSWORD}@x")
    site.run("init", "elsewhere/second.yaml", code=5, MAIN_DB_DSN=wrong)
    for words in (["status"], ["status", "--json"], ["restore", "--to", "latest", "--into", "x"]):
        site.run(*words, "-v", code=7, DRTOOL_KEY=WRONG_KEY)


@dataclass(frozen=True)
class Seen:
    command_lines: set[bytes]
    environments: set[bytes]


@contextmanager
def watched() -> Iterator[Seen]:
    """The command line of every process there is, and the environment of every PostgreSQL program."""
    seen = Seen(set(), set())
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    line = (process / "cmdline").read_bytes()
                    if b"postgres" in line.split(b"\0")[0] or b"pg_" in line.split(b"\0")[0]:
                        seen.environments.add((process / "environ").read_bytes())
                    seen.command_lines.add(line)
                except OSError:
                    continue  # it has ended

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def test_nothing_printed_names_a_secret(leftovers: Leftovers) -> None:
    """PITFALLS 79 and promise 9: in text, JSON, errors and tracebacks."""
    leaks = {
        ran.words: found
        for ran in leftovers.site.ran
        if (found := found_in((ran.out + ran.err).encode()))
    }

    assert leaks == {}
    assert any("Traceback" in ran.err for ran in leftovers.site.ran)
    assert len(leftovers.site.ran) > 25


def test_no_file_that_was_written_names_a_secret(leftovers: Leftovers) -> None:
    """The report, the policies, the restored copy, and every object as it lies in the store."""
    files = [path for path in leftovers.site.root.rglob("*") if path.is_file()]

    leaks = {path: found for path in files if (found := found_in(path.read_bytes()))}

    assert leaks == {}
    assert leftovers.site.root / "report.html" in files


def test_no_object_names_a_secret_once_it_is_opened(leftovers: Leftovers) -> None:
    """Manifests, marks, attempts, evidence and WAL in plain text."""
    repository = leftovers.repository()
    kinds = {
        "backups": ObjectType.MANIFEST, "attempts": ObjectType.ATTEMPT, "log": ObjectType.LOG,
        "marks": ObjectType.MARK, "evidence": ObjectType.EVIDENCE,
    }  # fmt: skip
    opened: dict[str, bytes] = {}
    for stored in repository.store.list(""):
        kind = kinds.get(stored.key.partition("/")[0])
        if kind is not None:
            opened[stored.key] = repository.get(kind, stored.key)

    leaks = {key: found for key, content in opened.items() if (found := found_in(content))}

    assert leaks == {}
    places = {key.partition("/")[0] for key in opened}
    assert places >= {"backups", "log", "marks", "evidence"}


def test_no_object_holds_a_page_in_clear_text(leftovers: Leftovers) -> None:
    """PITFALLS 75: with a key in the policy nothing of the database can be read in the store."""
    table = leftovers.server.query("SELECT pg_relation_filepath('people')")[0][0]
    objects = [path for path in leftovers.site.repository.rglob("*") if path.is_file()]

    readable = [path for path in objects if PAGE in path.read_bytes()]

    assert readable == []
    assert PAGE in (leftovers.site.root / "copy" / table).read_bytes()


def test_no_process_shows_a_secret(leftovers: Leftovers) -> None:
    """Not on a command line; and no child of ours is given our environment."""
    shown = [line for line in leftovers.command_lines if found_in(line)]
    given = [line for line in leftovers.environments if found_in(line)]

    assert (shown, given) == ([], [])
    assert any(b"recovery_target" in line for line in leftovers.command_lines)


def test_a_key_that_is_missing_is_refused_before_anything_is_read(leftovers: Leftovers) -> None:
    """PITFALLS 75: never a fall-back to clear text."""
    site = leftovers.site
    without = {name: value for name, value in site.environ.items() if name != "DRTOOL_KEY"}

    ran = Site(root=site.root, environ=without).run("backup", SOURCE, code=2)

    assert "DRTOOL_KEY" in ran.err
    assert "export DRTOOL_KEY=" in ran.err

"""The worst names that somebody without the key can plant: receiving, backing up and restoring go on.

The commands as they are typed, against a real server and tree. The attacker writes the store, sees every
name there, and is quicker than drtool: the names that it is about to put are taken before.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drtool.model.wal import Lsn, WalSegment
from tests.acceptance.site import RECEIVE, SOURCE, Site, until
from tests.repository.building import MIB
from tests.restore.rig import rows, started
from tests.servers.postgres import MakePostgres, PostgresServer

pytestmark = pytest.mark.postgres
FORGED_LEASE = (
    b'{"owner": "\\u001b[2Jnobody", "until": "2099-01-01T00:00:00+00:00",'
    b' "fencing": 4611686018427387904}'
)
CHECK = "select count(*) > 0 from ledger"


@dataclass(frozen=True)
class Attacker:
    """Adds objects to the repository, and changes and deletes none of it."""

    repository: Path
    contents: Iterator[bytes]

    def plant(self, key: str, content: bytes | None = None) -> None:
        """Put the object if its name is free, as a conditional put does."""
        path = self.repository / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(next(self.contents) if content is None else content)

    @property
    def log(self) -> str:
        [system] = (path for path in (self.repository / "log" / SOURCE).iterdir())
        return f"log/{SOURCE}/{system.name}"

    def before_anything(self) -> None:
        """Once the repository is there: leases, keys, manifests and rooms that nobody needs."""
        [keys] = (self.repository / "keys").iterdir()
        for name in ("version-0002", "version-999999999", "slot-0000000000000000.json"):
            self.plant(f"keys/{keys.name}/{name}")
        for lease in (f"wal-{SOURCE}", f"backup-{SOURCE}", "backup-tree"):
            self.plant(f"leases/{lease}", FORGED_LEASE)
        for source in (SOURCE, "tree"):
            self.plant(f"backups/{source}/20990101T000000.000Z-ffffff")
            self.plant(f"backups/{source}/junk\x1b[2J\\")
            self.plant(f"attempts/{source}/20990101T000000.000Z-ffffff")
        self.plant("elsewhere/deep/down")
        self.plant("RESCUE/rescue.py.new")

    def while_receiving(self, at: WalSegment) -> None:
        """What the receiver is about to put, and what would lead a reader astray."""
        log, timeline = self.log, "00000001"
        for number in range(4):
            segment = WalSegment(1, at.number + number).name(MIB)
            self.plant(f"{log}/{timeline}/{segment}")
            self.plant(f"{log}/{timeline}/{segment}.part-00000000-00FFFFFF")
            self.plant(f"{log}/{timeline}/{segment}.part-00000000-00100000")
        self.plant(f"{log}/{timeline}/gaps/{at.number * MIB:016X}-{(at.number + 9) * MIB:016X}")
        self.plant(f"{log}/{timeline}/events/{at.number * MIB:016X}-minimal")
        self.plant(f"{log}/{timeline}/0000000100000000FFFFFFFF")
        self.plant(f"{log}/000000FF/000000FF0000000000000001")
        self.plant(f"{log}/ZZZZZZZZ/x")
        self.plant(f"{log}/histories/FFFFFFFF.history")
        self.plant(f"{log}/histories/00000002.history")
        self.plant(f"log/{SOURCE}/7/{timeline}/{at.name(MIB)}")
        marks = log.replace("log/", "marks/", 1)
        tomorrow = f"{datetime.now(UTC) + timedelta(days=1):%Y%m%d}"
        self.plant(f"{marks}/{timeline}/{tomorrow}/235959.999999-FFFFFFFFFFFFFFFF")
        self.plant(f"{marks}/{timeline}/99991231/235959.999999-FFFFFFFFFFFFFFFF")
        self.plant(f"{marks}/000000FF/{tomorrow}/235959.999999-FFFFFFFFFFFFFFFF")


@contextmanager
def taking_manifests(attacker: Attacker) -> Iterator[None]:
    """The name of each manifest is taken as soon as the attempt in front of it is seen."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            for attempt in attacker.repository.glob("attempts/*/2*Z-*"):
                with contextlib.suppress(FileExistsError):
                    attacker.plant(f"backups/{attempt.parent.name}/{attempt.name}")

    thread = threading.Thread(target=watch, name="attacker", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def forged_of(repository: Path) -> Iterator[bytes]:
    """A forged head, nothing, and another object byte for byte, in turn."""
    [seal] = (repository / "evidence/init").iterdir()
    head = b"DRTOOL1L" + (1).to_bytes(4, "big") + os.urandom(200)
    return itertools.cycle((head, b"", seal.read_bytes()))


def a_site(site: Site, server: PostgresServer) -> None:
    """A server and a tree, a repository that a key file opens, and one backup of each."""
    server.make_role("drtool")
    server.query("CREATE TABLE ledger (id int PRIMARY KEY)")
    server.query("INSERT INTO ledger VALUES (1)")
    (site.root / "tree").mkdir()
    (site.root / "tree/file").write_text("first")
    (site.root / "key").write_text(os.urandom(32).hex())
    site.environ["MAIN_DB_DSN"] = server.dsn(user="drtool")
    site.write_policy(key=f"file:{site.root}/key", flush="250ms", checks=f'["{CHECK}"]')
    policy = site.root / "policies" / "shop.yaml"
    tree = f'  tree: {{kind: files, path: "{site.root}/tree"}}\n'
    policy.write_text(policy.read_text().replace("restore_root:", f"{tree}restore_root:"))
    site.run("repository", "init")


def receive_under_attack(site: Site, server: PostgresServer, attacker: Attacker) -> None:
    """Rows in five segments, of which the attacker had taken the names of four."""
    receiver = site.receiver()
    try:
        site.mark_after(datetime.now(UTC))
        at = Lsn.parse(server.query("SELECT pg_current_wal_lsn()::text")[0][0])
        attacker.while_receiving(WalSegment(1, at // MIB))
        for row in range(3, 8):
            server.query(f"INSERT INTO ledger VALUES ({row})")
            server.query("SELECT pg_switch_wal()")
        with taking_manifests(attacker):
            site.run("backup")
        assert [*site.repository.glob(f"backups/{SOURCE}/*~*")], "the attacker was too slow"
        server.query("INSERT INTO ledger VALUES (8)")
        moment = datetime.now(UTC)
        until(
            lambda: (
                site.first_mark_after(moment) < moment + timedelta(hours=1)
                or receiver.poll() is not None
            ),
            "all is received",
        )
        site.run("status")
    finally:
        receiver.send_signal(signal.SIGTERM)
        site.finished(receiver, RECEIVE)


def restored_rows(site: Site, into: str) -> list[int]:
    """What comes back of the server, and the tree with what it held last."""
    site.run("restore", "--to", "latest", "--into", into)
    assert (site.root / into / "tree/file").read_text() == "second"
    with started(15, site.root / into / SOURCE) as copy:
        return rows(copy)


def test_planted_names_stop_no_receiver_no_backup_and_no_restore(
    site: Site, make_postgres: MakePostgres
) -> None:
    server = make_postgres(15, segment_mb=1)
    a_site(site, server)
    attacker = Attacker(site.repository, forged_of(site.repository))
    attacker.before_anything()
    site.run("backup")
    server.query("INSERT INTO ledger VALUES (2)")
    (site.root / "tree/file").write_text("second")

    receive_under_attack(site, server, attacker)
    server.kill9()
    verified = site.run("verify")
    assert restored_rows(site, "copy") == list(range(1, 9))
    assert [*site.repository.glob(f"log/{SOURCE}/*/00000001/*~*")], "no name was taken"
    assert "nobody with the key" in verified.out
    assert not [ran for ran in site.ran if "\x1b" in ran.out + ran.err]


@pytest.mark.soak
def test_after_a_repair_everything_is_there_as_before(
    site: Site, make_postgres: MakePostgres
) -> None:
    """What was planted is put aside; what drtool had put beside it counts on, and the next backup too."""
    server = make_postgres(15, segment_mb=1)
    a_site(site, server)
    attacker = Attacker(site.repository, forged_of(site.repository))
    attacker.before_anything()
    (site.root / "tree/file").write_text("second")
    receive_under_attack(site, server, attacker)
    before = site.status()

    site.run("verify", "--whole", "--repair")
    verified = site.run("verify", "--whole")
    after = site.status()
    assert restored_rows(site, "copy") == [1, *range(3, 9)]
    with site.receiving():
        server.query("INSERT INTO ledger VALUES (9)")
        site.run("backup")
    assert restored_rows(site, "again") == [1, *range(3, 10)]

    assert "nobody with the key" not in verified.out
    assert [after[name] for name in ("earliest", "latest", "last_backup")] == [
        before[name] for name in ("earliest", "latest", "last_backup")
    ]

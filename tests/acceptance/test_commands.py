"""The commands as a new user types them, from nothing to a restored server."""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.acceptance.site import RECEIVE, SOURCE, Site, until
from tests.restore.rig import rows, started
from tests.servers.postgres import MakePostgres, PostgresServer

pytestmark = pytest.mark.postgres
CHECK = "select count(*) > 0 from ledger"


def test_a_new_user_comes_from_an_empty_machine_to_a_restored_server(
    site: Site, make_postgres: MakePostgres
) -> None:
    """The sequence of the issue and the README, one command after the other."""
    server = new_source(site, make_postgres)
    site.run("init", "--stack", "shop", "--repository", f"file://{site.repository}")
    ask_for_quick_marks(site.root / "policies" / "main.yaml")
    site.run("policy", "check")
    site.run("repository", "init")
    site.run("backup", SOURCE)

    with site.receiving():
        server.query("INSERT INTO ledger VALUES (2)")
        moment = datetime.now(UTC)
        server.query("INSERT INTO ledger VALUES (3)")
        site.mark_after(datetime.now(UTC))
        while_receiving = site.run("status")
        site.run("wal", "status")
    server.kill9()
    plan = site.run("restore", SOURCE, "--to", moment.isoformat(), "--into", "copy", "--plan")
    assert not (site.root / "copy").exists()
    report = site.run(
        "restore", SOURCE, "--to", moment.isoformat(), "--into", "copy", "--report", "report.html"
    )
    latest = site.run("restore", SOURCE, "--to", "latest", "--into", "latest", "--json")
    site.run("verify", "--whole")

    assert "MET" in while_receiving.out
    assert "Nothing was done" in plan.out
    assert "Start it with:" in report.out
    assert "</svg>" in (site.root / "report.html").read_text()
    assert (site.root / "report.html").stat().st_mode & 0o777 == 0o600
    assert latest.answer["outcomes"][0]["questions"] == [
        {"question": CHECK, "answer": "true", "passed": True}
    ]
    with started(15, site.root / "copy") as copy:
        assert rows(copy) == [1, 2]
    with started(15, site.root / "latest") as copy:
        assert rows(copy) == [1, 2, 3]


def new_source(site: Site, make_postgres: MakePostgres) -> PostgresServer:
    """A server with one row, whose role is the one that the README recommends."""
    server = make_postgres(15, segment_mb=1)
    server.make_role("drtool")
    server.query("CREATE TABLE ledger (id int PRIMARY KEY)")
    server.query("INSERT INTO ledger VALUES (1)")
    site.environ["MAIN_DB_DSN"] = server.dsn(user="drtool")
    site.environ["DRTOOL_KEY"] = "correct horse battery staple"
    return server


def ask_for_quick_marks(policy: Path) -> None:
    """What the starter leaves at ten seconds and as a comment; the test has no time to wait."""
    text = policy.read_text()
    assert "flush: 10s}" in text
    text = text.replace("flush: 10s}", "flush: 500ms, heartbeat: 250ms}")
    before, _, _ = text.partition("    # checks:")
    policy.write_text(f'{before}    checks: ["{CHECK}"]\n')


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_receiver_ends_cleanly_when_it_is_asked_to(
    site: Site, postgres15: PostgresServer, number: signal.Signals
) -> None:
    site.environ["MAIN_DB_DSN"] = postgres15.dsn()
    site.write_policy(flush="60s")
    site.run("repository", "init")
    receiver = site.receiver()
    postgres15.query("SELECT pg_logical_emit_message(true, 'test', 'last words')")
    last = str(postgres15.query("SELECT pg_current_wal_flush_lsn()")[0][0])
    wait_until_sent(postgres15, last)

    receiver.send_signal(number)
    ended = site.finished(receiver, RECEIVE)

    assert "durable up to" in ended.out
    assert site.status()["receiver"] == "none"
    assert list(site.repository.glob("log/*/*/*/*.part-*"))


def wait_until_sent(server: PostgresServer, lsn: str) -> None:
    sent = "SELECT bool_or(sent_lsn >= %s) FROM pg_stat_replication WHERE application_name = %s"
    until(lambda: server.query(sent, lsn, f"drtool-{SOURCE}")[0][0], "the WAL is sent")


def test_what_is_only_planned_writes_nothing(site: Site, postgres15: PostgresServer) -> None:
    site.environ["MAIN_DB_DSN"] = postgres15.dsn()
    site.write_policy()
    site.run("repository", "init", "--dry-run")
    assert not site.repository.exists()
    site.run("repository", "init")
    before = sorted(site.root.rglob("*"))

    planned = [
        site.run("init", "other/main.yaml", "--dry-run"),
        site.run("backup", "--dry-run"),
        site.run("wal", "receive", SOURCE, "--dry-run"),
        site.run("verify", "--dry-run"),
    ]

    assert all(ran.out for ran in planned)
    assert sorted(site.root.rglob("*")) == before

"""Each documented way to fail: its exit code, the thing it names, and the next command."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.acceptance.site import DRTOOL, RECEIVE, SOURCE, Ran, Site, until
from tests.servers.object_stores import ENVIRONMENT
from tests.servers.ports import free_port
from tests.servers.postgres import MakePostgres, PostgresServer, new_server, server_directory

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def protected() -> Iterator[Site]:
    """A machine with one backup and some WAL, whose server is gone. Leave it as it was."""
    server = new_server(15, segment_mb=1)
    site = Site(root=server_directory(), environ={"MAIN_DB_DSN": server.dsn()})
    try:
        site.environ["DRTOOL_KEY"] = "correct horse battery staple"
        site.write_policy(key="env:DRTOOL_KEY")
        site.run("repository", "init")
        with site.receiving():
            site.run("backup", SOURCE)
            site.mark_after(datetime.now(UTC))
        server.kill9()
        yield site
    finally:
        server.close()
        shutil.rmtree(site.root, ignore_errors=True)


@pytest.fixture
def copied(protected: Site, site: Site) -> Site:
    """The same on a machine of the test's own, to be damaged."""
    shutil.copytree(protected.repository, site.repository)
    site.environ.update(protected.environ)
    site.write_policy(key="env:DRTOOL_KEY")
    return site


def says(ran: Ran, *words: str) -> None:
    """All `words` are in the one message or in the hint below it."""
    _, error, told = ran.err.partition("drtool: error: ")
    assert error, ran.err
    assert [word for word in words if word not in told] == [], told
    assert "\n  " in told, told


def to_latest(site: Site, *, code: int, into: str = "copy") -> Ran:
    return site.run("restore", SOURCE, "--to", "latest", "--into", into, code=code)


def test_2_a_bad_policy_is_named_with_its_line_and_the_nearest_word(site: Site) -> None:
    site.write_policy()
    policy = site.root / "policies" / "shop.yaml"
    policy.write_text(policy.read_text().replace("timezone:", "timezoen:"))

    ran = site.run("status", code=2)

    says(ran, "policies/shop.yaml:3:1", "timezoen", "timezone")


def test_3_a_promise_that_is_missed_fails_the_status(copied: Site) -> None:
    """PITFALLS 79: what is too old is said by an exit code, within one look."""
    copied.write_policy(key="env:DRTOOL_KEY", rpo="10ms")

    ran = copied.run("status", code=3)

    assert "MISSED" in ran.out
    assert "drtool wal receive main-db" in ran.out


def test_3_what_nobody_can_tell_fails_too(site: Site) -> None:
    """PITFALLS 62, promise 7: without a backup nothing is known, and that is no success."""
    site.write_policy()
    site.run("repository", "init")

    ran = site.run("status", code=3)

    assert "UNKNOWN" in ran.out
    assert "drtool backup main-db" in ran.out


@pytest.mark.parametrize("days", [-1, 1], ids=["before", "after"])
def test_4_a_moment_outside_the_window_is_refused_before_anything_is_copied(
    protected: Site, days: int
) -> None:
    """PITFALLS 51, 52."""
    window = protected.status()
    moment = (datetime.now(UTC) + timedelta(days=days)).isoformat()
    place = protected.root / "outside"

    ran = protected.run("restore", SOURCE, "--to", moment, "--into", str(place), code=4)

    edges = [datetime.fromisoformat(window[edge]) for edge in ("earliest", "latest")]
    in_zone = [edge.astimezone(ZoneInfo("Europe/Warsaw")) for edge in edges]  # the policy's
    says(ran, SOURCE, *(f"{edge:%Y-%m-%dT%H:%M:%S}" for edge in in_zone))
    assert not place.exists()


def test_5_a_server_that_is_away_is_named_by_its_address(protected: Site) -> None:
    port = free_port()
    nowhere = f"postgresql://drtool@127.0.0.1:{port}/postgres"

    ran = protected.run("backup", SOURCE, code=5, MAIN_DB_DSN=nowhere)

    says(ran, f"127.0.0.1:{port}", "Check that the server runs")


def test_5_a_role_that_may_not_replicate_is_told_the_sql_that_helps(
    protected: Site, postgres15: PostgresServer
) -> None:
    postgres15.query("CREATE ROLE nobody_special LOGIN")
    try:
        dsn = postgres15.dsn(user="nobody_special")

        ran = protected.run("backup", SOURCE, code=5, MAIN_DB_DSN=dsn)
    finally:
        postgres15.query("DROP ROLE nobody_special")

    says(ran, f"127.0.0.1:{postgres15.port}", "ALTER ROLE", "REPLICATION")


@pytest.fixture
def without_sql(make_postgres: MakePostgres) -> PostgresServer:
    """A server that lets the role replicator in for replication and for nothing else."""
    server = make_postgres(15)
    server.make_role("replicator")
    server.write_hba(
        "local all all trust\nlocal replication all trust\nhost replication replicator 127.0.0.1/32 trust"
    )
    server.query("SELECT pg_reload_conf()")
    return server


def test_5_sql_that_is_refused_is_told_before_the_base_backup(
    site: Site, without_sql: PostgresServer
) -> None:
    """The trial: it read 100 % of the cluster, and then ended with 5."""
    site.write_policy()
    site.run("repository", "init")
    before = sorted(site.repository.rglob("*"))
    ways = {
        without_sql.dsn(user="replicator"): ("lets this role in", "hostssl all ROLE"),
        without_sql.socket_dsn(dbname="nodb"): ("nodb", "has no such database"),
    }

    for dsn, words in ways.items():
        for option in ([], ["--dry-run"]):
            ran = site.run("backup", SOURCE, *option, code=5, MAIN_DB_DSN=dsn)

            says(ran, str(without_sql.port), *words)
    kept = [path for path in site.repository.rglob("*") if "leases" not in path.parts]
    assert [path for path in kept if path not in before] == []


@pytest.mark.parametrize("command", [("backup", SOURCE), RECEIVE], ids=["backup", "wal receive"])
def test_5_a_server_without_wal_is_told_the_setting(
    protected: Site, make_postgres: MakePostgres, command: tuple[str, ...]
) -> None:
    server = make_postgres(15, settings={"wal_level": "minimal", "max_wal_senders": "0"})

    ran = protected.run(*command, code=5, MAIN_DB_DSN=server.dsn())

    says(ran, str(server.port), "wal_level", "ALTER SYSTEM SET")


def test_5_a_server_whose_senders_are_used_up_is_told_where_to_look(
    protected: Site, make_postgres: MakePostgres
) -> None:
    server = make_postgres(15, settings={"max_wal_senders": "1"})
    taken = server.connect(replication="true")
    try:
        ran = protected.run("backup", SOURCE, code=5, MAIN_DB_DSN=server.dsn())
    finally:
        taken.close()

    says(ran, "max_wal_senders", "pg_stat_replication")


def test_6_a_store_that_does_not_answer_is_never_an_empty_repository(site: Site) -> None:
    """Promise 4: "I could not look" is not "it is not there"."""
    port = free_port()
    site.environ.update(ENVIRONMENT, DRTOOL_KEY="correct horse battery staple")
    endpoint = f"http://127.0.0.1:{port}"
    site.write_policy(url=f"s3://shop/main?endpoint={endpoint}&region=us-east-1")

    ran = site.run("status", code=6)

    says(ran, endpoint.removeprefix("http://"))
    assert "no repository" not in ran.err


def test_6_a_place_without_a_repository_is_told_the_command_that_makes_one(site: Site) -> None:
    site.write_policy()
    site.repository.mkdir()

    ran = site.run("status", code=6)

    says(ran, str(site.repository), "drtool repository init")


def test_6_a_full_disk_leaves_no_backup_that_counts(site: Site, postgres15: PostgresServer) -> None:
    """Written by a process that may write no file of more than half a megabyte; then by one that may."""
    site.environ["MAIN_DB_DSN"] = postgres15.dsn()
    site.write_policy()
    site.run("repository", "init")

    ran = limited(site, "backup", SOURCE, kilobytes=512)

    assert ran.code == 6, str(ran)
    says(ran, str(site.repository))
    assert list(site.repository.rglob("backups/*/*")) == []
    site.run("backup", SOURCE)
    site.run("verify", "--whole")


def test_5_another_cluster_under_the_same_name_is_refused_before_a_byte_is_stored(
    copied: Site, postgres15: PostgresServer
) -> None:
    """PITFALLS 2."""
    before = sorted(copied.repository.rglob("packs/*/*"))

    ran = copied.run("backup", SOURCE, code=5, MAIN_DB_DSN=postgres15.dsn())

    says(ran, SOURCE, "--accept-source")
    assert sorted(copied.repository.rglob("packs/*/*")) == before


def limited(site: Site, *words: str, kilobytes: int) -> Ran:
    """Run a command to which every disk is as good as full."""
    # SIGXFSZ is ignored, so that the write fails as it does on a full disk.
    script = f'trap \'\' XFSZ; ulimit -f {kilobytes}; exec "$0" "$@"'
    done = subprocess.run(
        ["bash", "-c", script, DRTOOL, *words],
        cwd=site.root, env=site.env(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return Ran(words, done.returncode, done.stdout, done.stderr)


def test_7_a_wrong_key_is_said_and_opens_nothing(protected: Site) -> None:
    """PITFALLS 76."""
    place = protected.root / "wrong"

    for key in ("not the one", "wrong"):
        ran = protected.run(
            "restore", SOURCE, "--to", "latest", "--into", str(place), code=7, DRTOOL_KEY=key
        )

        says(
            ran, "does not open", "the passphrase given opens none of its slots", "an escrowed copy"
        )
    assert not place.exists()


def test_7_a_flipped_bit_is_found_by_restore_and_by_verify(copied: Site) -> None:
    """Promise 5: it is an error that names the object, never data."""
    pack = max(copied.repository.glob("packs/*/*"), key=lambda path: path.stat().st_size)
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(content)

    restored = to_latest(copied, code=7)
    verified = copied.run("verify", "--whole", code=7)

    says(restored, pack.name, str(copied.root / "copy"))
    assert pack.name in verified.out
    assert not (copied.root / "copy" / "global" / "pg_control").exists()


def test_7_a_missing_pack_is_found_by_restore_and_by_a_quick_look(copied: Site) -> None:
    pack = max(copied.repository.glob("packs/*/*"), key=lambda path: path.stat().st_size)
    pack.unlink()

    restored = to_latest(copied, code=7)
    verified = copied.run("verify", code=7)

    says(restored, pack.name)
    assert pack.name in verified.out
    assert not (copied.root / "copy" / "global" / "pg_control").exists()


def test_8_a_destination_that_is_not_empty_is_left_alone(protected: Site) -> None:
    """PITFALLS 53."""
    place = protected.root / "full"
    place.mkdir()
    (place / "precious").write_text("kept")

    ran = to_latest(protected, code=8, into=str(place))

    says(ran, str(place), "precious", "--into")
    assert [path.name for path in place.iterdir()] == ["precious"]


def test_9_a_second_receiver_is_refused_and_the_first_goes_on(
    site: Site, postgres15: PostgresServer
) -> None:
    """PITFALLS 22."""
    site.environ["MAIN_DB_DSN"] = postgres15.dsn()
    site.write_policy()
    site.run("repository", "init")

    with site.receiving() as first:
        second = site.run(*RECEIVE, code=9)
        is_running = first.poll() is None

    says(second, SOURCE, "Wait for that run")
    assert is_running


def test_130_an_interrupted_backup_leaves_nothing_that_counts(
    site: Site, postgres15: PostgresServer
) -> None:
    """PITFALLS 32."""
    site.environ["MAIN_DB_DSN"] = postgres15.dsn()
    site.write_policy()
    site.run("repository", "init")
    words = ("backup", SOURCE)
    process = site.start(*words)
    until(
        lambda: list(site.repository.glob("attempts/*/*")) or process.poll() is not None,
        "it has begun",
    )

    process.send_signal(signal.SIGINT)
    ran = site.finished(process, words, code=130)

    assert "interrupted" in ran.err
    assert list(site.repository.rglob("backups/*/*")) == []


def test_130_an_interrupted_restore_leaves_nothing_that_starts(
    protected: Site, tmp_path: Path
) -> None:
    """Promise 6: its control file comes last."""
    place = protected.root / "interrupted"
    words = ("restore", SOURCE, "--to", "latest", "--into", str(place))
    process = protected.start(*words)
    until(lambda: (place / "base").exists() or process.poll() is not None, "it has begun")

    process.send_signal(signal.SIGINT)
    ran = protected.finished(process, words, code=130)

    assert "interrupted" in ran.err
    assert not (place / "global" / "pg_control").exists()

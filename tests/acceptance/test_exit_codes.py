"""Each command under the faults that everybody meets: it ends with the documented code, and in words.

The README's table says what the codes mean; `Site.run` fails for a traceback.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.acceptance.site import DRTOOL, Ran, Site
from tests.servers.ports import free_port
from tests.servers.postgres import PostgresServer, new_server, server_directory

pytestmark = pytest.mark.postgres
POLICY = """\
version: 1
stack: shop
timezone: UTC
objectives: {{default: {{rpo: 15m, rto: 1h}}}}
repository: {{url: "{url}", key: "file:{root}/drtool.key"}}
sources:
  main-db: {{kind: postgres, dsn: env:MAIN_DB_DSN}}
  uploads: {{kind: files, path: "{root}/tree"}}
  cache: {{kind: redis, nodes: ["127.0.0.1:{port}"]}}
restore_root: {root}/restored
"""
# A random key, which is not stretched: each of these commands would take half a second for that alone.
KEY = base64.b64encode(b"correct horse battery staple....").decode()
WRONG_KEY = base64.b64encode(b"another horse battery staple....").decode()
# Every command that needs the policy, as it is typed; what it needs the repository or a source for is
# in the sets below.
WORDS: dict[str, tuple[str, ...]] = {
    "check": ("check",),
    "status": ("status",),
    "backup": ("backup", "uploads"),
    "wal receive": ("wal", "receive", "main-db"),
    "wal fetch": ("wal", "fetch", "main-db", "000000010000000000000001", "segment"),
    "wal push": ("wal", "push", "main-db", "000000010000000000000001"),
    "wal status": ("wal", "status"),
    "wal gaps": ("wal", "gaps"),
    "redis receive": ("redis", "receive", "cache"),
    "redis status": ("redis", "status"),
    "restore": ("restore", "uploads", "--to", "latest", "--into", "copy"),
    "restore --plan": ("restore", "uploads", "--to", "latest", "--into", "copy", "--plan"),
    "verify": ("verify",),
    "repository info": ("repository", "info"),
    "repository key list": ("repository", "key", "list"),
    "policy check": ("policy", "check"),
    "schedule list": ("schedule", "list"),
}
NO_REPOSITORY = ("policy check", "schedule list")
# PostgreSQL reads these: 255 is "I could not look" (fetch), and below 126 "it is not archived" (push).
SPECIAL = {"wal fetch": 255}
# They ask the servers too, which are down here, and tell the graver of both.
ASKS_SERVERS = ("check", "wal push")


def expected(command: str, code: int) -> int:
    return SPECIAL.get(command, code)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A machine with one backup of a tree; its servers are down."""
    root = server_directory()
    site = Site(root=root)
    site.environ["MAIN_DB_DSN"] = f"postgresql://drtool@127.0.0.1:{free_port()}/postgres"
    (root / "drtool.key").write_text(KEY)
    (root / "drtool.key").chmod(0o600)
    (root / "tree").mkdir()
    (root / "tree" / "file").write_bytes(b"x" * 100_000)
    (root / "policies").mkdir()
    write_policy(site)
    site.run("repository", "init")
    site.run("backup", "uploads")
    try:
        yield site
    finally:
        shutil.rmtree(root, ignore_errors=True)


def write_policy(site: Site, *, url: str | None = None) -> None:
    text = POLICY.format(
        url=url or f"file://{site.root}/repository", root=site.root, port=free_port()
    )
    (site.root / "policies" / "shop.yaml").write_text(text)


def run(site: Site, command: str, code: int) -> Ran:
    return site.run(*WORDS[command], code=expected(command, code))


@contextmanager
def key_is(site: Site, content: str) -> Iterator[None]:
    """The key file holds this while the block lasts."""
    path = site.root / "drtool.key"
    path.write_text(content)
    try:
        yield
    finally:
        path.write_text(KEY)


@pytest.mark.parametrize(
    "command", [name for name in WORDS if name not in (*NO_REPOSITORY, "wal push")]
)
def test_a_repository_that_is_away_ends_with_6_and_a_wrong_key_with_7(
    site: Site, command: str
) -> None:
    with key_is(site, WRONG_KEY):
        wrong = run(site, command, 7)
    os.rename(site.root / "repository", site.root / "away")
    try:
        away = run(site, command, 6)
    finally:
        os.rename(site.root / "away", site.root / "repository")

    assert "does not open" in wrong.err + wrong.out
    assert "repository" in away.err + away.out


@pytest.mark.parametrize("command", WORDS)
def test_a_policy_that_is_not_there_ends_with_2(site: Site, command: str) -> None:
    missing = str(site.root / "no-such.yaml")

    site.run(*WORDS[command], "--policy", missing, code=expected(command, 2))


def test_a_policy_that_is_wrong_or_unreadable_ends_with_2(site: Site) -> None:
    policy = site.root / "broken.yaml"
    policy.write_text("version: 1\nstack: [")

    site.run("status", "--policy", str(policy), code=2)
    site.run("status", "--policy", str(site.root), code=2)


@pytest.mark.parametrize("command", [name for name in WORDS if name not in NO_REPOSITORY])
def test_a_secret_that_is_not_there_ends_with_2(site: Site, command: str) -> None:
    with key_is(site, ""):
        run(site, command, 5 if command in ASKS_SERVERS else 2)


@pytest.mark.parametrize(
    "words",
    [
        ("backup", "main-db"),
        ("backup", "cache"),
        ("wal", "receive", "main-db", "--dry-run"),
        ("redis", "receive", "cache", "--dry-run"),
        ("check",),
        ("backup",),
    ],
    ids=" ".join,
)
def test_a_server_that_is_down_ends_with_5(site: Site, words: tuple[str, ...]) -> None:
    site.run(*words, code=5)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    found = new_server(15, settings={"password_encryption": "scram-sha-256"})
    found.query("CREATE ROLE guarded LOGIN REPLICATION PASSWORD 'right'")
    (found.data / "pg_hba.conf").write_text(
        "local all all trust\nhost all guarded 127.0.0.1/32 scram-sha-256\n"
        "host replication guarded 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
    )
    found.query("SELECT pg_reload_conf()")
    yield found
    found.close()


def test_init_ends_with_5_for_a_server_that_does_not_let_us_in_and_with_2_for_no_dsn(
    site: Site, server: PostgresServer
) -> None:
    """Issue 8.31: a wrong password ended with 7, which means that something stored is damaged."""
    port = server.dsn().partition("port=")[2].split()[0] if "port=" in server.dsn() else ""
    port = port or server.dsn().rpartition(":")[2].partition("/")[0]
    cases = {
        f"postgresql://guarded:wrong@127.0.0.1:{port}/postgres": 5,
        f"postgresql://guarded@127.0.0.1:{free_port()}/postgres": 5,
        f"postgresql://guarded:right@127.0.0.1:{port}/postgres": 0,
        "no connection string": 2,
        "postgresql://host:no-port/x": 2,
    }
    for number, (dsn, code) in enumerate(cases.items()):
        site.run("init", f"new-{number}.yaml", code=code, MAIN_DB_DSN=dsn)


def without_privileges(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    """The program as a user for whom the modes of directories count, as they do not for root."""
    command = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.getuid() == 0 else []
    return subprocess.run(
        [*command, DRTOOL, *words], cwd=site.root, env=site.env(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize("plan", [(), ("--plan",)], ids=["run", "plan"])
@pytest.mark.parametrize("mode", [0o555, 0o000], ids=["not writable", "closed"])
def test_a_destination_without_rights_ends_with_8(
    site: Site, plan: tuple[str, ...], mode: int
) -> None:
    """Issue 8.31: a traceback."""
    closed = site.root / f"closed-{mode:o}"
    closed.mkdir(exist_ok=True)
    closed.chmod(mode)

    ran = without_privileges(
        site, "restore", "uploads", "--to", "latest", "--into", str(closed / "copy"), *plan
    )

    assert (ran.returncode, "Traceback" in ran.stderr) == (8, False), ran.stderr
    assert str(closed) in ran.stderr


@pytest.mark.parametrize("plan", [(), ("--plan",)], ids=["run", "plan"])
def test_a_destination_that_is_full_or_taken_ends_with_8(site: Site, plan: tuple[str, ...]) -> None:
    """Issue 8.31: --plan ended with 0 where the run was going to be refused."""
    taken = site.root / "taken"
    taken.mkdir(exist_ok=True)
    (taken / "file").touch()
    small = site.root / "small"
    small.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "none", str(small)], check=True)
    try:
        full = site.run(
            "restore", "uploads", "--to", "latest", "--into", str(small / "copy"), *plan, code=8
        )
    finally:
        subprocess.run(["umount", str(small)], check=True)
    site.run("restore", "uploads", "--to", "latest", "--into", str(taken), *plan, code=8)

    assert "free" in full.err


def test_files_that_cannot_be_written_end_with_8(site: Site) -> None:
    """The report, a policy, a fetched segment: no traceback."""
    nowhere = "/proc/nowhere/file"

    site.run("init", nowhere, code=8, MAIN_DB_DSN="")
    site.run(
        "restore", "uploads", "--to", "latest", "--into", str(site.root / "with-report"),
        "--report", nowhere, code=8,
    )  # fmt: skip


@pytest.mark.parametrize("command", ["status", "check", "verify"])
def test_a_reader_that_has_gone_changes_no_exit_code(site: Site, command: str) -> None:
    whole = site.run(*WORDS[command], code=None)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as output:
        done = subprocess.run(
            [DRTOOL, *WORDS[command]], cwd=site.root, env=site.env(), stdout=output,
            stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip

    assert (done.returncode, "Traceback" in done.stderr) == (whole.code, False), done.stderr


def test_a_store_that_is_full_ends_with_6(site: Site) -> None:
    small = site.root / "small-store"
    small.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(small)], check=True)
    before = (site.root / "policies" / "shop.yaml").read_text()
    try:
        write_policy(site, url=f"file://{small}/repository")
        site.run("repository", "init")
        (site.root / "tree" / "noise").write_bytes(os.urandom(1_000_000))
        ran = site.run("backup", "uploads", code=6)
    finally:
        (site.root / "tree" / "noise").unlink(missing_ok=True)
        (site.root / "policies" / "shop.yaml").write_text(before)
        subprocess.run(["umount", str(small)], check=True)

    assert "space" in ran.err

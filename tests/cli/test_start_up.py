"""What a command loads before it can begin is its fixed cost: each loads what it needs, and no more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from drtool.config.policy_file import parse_policy
from drtool.errors import DrtoolError, WrongKey
from drtool.policy.policy import Policy
from drtool.policy.secrets import Redactor
from drtool.system.clock import SystemClock
from drtool.wiring.opening import Opening

ROOT = Path(__file__).parents[2]
POLICY = """\
version: 1
stack: small
timezone: UTC
objectives: {{default: {{rpo: 15m, rto: 1h}}}}
repository: {{url: "file://{root}/repository", key: "env:SMALL_KEY"}}
sources: {{tree: {{kind: files, path: "{root}/tree"}}}}
"""
KEY = {"SMALL_KEY": "a passphrase for a test"}
# Runs a command and prints, in order, the modules it asked for.
PROGRAM = """\
import sys
asked = []
sys.addaudithook(lambda event, given: asked.append(given[0]) if event == "import" else None)
from drtool.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as leaving:
    if leaving.code not in (0, 3, 4):
        raise
print(*dict.fromkeys(asked), file=sys.stderr)
"""
# Of other kinds of source, of other stores, of other commands; each takes from 10 to 100 ms to load.
NEEDLESS = {
    "asyncio", "boto3", "botocore", "croniter", "email", "http.client", "jinja2", "obstore",
    "pathspec", "psycopg", "redis", "rich", "ssl", "subprocess", "urllib.request",
    "drtool.archiving", "drtool.mirror", "drtool.restore", "drtool.sources.postgres",
    "drtool.sources.redis", "drtool.verify",
}  # fmt: skip


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("x")
    (tmp_path / "repository").mkdir()
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY.format(root=tmp_path))
    asked_for(["repository", "init"], policy=path)
    return path


def asked_for(words: Sequence[str], *, policy: Path) -> list[str]:
    """The modules that a command asked for, in order."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words, "-q"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **KEY, "DRTOOL_POLICY": str(policy)},
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr.splitlines()[-1].split()


def opening(policy: Path, environ: dict[str, str]) -> Opening:
    return Opening(read(policy), environ, redactor=Redactor(), clock=SystemClock())


def read(path: Path) -> Policy:
    return parse_policy(path.read_text(), str(path))


def test_a_backup_of_a_tree_loads_nothing_of_what_it_does_not_do(policy: Path) -> None:
    asked = asked_for(["backup"], policy=policy)

    assert NEEDLESS & set(asked) == set()
    assert "drtool.backup.tree" in asked, "no backup was taken, so this test proves nothing"


def test_a_look_at_how_things_stand_loads_no_arithmetic_and_nothing_that_writes(
    policy: Path,
) -> None:
    asked_for(["backup"], policy=policy)

    asked = asked_for(["status"], policy=policy)

    needless = NEEDLESS - {"croniter"} | {"numpy", "drtool.backup.tree"}
    assert needless & set(asked) == set()
    assert "drtool.repository.backups" in asked


@pytest.mark.parametrize("command", ["backup", "status", "verify"])
def test_the_repository_is_being_opened_while_a_command_is_loaded(
    policy: Path, command: str
) -> None:
    asked = asked_for([command], policy=policy)

    begun = asked.index("drtool.wiring.opening")
    assert begun < asked.index(f"drtool.wiring.{command}")
    assert asked.index("drtool.repository.keys") < asked.index("drtool.wiring.surroundings")


def test_what_keeps_a_repository_shut_is_said_by_whoever_takes_it_and_not_before(
    policy: Path,
) -> None:
    wrong = opening(policy, {"SMALL_KEY": "another passphrase"})
    absent = opening(policy, {})

    with pytest.raises(WrongKey):
        wrong.take()
    with pytest.raises(DrtoolError, match="SMALL_KEY is not set"):
        absent.take()


def test_a_repository_that_was_opened_ahead_is_taken_once(policy: Path) -> None:
    """The second to ask opens it anew: the first has closed the store."""
    ahead = opening(policy, KEY)

    first, second = ahead.take(), ahead.take()

    assert first is not None
    assert first.repository.store.url.endswith("/repository")
    assert second is None

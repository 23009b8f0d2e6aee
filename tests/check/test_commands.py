"""`drtool check` as a person and a cron job type it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from drtool.errors import ExitCode
from tests.check.rig import Stack
from tests.servers.ports import free_port
from tests.servers.redis import MakeRedis

pytestmark = pytest.mark.redis
DRTOOL = str(Path(sys.executable).with_name("drtool"))
PASSWORD = "not-to-be-seen"
_SOURCES = """\
  main-db: {{kind: postgres, dsn: env:MAIN_DB_DSN}}
  cache:
    kind: redis
    nodes: ["{address}"]
    password: env:CACHE_PASSWORD
    schedule: {{backup: "0 * * * *"}}
  uploads: {{kind: files, path: {root}/tree, schedule: {{backup: "0 * * * *"}}}}
"""


def drtool(root: Path, *words: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        [DRTOOL, *words, "--policy", str(root / "policy.yaml")],
        env={**os.environ, "NO_COLOR": "1", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert PASSWORD not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended


def test_the_answer_is_complete_where_one_source_is_down(
    make_redis: MakeRedis, tmp_path: Path
) -> None:
    server = make_redis(
        password=PASSWORD,
        settings={"appendonly": "yes", "repl-backlog-size": "64mb", "save": "3600 1"},
    )
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("x")
    dsn = f"host=127.0.0.1 port={free_port()} user=drtool dbname=postgres password={PASSWORD}"
    stack = Stack(
        root=tmp_path,
        sources=_SOURCES.format(address=server.address, root=tmp_path),
        environ={"MAIN_DB_DSN": dsn, "CACHE_PASSWORD": PASSWORD},
    )
    (tmp_path / "policy.yaml").write_text(stack.text)
    stack.init()
    stack.backup("cache", "uploads")

    all_of_it = drtool(tmp_path, "check", environ=stack.environ)
    well = drtool(tmp_path, "check", "cache", "uploads", "--json", environ=stack.environ)
    unknown = drtool(tmp_path, "check", "cahce", environ=stack.environ)

    assert all_of_it.returncode == ExitCode.SOURCE_UNAVAILABLE, all_of_it.stdout
    assert "NOT READY main-db (postgres)" in all_of_it.stdout
    assert "could not be looked at" in all_of_it.stdout
    assert "READY cache (redis)" in all_of_it.stdout
    assert "READY uploads (files)" in all_of_it.stdout
    assert "Checking" in all_of_it.stderr
    assert well.returncode == ExitCode.DONE, well.stdout
    answer = json.loads(well.stdout)
    assert (answer["kind"], answer["readiness"]) == ("check", "READY")
    assert [part["name"] for part in answer["parts"]] == ["repository", "cache", "uploads"]
    assert all(look["seen"] for part in answer["parts"] for look in part["looks"])
    assert unknown.returncode == ExitCode.USAGE

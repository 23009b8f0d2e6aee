"""An answer that cannot be written, on a full disk or a stream that is closed, makes no good work bad."""

from __future__ import annotations

import json
import random
import subprocess

import pytest

from tests.acceptance.site import DRTOOL, LIMIT_SECONDS, Site

POLICY = """\
version: 1
stack: shop
timezone: UTC
objectives: {{default: {{rpo: 15m, rto: 1h}}}}
repository: {{url: "file://{root}/repository", key: none}}
sources:
  uploads:
    kind: files
    path: {root}/tree
restore_root: {root}/restored
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(root=tmp_path_factory.mktemp("site"))
    (made.root / "tree").mkdir()
    (made.root / "tree" / "a").write_text("a")
    (made.root / "policies").mkdir()
    (made.root / "policies" / "shop.yaml").write_text(POLICY.format(root=made.root))
    made.run("repository", "init")
    made.run("backup", "uploads")
    return made


def run(site: Site, *words: str, into: str, first: str = "") -> subprocess.CompletedProcess[str]:
    """With one of a shell's redirections."""
    line = f'{first} exec "$@" {into}'
    return subprocess.run(
        ["/bin/sh", "-c", line, "sh", DRTOOL, *words],
        cwd=site.root,
        env=site.env(),
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["text", "json"])
def test_a_backup_whose_answer_went_to_a_full_disk_is_a_backup(
    site: Site, flags: tuple[str, ...]
) -> None:
    ended = run(site, "backup", "uploads", *flags, into=">/dev/full")

    newest = site.run("repository", "info", "--json").answer["backup_ids_uploads"][-1]
    assert ended.returncode == 0
    assert "No space left on device. What was done stands:" in ended.stderr
    assert newest in ended.stderr.partition("What was done stands:")[2]


@pytest.mark.parametrize(
    "words", [("status",), ("repository", "info"), ("backup", "--dry-run"), ("--help",)]
)
def test_a_command_that_only_answers_and_could_not_has_failed(
    site: Site, words: tuple[str, ...]
) -> None:
    ended = run(site, *words, into=">/dev/full")

    assert ended.returncode == 8
    assert "standard output: No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_error_keeps_its_code_where_nothing_can_be_said(site: Site) -> None:
    assert run(site, "backup", "downloads", "--json", into=">/dev/full 2>/dev/full").returncode == 2
    assert run(site, "backup", "downloads", into=">/dev/full 2>/dev/full").returncode == 2


def test_streams_that_are_closed_get_no_file_of_the_repository(site: Site) -> None:
    """The next file that is opened would be number 1, and the answer would stand in it."""
    ended = run(site, "backup", "uploads", into="<&- >&- 2>&-")

    assert ended.returncode == 0
    site.run("verify", "--whole")
    assert json.loads(run(site, "status", "--json", into="<&-").stdout)["kind"] == "status"


def test_an_answer_that_is_lost_is_worse_than_a_promise_that_is_missed(site: Site) -> None:
    policy = site.root / "never.yaml"
    text = POLICY.format(root=site.root)
    policy.write_text(text.replace("  uploads:", "  never:"))

    assert site.run("--policy", str(policy), "status", code=3).out
    assert run(site, "--policy", str(policy), "status", into=">/dev/full").returncode == 8


def test_a_full_disk_is_told_once_with_what_to_do(site: Site) -> None:
    for name in ("big", "large"):
        (site.root / name).mkdir()
        (site.root / name / "a").write_bytes(random.randbytes(1 << 20))
    text = POLICY.format(root=site.root)
    more = "".join(
        f"  {name}: {{kind: files, path: {site.root}/{name}}}\n" for name in ("big", "large")
    )
    policy = site.root / "full.yaml"
    policy.write_text(text.replace("restore_root", f"{more}restore_root"))

    ended = run(
        site, "--policy", str(policy), "backup", "big", "large", into="", first="ulimit -f 100;"
    )

    told = ended.stdout + ended.stderr
    assert ended.returncode == 6
    assert told.count("cannot be written") == 2, told  # once for each
    assert told.count("Make room on the file system") == 2


def test_a_restore_whose_repository_is_away_does_not_propose_to_make_one(site: Site) -> None:
    text = POLICY.format(root=site.root).replace("/repository", "/elsewhere")
    policy = site.root / "away.yaml"
    policy.write_text(text)
    words = ("--policy", str(policy), "restore", "uploads", "--to", "latest", "--plan")

    missing = site.run(*words, code=6)
    (site.root / "elsewhere").mkdir()
    empty = site.run(*words, code=6)

    for ran in (missing, empty):
        assert "repository init" not in ran.err
        assert "repository.url" in ran.err


def test_with_json_all_progress_of_a_restore_is_json(site: Site) -> None:
    moment = site.status()["last_backup_finished"]
    ran = site.run("restore", "uploads", "--to", moment, "--plan", "--json")

    lines = [json.loads(line) for line in ran.err.splitlines()]
    assert "restoring to" in json.dumps(lines[0])

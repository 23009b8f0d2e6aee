"""The commands know trees of files: backup, status, verify, restore, and what they refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from drtool.errors import ExitCode
from tests.backup.test_tree import same
from tests.backup.tree_taking import a_rich_tree

POLICY = """\
version: 1
stack: shop
timezone: Europe/Warsaw
objectives: {{default: {{rpo: 15m, rto: 1h}}}}
repository: {{url: "file://{place}/repository", key: "file:{place}/key"}}
sources:
  uploads: {{kind: files, path: "{place}/tree", exclude: ["*.tmp"]}}
"""


class Site:
    """A policy with one tree, and the program."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.tree = a_rich_tree(place / "tree")
        (place / "tree/photos/2024/x.tmp").unlink()
        (place / "policy.yaml").write_text(POLICY.format(place=place))
        (place / "key").write_bytes(bytes(range(32)).hex().encode())
        (place / "repository").mkdir()
        self.run("repository", "init")

    def run(self, *words: str, code: int = 0) -> Any:  # JSON
        """Run a command, which must end with `code`; its JSON."""
        done = subprocess.run(
            [sys.executable, "-c", "from drtool.cli.main import main; main()", *words, "--json"],
            env={**os.environ, "DRTOOL_POLICY": str(self.place / "policy.yaml")},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if done.stdout else None


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_pattern_with_no_files_is_told_in_plan_and_report(site: Site) -> None:
    site.run("backup")
    back = ("restore", "--to", "latest", "--into", str(site.place / "back"), "--path", "empty")

    plan, report = site.run(*back, "--plan"), site.run(*back)
    other = site.run(
        "restore", "--to", "latest", "--into", str(site.place / "b2"), "--path", "page"
    )

    [outcome] = report["outcomes"]
    for told in (plan, outcome):
        [finding] = [one for one in told["findings"] if one["subject"] == "--path"]
        assert (finding["severity"], "no file or link belongs to it" in finding["fact"]) == (
            "warning",
            True,
        )
    assert (site.place / "back/empty").is_dir()
    assert "no file or link belongs" not in json.dumps(other)


def test_a_tree_is_backed_up_looked_at_verified_and_restored(site: Site) -> None:
    site.run("backup")
    [row] = site.run("status")["rows"]
    verified = site.run("verify", "--percent", "100")
    restored = site.run("restore", "--to", "latest", "--into", str(site.place / "back"))

    same(site.tree, site.place / "back")
    assert (row["kind"], row["verdict"], row["receiver"]) == ("files", "MET", "none")
    assert verified["findings"] == []
    [outcome] = restored["outcomes"]
    assert outcome["kind"] == "files"
    assert restored["verdict"] == "MET"


def test_a_part_or_a_delta_is_for_trees_and_a_full_place_is_refused(site: Site) -> None:
    site.run("backup", "uploads")
    into = str(site.place / "back")

    site.run("restore", "uploads", "--to", "latest", "--into", into, "--path", "/page")
    assert sorted(os.listdir(into)) == ["page"]
    site.run(
        "restore", "uploads", "--to", "latest", "--into", into, code=ExitCode.DESTINATION_REFUSED
    )
    site.run("restore", "uploads", "--to", "latest", "--into", into, "--delta")

    same(site.tree, site.place / "back")


def test_a_plan_of_a_part_or_a_delta_fails_where_the_run_would_and_counts_what_it_would_do(
    site: Site,
) -> None:
    site.run("backup", "uploads")
    into = str(site.place / "back")
    options = ["restore", "uploads", "--to", "latest", "--into", into]

    for plan in ([], ["--plan"]):
        error = site.run(*options, "--path", "/page", "--path", "/pag", *plan, code=4)
        assert "'/pag' matches nothing" in error["message"]
    error = site.run(*options, "--path", str(site.tree / "page"), "--plan", code=4)
    assert "write --path '/page'" in error["hint"]
    site.run(*options, "--delta", "--plan", code=ExitCode.DESTINATION_REFUSED)
    assert not (site.place / "back").exists()
    planned = site.run(*options, "--path", "/page", "--plan")
    assert (planned["fetch_bytes"], planned["changes"]) == (300_001, [])

    site.run(*options, "--path", "/page")
    (site.place / "back/mine").write_text("later")
    delta = site.run(*options, "--delta", "--plan")
    done = site.run(*options, "--delta")

    assert {fact["name"]: fact["value"] for fact in delta["changes"]}["stays"] == ["mine"]
    assert ["mine" in finding["fact"] for finding in done["outcomes"][0]["findings"]] == [True]


def test_a_moment_to_come_is_refused_for_one_tree_and_for_all_with_the_newest(site: Site) -> None:
    """The trial: two hours ahead was planned with 0, restored, and MISSED. And trees alone have a latest."""
    policy = site.place / "policy.yaml"
    other = '  more: {kind: files, path: "PLACE/tree/photos"}\n'.replace("PLACE", str(site.place))
    policy.write_text(policy.read_text() + other)
    site.run("backup")
    ahead = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    into = ("--into", str(site.place / "back"))

    one = site.run("restore", "uploads", "--to", ahead, *into, "--plan", code=4)
    every = site.run("restore", "--to", ahead, *into, code=4)
    plans = site.run("restore", "--to", "latest", *into, "--plan")

    assert "has not come yet" in one["message"]
    assert "The newest moment is" in one["hint"]
    assert "cannot be reached by 2 of 2 sources" in every["message"]
    assert "The newest moment that all sources reach is" in every["hint"]
    assert [plan["recoverable_until"] is not None for plan in plans["items"]] == [True, True]
    assert not (site.place / "back").exists()


def test_a_restored_tree_is_judged_by_what_changed_until_the_disaster(site: Site) -> None:
    """Also where a moment was asked for; and a snapshot of after the disaster may hold what it did."""
    policy = site.place / "policy.yaml"
    policy.write_text(policy.read_text().replace("rpo: 15m", "rpo: 20s"))
    site.run("backup")
    moment = datetime.now(UTC)

    def judged(*words: str, lost_at: datetime | None, code: int) -> Any:  # JSON
        into = str(site.place / f"back-{len(list(site.place.iterdir()))}")
        told = [] if lost_at is None else ["--lost-at", lost_at.isoformat()]
        restored = site.run("restore", "uploads", *words, *told, "--into", into, code=code)
        [rpo, _] = restored["outcomes"][0]["judgements"]
        return rpo

    to_moment = ("--to", moment.isoformat())
    alone = judged(*to_moment, lost_at=None, code=ExitCode.DONE)
    later = judged(
        *to_moment, lost_at=moment + timedelta(seconds=40), code=ExitCode.OBJECTIVE_MISSED
    )
    before = judged(
        "--to", "latest", lost_at=moment - timedelta(hours=1), code=ExitCode.OBJECTIVE_MISSED
    )

    assert alone["verdict"] == "MET"
    assert later["verdict"] == "MISSED"
    assert later["measured"]["at_most_seconds"] > 40
    assert before["verdict"] == "UNKNOWN"
    assert "after the disaster" in before["explanation"]


def test_status_fails_while_it_lists_a_damaged_snapshot(site: Site) -> None:
    site.run("backup")
    site.run("status")
    pack = next(path for path in (site.place / "repository/packs").rglob("*") if path.is_file())
    content = pack.read_bytes()
    pack.chmod(0o600)
    pack.write_bytes(content[:-30] + bytes([content[-30] ^ 1]) + content[-29:])

    site.run("verify", "--whole", code=ExitCode.INTEGRITY)
    [row] = site.run("status", code=ExitCode.INTEGRITY)["rows"]

    assert any(pack.name in finding["fact"] for finding in row["findings"])
    pack.write_bytes(content)
    site.run("verify", "--whole")
    site.run("status")


def test_an_unmounted_source_is_refused_with_its_exit_code(site: Site) -> None:
    """PITFALLS 86."""
    site.run("backup")
    site.tree.rename(site.place / "away")
    site.tree.mkdir()

    site.run("backup", code=ExitCode.SOURCE_UNAVAILABLE)
    site.run("backup", "--accept-source")

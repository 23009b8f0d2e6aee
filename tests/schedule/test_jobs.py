"""What a policy asks to be done unattended."""

from __future__ import annotations

from pathlib import Path

from drtool.config.policy_file import read_policy
from drtool.schedule.jobs import Work, plan_work

POLICY = """\
version: 1
stack: shop
timezone: Europe/Warsaw
objectives: {default: {rpo: 15m, rto: 1h}}
repository: {url: "file:///srv/drtool", key: none}
sources:
"""


def work(tmp_path: Path, sources: str) -> Work:
    path = tmp_path / "shop.yaml"
    path.write_text(POLICY + sources)
    return plan_work(read_policy(path))


def jobs(found: Work) -> list[tuple[str, str, bool]]:
    return [(job.name, job.line, job.is_heavy) for job in found.jobs]


def test_the_reference_stack_has_its_jobs_and_receivers() -> None:
    found = plan_work(read_policy(Path(__file__).parents[2] / "policies" / "stefano.yaml"))
    assert jobs(found) == [
        ("backup main-db", "0 2 * * *", True),
        ("check main-db", "*/5 * * * *", False),
        ("backup cache", "0 * * * *", True),
        ("check cache", "*/5 * * * *", False),
        ("backup uploads", "0 */6 * * *", True),
        ("sync uploads", "0 */6 * * *", True),
    ]
    assert [one.name for one in found.receivers] == ["wal receive main-db", "redis receive cache"]


def test_what_needs_no_receiver_has_none(tmp_path: Path) -> None:
    """WAL that is pushed comes by itself, and a Redis without `stream` has snapshots alone."""
    found = work(
        tmp_path,
        "  db: {kind: postgres, dsn: env:DSN, wal: {mode: push}}\n"
        "  cache: {kind: redis, nodes: ['localhost:6379'], schedule: {backup: '0 * * * *'}}\n",
    )
    assert found.receivers == ()
    assert jobs(found) == [("backup cache", "0 * * * *", True)]


def test_a_bucket_is_mirrored_and_a_tree_without_a_mirror_is_not(tmp_path: Path) -> None:
    found = work(
        tmp_path,
        "  assets: {kind: bucket, url: 's3://a', mirror: 's3://b', schedule: {backup: '0 1 * * *'}}\n"
        "  tree: {kind: files, path: /srv/tree, schedule: {backup: '0 3 * * *'}}\n",
    )
    assert jobs(found) == [("sync assets", "0 1 * * *", True), ("backup tree", "0 3 * * *", True)]

"""What the tests of checks share: a policy of any sources, checked in this process or as typed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from drtool.cli.verdicts import code_of
from drtool.config.policy_file import parse_policy
from drtool.model.checked import CheckedPart, CheckReport, Look
from drtool.model.finding import Severity
from drtool.model.outcome import BackupOutcome, StatusReport
from drtool.model.progress import silent
from drtool.model.request import (
    BackupRequest,
    CheckRequest,
    RedisReceive,
    RepositoryInit,
    RestoreRequest,
    StatusRequest,
    WalReceive,
)
from drtool.model.target import ToLatest
from drtool.policy.policy import Policy
from drtool.policy.secrets import Redactor
from drtool.policy.sources import RedisSource
from drtool.system.clock import SystemClock
from drtool.wiring.backup import backup
from drtool.wiring.check import check
from drtool.wiring.redis_stream import receive as receive_stream
from drtool.wiring.repository import run_repository
from drtool.wiring.restore import restore
from drtool.wiring.status import status
from drtool.wiring.surroundings import Surroundings
from drtool.wiring.wal import receive as receive_wal
from tests.servers.postgres import server_directory

_HEAD = """\
version: 1
stack: shop
timezone: Europe/Warsaw
objectives: {{default: {{rpo: {rpo}, rto: 1h}}}}
repository: {{url: "file://{root}/repository", key: {key}}}
sources:
"""


@dataclass(kw_only=True)
class Stack:
    """`sources` is the YAML below `sources:`, indented by two."""

    root: Path
    sources: str
    rpo: str = "15m"
    key: str = "none"
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return _HEAD.format(root=self.root, rpo=self.rpo, key=self.key) + self.sources

    @property
    def policy(self) -> Policy:
        return parse_policy(self.text, "the test's policy")

    @property
    def around(self) -> Surroundings:
        environ: Mapping[str, str] = {**os.environ, **self.environ}
        return Surroundings(
            environ=environ,
            redactor=Redactor(),
            emit=silent,
            clock=SystemClock(),
            stop=threading.Event(),
        )

    def init(self) -> None:
        run_repository(RepositoryInit(is_dry_run=False), self.policy, self.around)

    def backup(self, *names: str, accepts_source: bool = False) -> tuple[BackupOutcome, ...]:
        request = BackupRequest(sources=names, is_dry_run=False, accepts_source=accepts_source)
        taken = backup(request, self.policy, self.around)
        return tuple(one for one in taken if isinstance(one, BackupOutcome))

    def plan_restore(self, *names: str) -> None:
        """What `drtool restore --plan` does."""
        beside = server_directory()  # the user who runs a copy must reach it
        try:
            request = RestoreRequest(
                sources=names, target=ToLatest(), into=beside / "copy", report=None, is_plan=True
            )
            restore(request, self.policy, self.around)
        finally:
            beside.rmdir()

    def check(self, *names: str) -> CheckReport:
        return check(CheckRequest(names), self.policy, self.around)

    def status(self, *names: str) -> StatusReport:
        return status(StatusRequest(names), self.policy, self.around)


def part(report: CheckReport, name: str) -> CheckedPart:
    return next(one for one in report.parts if one.name == name)


def look(report: CheckReport, name: str, what: str) -> Look:
    found = [one for one in part(report, name).looks if one.name == what]
    assert len(found) == 1, [one.name for one in part(report, name).looks]
    return found[0]


def problems(report: CheckReport) -> list[str]:
    """The facts of all findings that fail the check."""
    return facts(report, Severity.PROBLEM)


def facts(report: CheckReport, severity: Severity | None = None) -> list[str]:
    """The facts of all findings; each has something to do next, or is a note."""
    found = [finding for one in report.parts for finding in one.findings]
    assert all(one.fix for one in found if one.severity is not Severity.NOTE)
    return [one.fact for one in found if severity in (None, one.severity)]


def told(found: list[str], words: str) -> bool:
    return any(words in fact for fact in found)


def exit_code(report: CheckReport) -> int:
    return int(code_of(report))


@contextmanager
def receiving(stack: Stack, name: str) -> Iterator[None]:
    """The receiver of a source, in a thread, from its lease on; it must end without an error."""
    around = stack.around
    errors: list[BaseException] = []

    def run() -> None:
        try:
            if isinstance(stack.policy.source(name), RedisSource):
                receive_stream(
                    RedisReceive(name, False),
                    stack.policy,
                    around,
                    policy_file=stack.root / "policy.yaml",
                )
            else:
                receive_wal(WalReceive(name, False), stack.policy, around)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        until(
            lambda: errors or list((stack.root / "repository" / "leases").glob(f"*-{name}")), name
        )
        yield
    finally:
        around.stop.set()
        thread.join(60)
    assert not thread.is_alive()
    assert errors == []


def has_marks(stack: Stack, name: str) -> bool:
    marks = stack.root / "repository" / "marks" / name
    return any(path.is_file() and "known" not in path.parts for path in marks.rglob("*"))


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"never so: {what}"
        time.sleep(0.05)

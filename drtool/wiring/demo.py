"""`drtool demo`: the whole story on this machine, with a PostgreSQL of its own and a real disaster."""

from __future__ import annotations

import random
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from drtool.config.policy_file import parse_policy
from drtool.drill.judging import judge_ledger
from drtool.drill.ledger import LedgerEntry
from drtool.drill.loss import measure_loss, violations
from drtool.drill.stage import Stage, build_stage, destroy, opened_copy
from drtool.drill.writing import Writers, prepare_table, recovered_writes
from drtool.errors import DestinationRefused, Interrupted, NotRecoverable
from drtool.model.measure import format_span
from drtool.model.outcome import Promise, Question, RestoreReport
from drtool.model.progress import Noted
from drtool.model.request import (
    BackupRequest,
    DemoRequest,
    RepositoryInit,
    RestoreRequest,
    WalReceive,
)
from drtool.model.target import RecoveryTarget, ToLatest, ToTime
from drtool.policy.policy import Policy
from drtool.system.durable import make_private_directory
from drtool.wiring.backup import backup
from drtool.wiring.reports import write_page
from drtool.wiring.repository import run_repository
from drtool.wiring.restore import restore
from drtool.wiring.surroundings import Surroundings
from drtool.wiring.wal import receive

SOURCE = "main-db"
WRITERS = 4
RECEIVER_SECONDS = 60.0
_POLICY = """\
version: 1
stack: demo
timezone: UTC
objectives: {{default: {{rpo: 15m, rto: 1h}}}}
repository: {{url: "file://{directory}/repository", key: env:DRTOOL_KEY}}
sources:
  main-db:
    kind: postgres
    dsn: env:MAIN_DB_DSN
    wal: {{mode: stream, flush: 2s, heartbeat: 1s}}
    checks: ["select count(*) = 250000 from drtool_demo_orders"]
    restore: {{run_as: {user}}}
"""


@dataclass(frozen=True, slots=True)
class _Scene:
    """What the acts share."""

    directory: Path
    stage: Stage
    policy: Policy
    around: Surroundings

    def say(self, text: str) -> None:
        self.around.emit(Noted(text))


def demo(request: DemoRequest, around: Surroundings) -> RestoreReport:
    """Write, back up, stream, destroy, restore twice, compare with the ledger, report."""
    with _workplace(request) as directory:
        around.emit(Noted(f"starting a PostgreSQL in {directory}"))
        stage = build_stage(directory, clock=around.clock)
        try:
            scene = _set(directory, stage, around)
            failed_at = _until_the_disaster(scene, request.seconds)
        finally:
            stage.server.stop(is_immediate=True)
        entries = stage.ledger.entries()
        stage.ledger.close()
        moment = _moment_between(scene, failed_at)
        scene.say(
            f"restoring to the latest moment: {len(entries)} acknowledged writes are expected"
        )
        latest = _to_latest(scene, entries, failed_at)
        scene.say(f"restoring to a moment in the middle: {moment.isoformat()}")
        middle = _to_moment(scene, entries, moment=moment, failed_at=failed_at)
        outcomes = (*latest.outcomes, *middle.outcomes)
        if not request.keep:
            # The copies are removed in a moment: nobody shall look for them.
            outcomes = tuple(replace(one, how_to_start=(), how_to_stop=()) for one in outcomes)
        report = replace(latest, title="Demonstration", outcomes=outcomes)
        write_page(report, request.report or _report_path(around), around)
        if request.keep:
            scene.say(f"everything is left in {directory}")
        return report


@contextmanager
def _workplace(request: DemoRequest) -> Iterator[Path]:
    """A new directory that the server's user may enter; removed afterwards unless it is to be kept."""
    if request.directory is None:
        directory = Path(tempfile.mkdtemp(prefix="drtool-demo-"))
    else:
        directory = request.directory.absolute()
        if directory.exists() and any(directory.iterdir()):
            raise DestinationRefused(
                f"directory {directory} is not empty", hint="Name a new one with --directory."
            )
        make_private_directory(directory)
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        if not request.keep:
            shutil.rmtree(directory, ignore_errors=True)


def _report_path(around: Surroundings) -> Path:
    stamp = around.clock.now().strftime("%Y%m%dT%H%M%S")
    return Path(tempfile.gettempdir()) / f"drtool-demo-{stamp}.html"


def _set(directory: Path, stage: Stage, around: Surroundings) -> _Scene:
    """The policy and the secrets, as a user would have them, and an empty repository."""
    own = {"DRTOOL_KEY": secrets.token_urlsafe(24), "MAIN_DB_DSN": stage.dsn}
    around = replace(around, environ={**around.environ, **own})
    text = _POLICY.format(directory=directory, user=stage.owner.name)
    policy = parse_policy(text, "the demo's policy")
    run_repository(RepositoryInit(is_dry_run=False), policy, around)
    prepare_table(stage.dsn)
    return _Scene(directory, stage, policy, around)


def _until_the_disaster(scene: _Scene, seconds: float) -> datetime:
    """Write all the time; meanwhile receive WAL and take a backup; then kill and delete everything."""
    stage, around = scene.stage, scene.around
    stop, begun = threading.Event(), threading.Event()
    receiver = threading.Thread(
        target=_receive, args=(scene, stop, begun), name="receiver", daemon=True
    )
    receiver.start()
    # A backup that comes first fetches its WAL itself, and the receiver is refused the lease.
    around.clock.wait(RECEIVER_SECONDS, begun)
    writers = Writers(stage.dsn, stage.ledger, count=WRITERS, clock=around.clock)
    try:
        scene.say(f"{WRITERS} sessions write, WAL streams, and a backup is taken beside them")
        backup(BackupRequest(sources=(SOURCE,), is_dry_run=False), scene.policy, around)
        scene.say(f"writing goes on for {format_span(timedelta(seconds=seconds))}")
        if around.clock.wait(seconds, around.stop):
            raise Interrupted("the demo was broken off", hint="Run `drtool demo` again.")
        scene.say("the disaster: every server process is killed, the data directory deleted")
        failed_at = around.clock.now()
        destroy(stage)
        return failed_at
    finally:
        writers.stop()
        stop.set()
        receiver.join(RECEIVER_SECONDS)


def _receive(scene: _Scene, stop: threading.Event, begun: threading.Event) -> None:
    """Set `begun` with the first event: from then on the receiver holds its lease."""
    around = replace(scene.around, stop=stop, emit=lambda _event: begun.set())
    receive(WalReceive(SOURCE, is_dry_run=False), scene.policy, around)


def _moment_between(scene: _Scene, failed_at: datetime) -> datetime:
    """Some moment in the middle of what can be recovered."""
    request = _request(scene, ToLatest(), "planned", failed_at=failed_at, is_plan=True)
    planned = restore(request, scene.policy, scene.around)
    assert isinstance(planned, tuple)
    low, high = planned[0].recoverable_from, planned[0].recoverable_until
    if low is None or high is None:
        raise NotRecoverable(
            "the demo made no mark before its disaster",
            hint="Let it write longer: `drtool demo --seconds 20`.",
        )
    return low + (high - low) * random.uniform(0.3, 0.9)  # noqa: S311 - any moment will do


def _to_latest(scene: _Scene, entries: list[LedgerEntry], failed_at: datetime) -> RestoreReport:
    """What came back, judged by what the ledger says was acknowledged."""
    report = _restore(scene, ToLatest(), "latest", failed_at=failed_at)
    outcome = report.outcomes[0]
    with opened_copy(Path(outcome.destination), scene.stage, clock=scene.around.clock) as dsn:
        recovered = recovered_writes(dsn)
    loss = measure_loss(entries, recovered, failed_at=failed_at)
    objective = scene.policy.objective_of(SOURCE)
    others = tuple(one for one in outcome.judgements if one.objective is not Promise.RPO)
    judged = replace(
        outcome, judgements=(judge_ledger(loss, objective), *others), lost_writes=loss.writes
    )
    return replace(report, outcomes=(judged,))


def _to_moment(
    scene: _Scene, entries: list[LedgerEntry], *, moment: datetime, failed_at: datetime
) -> RestoreReport:
    """Exactly the writes acknowledged by then, and none begun after it, must be there."""
    report = _restore(scene, ToTime(moment), "middle", failed_at=failed_at)
    outcome = report.outcomes[0]
    with opened_copy(Path(outcome.destination), scene.stage, clock=scene.around.clock) as dsn:
        recovered = recovered_writes(dsn)
    faults = violations(entries, recovered, moment)
    due = sum(entry.acknowledged <= moment for entry in entries)
    question = Question(
        question=f"are the {due} writes acknowledged by {moment.isoformat()} there, and none begun later?",
        answer="yes" if not faults else f"no: {len(faults)} are not, such as: {faults[0]}",
        passed=not faults,
    )
    judged = replace(outcome, questions=(*outcome.questions, question))
    return replace(report, outcomes=(judged,))


def _restore(
    scene: _Scene, target: RecoveryTarget, name: str, *, failed_at: datetime
) -> RestoreReport:
    request = _request(scene, target, name, failed_at=failed_at, is_plan=False)
    report = restore(request, scene.policy, scene.around)
    assert isinstance(report, RestoreReport)
    return report


def _request(
    scene: _Scene, target: RecoveryTarget, name: str, *, failed_at: datetime, is_plan: bool
) -> RestoreRequest:
    return RestoreRequest(
        sources=(SOURCE,),
        target=target,
        into=scene.directory / f"restored-{name}",
        report=None,
        is_plan=is_plan,
        lost_at=failed_at,
    )

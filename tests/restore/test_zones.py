"""Every moment of a refusal is in the zone of whoever reads it: none is to be converted in the head."""

from __future__ import annotations

import re
import threading
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from drtool.cli.targets import TargetOptions, read_target
from drtool.drill.judging import Asked, judge_loss, judge_stream
from drtool.errors import NotRecoverable
from drtool.model.measure import format_moment
from drtool.model.objective import Objective
from drtool.model.progress import silent
from drtool.model.target import RecoveryTarget, ToTime
from drtool.repository.wal_search import WalSearch
from drtool.restore.look import look
from drtool.restore.plan import plan_restore
from drtool.sources.postgres.slot_forecast import SlotForecast
from drtool.system.clock import SystemClock
from drtool.wiring.repository import key_slot_words
from tests.restore.test_plan import SOURCE, Invented, at, invented, lsn

__all__ = ["invented"]
WARSAW = ZoneInfo("Europe/Warsaw")
_UTC = re.compile(r"\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)")


def asked(text: str) -> RecoveryTarget:
    options = TargetOptions(to=text, to_lsn=None, to_xid=None, to_name=None, backup=None)
    return read_target(options, WARSAW)


@pytest.mark.parametrize("text", ["2024-05-01T12:09", "2024-05-01T10:09Z", "2024-05-01T13:00"])
def test_a_refusal_tells_all_its_moments_in_the_readers_zone(invented: Invented, text: str) -> None:
    invented.backup(2, minutes=10)
    invented.wal(range(2, 5))
    invented.mark(20, lsn(4))
    target = asked(text)
    search = WalSearch("", clock=SystemClock(), emit=silent, stop=threading.Event(), zone=WARSAW)

    with pytest.raises(NotRecoverable) as refusal:
        plan_restore(look(invented.repository, SOURCE, target, search=search), target)

    told = refusal.value.message + refusal.value.hint
    assert "2024-05-01T12:19:59.999999+02:00" in told
    assert not _UTC.search(told), told


def test_a_judgement_tells_the_readers_time_and_utc_beside_it() -> None:
    target = ToTime(at(0))
    of = Asked(target=target, declared=at(30), zone=WARSAW)
    objective = Objective(rpo=timedelta(minutes=15), rto=timedelta(hours=1))

    met = judge_loss(of, objective, proven_until=at(0))
    stream = judge_stream(of, objective, proven_until=at(-1), index_step=timedelta(seconds=1))

    assert met is not None
    assert "12:00:00+02:00 Europe/Warsaw (10:00:00Z)" in met.explanation
    assert "+00:00" not in met.explanation + stream.explanation


def test_a_forecast_and_a_key_slot_tell_the_readers_time() -> None:
    ahead = SlotForecast(
        kept_bytes=1, left_bytes=1, ended_by="slot_limit", bytes_per_second=1.0,
        left=timedelta(minutes=3),
    )  # fmt: skip

    assert "at 2024-05-01 12:03+02:00" in ahead.describe(at(0).astimezone(WARSAW))
    assert key_slot_words("passphrase", at(0).isoformat(), WARSAW) == (
        "passphrase, made 2024-05-01 12:00:00+02:00 Europe/Warsaw (10:00:00Z)"
    )
    assert key_slot_words("passphrase", "long ago", WARSAW) == "passphrase, made long ago"


def test_utc_is_told_once() -> None:
    assert format_moment(at(0), ZoneInfo("UTC")) == "2024-05-01 10:00:00Z"

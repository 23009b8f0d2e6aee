"""The catalogue and the manifests in the bucket, brought to say the same."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from drtool.errors import IntegrityError, NotRecoverable, ObjectMissing, SourceUnsuitable
from drtool.mirror.catalogue import Catalogue
from drtool.mirror.manifests import (
    Run,
    RunKind,
    fold,
    list_runs,
    new_run_id,
    put_run,
    state_at,
)
from drtool.mirror.plan import Told
from drtool.model.finding import Finding, Severity
from drtool.model.origin import Origin
from drtool.stores.bucket import Bucket
from drtool.system.clock import Clock

# A restore reads at most so many manifests of changes after a whole one.
MOST_CHANGES_RUNS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose mirror it is to be; `is_accepted`: also where somebody else has left runs in it."""

    source: str
    origin: Origin
    is_accepted: bool


def catch_up(bucket: Bucket, catalogue: Catalogue, told: Told, *, owner: Owner) -> None:
    """Make the catalogue hold what the newest manifest says, unless it does already.

    SourceUnsuitable, with nothing changed in the bucket, if that is of another source and not accepted:
    its files would be deleted. One request where it does. What was put since by a run that was killed
    is known to the catalogue alone, and stays known as long as no other machine has left a manifest.
    """
    last = catalogue.about("run")
    if list_runs(bucket, since=last) == ([] if last is None else [last]):
        return
    catalogue.clear()
    try:
        chain = state_at(bucket, None)
        if chain and not owner.is_accepted:
            require_owner(bucket, chain[-1], owner)
        fold(bucket, chain, catalogue)
    except (IntegrityError, NotRecoverable, ObjectMissing) as error:
        catalogue.clear()
        text = f"{error.message}: every file is read and put again"
        told.add(Finding(severity=Severity.WARNING, subject=bucket.url, fact=text))
        return
    if chain:
        catalogue.set_about(
            run=chain[-1].run_id,
            changes_runs=str(len(chain) - 1),
            origin=json.dumps(chain[-1].origin.to_json()),
        )


def require_owner(bucket: Bucket, newest: Run, owner: Owner) -> None:
    """SourceUnsuitable if the newest run of a mirror is of another source."""
    fact = newest.origin.difference(owner.origin)
    if newest.source != owner.source:
        fact = f"they are of source {newest.source}, and this one is {owner.source}"
    if fact is not None:
        raise SourceUnsuitable(
            f"{bucket.url} may be the mirror of another source: {fact}",
            hint="Give each source a bucket or a prefix of its own. If this one has moved or was"
            f" renamed, run `drtool sync {owner.source} --accept-source` once.",
        )


class Publisher:
    """Puts the manifest that makes a run count."""

    def __init__(
        self, bucket: Bucket, catalogue: Catalogue, clock: Clock, *, origin: Origin
    ) -> None:
        self._origin = origin
        self._bucket = bucket
        self._catalogue = catalogue
        self._clock = clock

    def publish(self, source: str, *, began: datetime, is_whole: bool) -> str:
        """Tell of everything that no manifest tells of yet, and remember that it is told; the run's id.

        `is_whole` makes it a full one, which needs no other.
        """
        catalogue = self._catalogue
        last = catalogue.about("run")
        changes_runs = int(catalogue.about("changes_runs") or 0) + 1
        is_full = is_whole or last is None or changes_runs > MOST_CHANGES_RUNS
        ended = self._clock.now()
        known = Origin.from_json(json.loads(catalogue.about("origin") or "{}"))
        origin = known.followed_by(self._origin)
        run = Run(
            run_id=new_run_id(ended, after=last),
            kind=RunKind.FULL if is_full else RunKind.CHANGES,
            previous=last,
            source=source,
            began=began,
            ended=ended,
            origin=origin,
        )
        gone: Iterable[bytes] = () if is_full else catalogue.gone()
        put_run(self._bucket, run, catalogue.lines(pending_only=not is_full), gone=gone)
        catalogue.published(
            run=run.run_id,
            changes_runs="0" if is_full else str(changes_runs),
            origin=json.dumps(origin.to_json()),
        )
        return run.run_id

"""The catalogue and the manifests in the bucket, brought to say the same."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from drtool.errors import IntegrityError, NotRecoverable, ObjectMissing, SourceUnsuitable
from drtool.mirror.catalogue import Catalogue
from drtool.mirror.chains import Chain, chain_at, fold
from drtool.mirror.manifests import Run, RunKind, new_run_id, put_run
from drtool.mirror.plan import Told
from drtool.mirror.run_key import RunKey
from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted
from drtool.model.origin import Origin
from drtool.stores.bucket import Bucket
from drtool.system.clock import Clock

# A restore reads at most so many manifests of changes after a whole one.
MOST_CHANGES_RUNS = 64
# What the catalogue remembers of the run that it is of; of one made by an earlier drtool nothing.
_SIGNED, _DOUBTFUL = "signed", "doubtful"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose mirror it is to be; `is_accepted`: also where somebody else has left runs in it."""

    source: str
    origin: Origin
    is_accepted: bool


def catch_up(
    bucket: Bucket, catalogue: Catalogue, told: Told, *, owner: Owner, key: RunKey | None
) -> bool:
    """Make the catalogue hold what the newest manifest says, unless it does already.

    SourceUnsuitable, with nothing changed in the bucket, if that is of another source and not accepted:
    its files would be deleted. Two requests where it does. What was put since by a run that was killed
    is known to the catalogue alone, and stays known as long as no other machine has left a manifest.

    Whether what the catalogue holds may be relied on: not what was read from runs that nobody has
    signed, where there is a key to sign with. Then every file is to be read again.
    """
    last = catalogue.about("run")
    try:
        chain = chain_at(bucket, None, key, since=last)
        for finding in left_out_findings(chain, bucket.url):
            told.add(finding)
        if last == (chain.runs[-1].run_id if chain.runs else None):
            return catalogue.about("doubtful") != _DOUBTFUL
        catalogue.clear()
        if not chain.runs:
            return True
        if not owner.is_accepted:
            require_owner(bucket, chain.runs[-1], owner)
        fold(bucket, chain.runs, catalogue, key=key)
    except (IntegrityError, NotRecoverable, ObjectMissing) as error:
        catalogue.clear()
        text = f"{error.message}: every file is read and put again"
        told.add(Finding(severity=Severity.WARNING, subject=bucket.url, fact=text))
        return True
    is_vouched = key is None or chain.is_signed
    catalogue.set_about(
        run=chain.runs[-1].run_id,
        changes_runs=str(len(chain.runs) - 1),
        origin=json.dumps(chain.runs[-1].origin.to_json()),
        signed=_SIGNED if chain.is_signed else "",
        doubtful="" if is_vouched else _DOUBTFUL,
    )
    return is_vouched


def left_out_findings(chain: Chain, url: str) -> list[Finding]:
    """What is said of names of runs that are none of this mirror's."""
    if not chain.left_out:
        return []
    count = len(chain.left_out)
    return [
        Finding(
            severity=Severity.WARNING,
            subject=url,
            fact=f"{counted(count, 'newer run')}, such as {chain.left_out[0]}, cannot be read or"
            f" {'is' if count == 1 else 'are'} not signed by this repository: left out",
            fix="See who else writes to the mirror.",
        )
    ]


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
        self,
        bucket: Bucket,
        catalogue: Catalogue,
        clock: Clock,
        *,
        origin: Origin,
        key: RunKey | None,
    ) -> None:
        self._key = key
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
        # A signed run does not build on one that anybody may have written.
        is_vouched = self._key is None or catalogue.about("signed") == _SIGNED
        is_full = is_whole or last is None or changes_runs > MOST_CHANGES_RUNS or not is_vouched
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
        lines = catalogue.lines(pending_only=not is_full)
        put_run(self._bucket, run, lines, gone=gone, key=self._key)
        catalogue.published(
            run=run.run_id,
            changes_runs="0" if is_full else str(changes_runs),
            origin=json.dumps(origin.to_json()),
            signed=_SIGNED if self._key is not None else "",
            doubtful="",
        )
        return run.run_id

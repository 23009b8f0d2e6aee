"""How a mirror stands, told from what its runs left in the bucket: nothing is written."""

from __future__ import annotations

from drtool.mirror.chains import newest_run
from drtool.mirror.manifests import RunKind, list_runs, read_run, run_key
from drtool.mirror.run_key import RunKey
from drtool.model.checked import MirrorStanding
from drtool.stores.bucket import Bucket

# A manifest larger than this is not read only to be counted: it may be of a million files.
_MOST_COUNTED_BYTES = 1 << 20


def look_at_mirror(bucket: Bucket, *, holder: str | None, key: RunKey | None) -> MirrorStanding:
    """The newest run that ended. Errors of the bucket; IntegrityError for a manifest that is cut."""
    ids = list_runs(bucket)
    if not ids:
        return MirrorStanding(url=bucket.url, runs=0, holder=holder)
    run, _ = newest_run(bucket, ids, key)
    if run is None:
        return MirrorStanding(url=bucket.url, runs=0, holder=holder)
    met = bucket.look(run_key(run.run_id))
    is_small = met is not None and met.size_bytes <= _MOST_COUNTED_BYTES
    return MirrorStanding(
        url=bucket.url,
        run_id=run.run_id,
        began=run.began,
        ended=run.ended,
        changes=sum(1 for _ in read_run(bucket, run.run_id, key if run.is_signed else None))
        if is_small
        else None,
        is_whole=run.kind is RunKind.FULL,
        runs=len(ids),
        holder=holder,
    )

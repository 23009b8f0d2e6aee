"""Looks at every object of the mirror in one listing: whether it is there, and the one that was put."""

from __future__ import annotations

from drtool.mirror.catalogue import Catalogue
from drtool.mirror.keys import is_own, path_of
from drtool.mirror.pages import pages
from drtool.mirror.plan import Told
from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted
from drtool.stores.bucket import Bucket


def look_at_objects(bucket: Bucket, catalogue: Catalogue, told: Told) -> None:
    """Leave in the catalogue which objects are as they were put (`not_met`), and tell if some are not."""
    for page in pages(met for met in bucket.list() if not is_own(met.key)):
        known = catalogue.find([path_of(met.key) for met in page])
        there = []
        for met in page:
            path = path_of(met.key)
            if path in known and known[path].is_file:
                entry = known[path].entry
                is_size_same = met.size_bytes == entry.tree.size_bytes
                if is_size_same and _is_etag_same(met.etag, entry.etag):
                    there.append(path)
        catalogue.met(there)
    missing = catalogue.count_not_met()
    if missing:
        told.add(
            Finding(
                severity=Severity.WARNING,
                subject=bucket.url,
                fact=f"{counted(missing, 'object was', 'objects were')} gone or changed by somebody else;"
                " those whose files are still there are put again",
                fix="See who else writes to the mirror.",
            )
        )


def _is_etag_same(listed: str | None, put: str | None) -> bool:
    """Some servers list another form of etag for an object in parts than they answered to its put."""
    if listed is None or put is None or ("-" in listed) != ("-" in put):
        return True
    return listed == put

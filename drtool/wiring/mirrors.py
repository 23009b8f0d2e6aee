"""How mirrors stand, for `drtool status` and `drtool check`: asked of their buckets, without patience."""

from __future__ import annotations

from drtool.errors import DrtoolError
from drtool.mirror.standing import look_at_mirror
from drtool.model.checked import MirrorStanding
from drtool.policy.scalars import StoreUrl
from drtool.repository.lease import lease_holder
from drtool.repository.repository import Repository
from drtool.stores.bucket import Bucket, open_bucket
from drtool.stores.remote_client import RemoteLimits
from drtool.system.retry import RetryLimits
from drtool.wiring.surroundings import Surroundings

# Somebody waits for the answer: a bucket that is away is told, not waited for.
_IMPATIENT = RemoteLimits(
    connect_seconds=5,
    read_stall_seconds=10,
    read_seconds=30,
    write_seconds=30,
    retries=RetryLimits(attempts=2, within_seconds=10),
)


def mirror_bucket(url: StoreUrl, around: Surroundings) -> Bucket:
    """The bucket at `url`; nothing is asked of it yet."""
    return open_bucket(url, clock=around.clock, limits=_IMPATIENT)


def mirror_standing(
    name: str, url: StoreUrl, *, repository: Repository | None, around: Surroundings
) -> MirrorStanding:
    """How the mirror of `name` stands. Raises what the bucket raises; `repository` has its lease."""
    holder = None if repository is None else lease_holder(repository, f"mirror-{name}")
    return look_at_mirror(mirror_bucket(url, around), holder=holder)


def mirror_row(
    name: str, url: StoreUrl, *, repository: Repository, around: Surroundings
) -> MirrorStanding:
    """The same for a screen: a bucket that cannot be looked at is `trouble`, and no failure."""
    try:
        return mirror_standing(name, url, repository=repository, around=around)
    except DrtoolError as error:
        return MirrorStanding(url=url, trouble=error.message)

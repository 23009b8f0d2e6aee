"""How mirrors stand, for `drtool status` and `drtool check`: asked of their buckets, without patience."""

from __future__ import annotations

from datetime import datetime

from drtool.errors import DrtoolError
from drtool.mirror.run_key import RunKey, run_key_of
from drtool.mirror.standing import look_at_mirror
from drtool.model.checked import MirrorStanding
from drtool.policy.policy import Policy
from drtool.policy.scalars import StoreUrl
from drtool.policy.secrets import NoEncryption
from drtool.policy.sources import BucketSource, FilesSource
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
    name: str, policy: Policy, *, repository: Repository | None, around: Surroundings
) -> MirrorStanding:
    """How the mirror of `name` stands. Raises what the bucket raises; `repository` has its lease."""
    holder = None if repository is None else lease_holder(repository, f"mirror-{name}")
    bucket, key = mirror_bucket(_url_of(name, policy), around), signing_key(policy, repository)
    return look_at_mirror(bucket, holder=holder, key=key)


def newest_run_began(
    name: str, policy: Policy, *, repository: Repository, around: Surroundings
) -> datetime | None:
    """When the newest run of the mirror began, for a scheduler, which does not ask who holds the lease."""
    bucket, key = mirror_bucket(_url_of(name, policy), around), signing_key(policy, repository)
    return look_at_mirror(bucket, holder=None, key=key).began


def signing_key(policy: Policy, repository: Repository | None) -> RunKey | None:
    """By which runs of a mirror are signed; none where the repository's key is open to everybody."""
    if repository is None or isinstance(policy.repository.key, NoEncryption):
        return None
    return run_key_of(repository.ring)


def _url_of(name: str, policy: Policy) -> StoreUrl:
    source = policy.source(name)
    assert isinstance(source, FilesSource | BucketSource)
    assert source.mirror is not None
    return source.mirror


def mirror_row(
    name: str, policy: Policy, *, repository: Repository, around: Surroundings
) -> MirrorStanding:
    """The same for a screen: a bucket that cannot be looked at is `trouble`, and no failure."""
    try:
        return mirror_standing(name, policy, repository=repository, around=around)
    except DrtoolError as error:
        return MirrorStanding(url=_url_of(name, policy), trouble=error.message)

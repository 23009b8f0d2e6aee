"""`drtool sync`: the mirror of each source that has one; and what it holds brought back from its mirror."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from drtool.errors import DrtoolError, PolicyError, WrongKey
from drtool.mirror.catalogue import default_place, open_catalogue
from drtool.mirror.plan import TreeSettings
from drtool.mirror.restoring import MirrorRestore, restore_from_mirror
from drtool.mirror.run import MirrorRun, preview_tree, sync_tree
from drtool.mirror.run_key import RunKey
from drtool.model.origin import Origin
from drtool.model.outcome import FactSheet, Failure, SyncOutcome
from drtool.model.progress import Emit, Noted
from drtool.model.request import SyncRequest, SyncRestore
from drtool.policy.policy import Policy
from drtool.policy.sources import BucketSource, FilesSource
from drtool.repository.lease import Lease, Leases
from drtool.repository.repository import read_root
from drtool.sources.files.exclude import compile_rules
from drtool.stores.bucket import Bucket, open_bucket
from drtool.stores.protocol import Store
from drtool.stores.remote import RemoteStore
from drtool.system.access import require_temporary_files
from drtool.wiring.mirrors import signing_key
from drtool.wiring.occupied import require_unoccupied
from drtool.wiring.origins import origin_now
from drtool.wiring.parts import opened_repository, opened_store
from drtool.wiring.side_by_side import side_by_side, with_failures
from drtool.wiring.surroundings import Surroundings


def sync(
    request: SyncRequest, policy: Policy, around: Surroundings
) -> tuple[SyncOutcome | FactSheet | Failure, ...]:
    """Bring mirrors up to date, one after the other; with `is_dry_run` say what would be done.

    One that fails does not keep the others from it: its failure stands in the place of its outcome.
    They do not run side by side: each uses sixteen connections as it is.
    """
    sources = _mirrored(request.sources, policy)
    require_temporary_files()
    with _opened(policy, around) as opened:
        parts = _Parts(request, policy, opened, around)
        jobs = {name: partial(parts.sync, name, source) for name, source in sources.items()}
        ended = side_by_side(jobs, around.emit, at_once=1, stop=around.stop)
    return with_failures(ended)


def restore(request: SyncRestore, policy: Policy, around: Surroundings) -> FactSheet:
    """Write a source's files again from its mirror. Needs the bucket alone: without the repository's key
    nobody vouches for the runs, and rights are not restored.
    """
    [source] = _mirrored((request.source,), policy).values()
    require_temporary_files()
    require_unoccupied({request.source: request.into.absolute()}, policy)
    wanted = MirrorRestore(
        source=request.source,
        moment=request.moment,
        into=request.into,
        is_plan=request.is_plan,
        clock=around.clock,
        emit=around.emit,
        stop=around.stop,
        origin=Origin() if request.accepts_source else Origin(stack=(str(policy.stack),)),
        accepts_unsigned=request.accepts_unsigned,
    )
    if not request.accepts_unsigned:
        wanted = _with_key(wanted, policy, around)
    return restore_from_mirror(wanted, _mirror_of(source, around))


def _with_key(wanted: MirrorRestore, policy: Policy, around: Surroundings) -> MirrorRestore:
    """With the key of its runs, or why there is none: the repository may be gone, and the mirror not."""
    try:
        with opened_repository(policy, around) as repository:
            key = signing_key(policy, repository)
    except DrtoolError as error:
        return replace(wanted, why_no_key=f"the repository cannot be asked: {error.message}")
    why = "" if key is not None else "the repository has no key of its own, `key: none`"
    return replace(wanted, key=key, why_no_key=why)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the run of every mirror needs."""

    request: SyncRequest
    policy: Policy
    opened: _Opened
    around: Surroundings

    def sync(
        self, name: str, source: FilesSource | BucketSource, emit: Emit
    ) -> SyncOutcome | FactSheet:
        """Bring one mirror up to date; `emit` is told how far it is."""
        request, around = self.request, self.around
        bucket = _mirror_of(source, around)
        origin = source.path if isinstance(source, FilesSource) else source.url
        identity = f"{name} {origin} {bucket.url}"
        with (
            Lease(
                self.opened.leases, f"mirror-{name}", clock=around.clock, outlives_process=True
            ) as lease,
            closing(open_catalogue(default_place(identity), identity=identity)) as catalogue,
        ):
            run = MirrorRun(
                bucket=bucket,
                catalogue=catalogue,
                clock=around.clock,
                emit=emit,
                stop=around.stop,
                check=lease.check,
                origin=origin_now(source, self.policy),
                key=self.opened.key,
            )
            if isinstance(source, FilesSource):
                tree = _tree(name, source, request)
                return preview_tree(tree, run) if request.is_dry_run else sync_tree(tree, run)
            return _sync_bucket(name, source, request, run=run, around=around)


@dataclass(frozen=True, slots=True)
class _StoreAlone:
    """The repository's store: a mirror needs its leases, and not its key."""

    store: Store


@dataclass(frozen=True, slots=True)
class _Opened:
    """Where the leases of mirrors are, and what signs their runs."""

    leases: Leases
    key: RunKey | None


@contextmanager
def _opened(policy: Policy, around: Surroundings) -> Iterator[_Opened]:
    """Without the repository's key, which a machine may not have, runs are not signed, and that is told."""
    with ExitStack() as stack:
        try:
            repository = stack.enter_context(opened_repository(policy, around))
        except (PolicyError, WrongKey) as error:
            told = f"the runs of mirrors are not signed: {error.message}"
            around.emit(Noted(told, "warning"))
            leases = stack.enter_context(_leases(policy, around))
            yield _Opened(leases, None)
            return
        yield _Opened(repository, signing_key(policy, repository))


@contextmanager
def _leases(policy: Policy, around: Surroundings) -> Iterator[Leases]:
    with opened_store(policy, around) as store:
        root = read_root(store)
        if isinstance(store, RemoteStore):
            # Without the key nobody vouches for what the root says of the store.
            store = store.with_capabilities(root.capabilities.unproved())
        yield _StoreAlone(store)


def _tree(name: str, source: FilesSource, request: SyncRequest) -> TreeSettings:
    return TreeSettings(
        source=name,
        root=source.path,
        exclude=compile_rules(source.exclude),
        max_delete_percent=_max_delete(source, request),
        sentinel=source.sentinel,
        accepts_source=request.accepts_source,
        is_rehash=request.is_rehash,
    )


def _sync_bucket(
    name: str,
    source: BucketSource,
    request: SyncRequest,
    *,
    run: MirrorRun,
    around: Surroundings,
) -> SyncOutcome | FactSheet:
    # With it comes boto3, for which a tree would only wait.
    from drtool.mirror.buckets import BucketSettings, preview_bucket, sync_bucket

    settings = BucketSettings(
        source=name,
        bucket=open_bucket(source.url, clock=around.clock),
        max_delete_percent=_max_delete(source, request),
        accepts_source=request.accepts_source,
        is_rehash=request.is_rehash,
    )
    return preview_bucket(settings, run) if request.is_dry_run else sync_bucket(settings, run)


def _max_delete(source: FilesSource | BucketSource, request: SyncRequest) -> float:
    asked = request.max_delete_percent
    return source.max_delete if asked is None else asked


def _mirror_of(source: FilesSource | BucketSource, around: Surroundings) -> Bucket:
    assert source.mirror is not None
    return open_bucket(source.mirror, clock=around.clock)


def _mirrored(names: tuple[str, ...], policy: Policy) -> dict[str, FilesSource | BucketSource]:
    """The sources that were named, or all that have a mirror; PolicyError where there is none."""
    chosen: dict[str, FilesSource | BucketSource] = {}
    for name in names or tuple(policy.sources):
        source = policy.source(name)
        if isinstance(source, FilesSource | BucketSource) and source.mirror is not None:
            chosen[str(name)] = source
        elif names:
            raise PolicyError(
                f"source {name} has no mirror",
                hint="Give it one in the policy: `mirror: s3://BUCKET/PREFIX`, for kind files.",
            )
    if not chosen:
        raise PolicyError(
            "no source of the policy has a mirror",
            hint="Give one of kind files a `mirror: s3://BUCKET/PREFIX`.",
        )
    return chosen

"""Whether a source is the one whose backups the repository holds under its name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import ip_address

from drtool.errors import NotRecoverable, SourceUnsuitable
from drtool.model.finding import Finding, Harm, Severity
from drtool.model.origin import Origin
from drtool.model.progress import Noted
from drtool.policy.policy import Policy
from drtool.policy.sources import BucketSource, FilesSource, RedisSource, SourcePolicy
from drtool.repository.backups import Manifest, read_newest_manifest
from drtool.repository.extents import FilesExtent, RedisExtent
from drtool.repository.layout import source_log
from drtool.repository.repository import Repository
from drtool.system.identity import machine_sign
from drtool.wiring.surroundings import Surroundings


def origin_now(source: SourcePolicy, policy: Policy) -> Origin:
    """The signs of a source as the policy and this machine have them."""
    stack, machine = (str(policy.stack),), machine_sign()
    match source:
        case FilesSource():
            path = os.fsdecode(os.path.abspath(source.path))
            return Origin(stack=stack, path=(path,), machine=(machine,) if machine else ())
        case RedisSource():
            nodes = (str(node) for node in source.nodes)
            # The same name means another server on another machine.
            return Origin(
                stack=stack,
                node=tuple(f"{machine}/{one}" if _is_loopback(one) else one for one in nodes),
            )
        case BucketSource():
            return Origin(stack=stack, path=(str(source.url),))
        case _:
            return Origin(stack=stack)


def origin_of(manifest: Manifest) -> Origin:
    """What a backup tells of its source; one of an earlier drtool tells the path of a tree alone."""
    if manifest.origin is not None:
        return manifest.origin
    extent = manifest.extent
    return Origin(path=(extent.root,)) if isinstance(extent, FilesExtent) else Origin()


def require_same_source(
    name: str,
    source: SourcePolicy,
    *,
    policy: Policy,
    repository: Repository,
    around: Surroundings,
    is_accepted: bool,
) -> Origin:
    """The origin that the next backup records.

    SourceUnsuitable, with nothing written, if the newest backup is of another source and that is not
    accepted: two stacks must not use one name in one repository.
    """
    now = origin_now(source, policy)
    newest, _ = read_newest_manifest(repository, name)
    if newest is None:
        return now
    known = origin_of(newest)
    if newest.origin is None and not is_accepted:
        text = (
            f"the backups of {name} tell no stack: they are taken for those of stack {policy.stack}"
        )
        around.emit(Noted(text))
    fact = known.difference(now)
    if fact is None and isinstance(source, RedisSource) and known.has_moved(now):
        fact = _moved(source, newest, repository=repository, around=around)
    if fact is not None and not is_accepted:
        raise SourceUnsuitable(
            f"source {name} may be another one than the repository has backups of: {fact}",
            hint="Give it a name or a repository of its own: else one would be restored as the other."
            f" If it has moved or was renamed, say so once: `drtool backup {name} --accept-source`.",
        )
    return known.followed_by(now)


def _moved(
    source: RedisSource, newest: Manifest, *, repository: Repository, around: Surroundings
) -> str | None:
    """Whether servers at other addresses are others: not if they have a history that is known here."""
    from drtool.sources.redis.address import NodeAddress
    from drtool.sources.redis.topology import discover, look_at
    from drtool.wiring.redis import login_of

    if not isinstance(newest.extent, RedisExtent):
        return None
    nodes = tuple(NodeAddress.parse(node) for node in source.nodes)
    shape = discover(source.topology, nodes, login_of(source, around), group=source.group)
    shards = newest.extent.shards
    known = {shard.replication_id for shard in shards} | {shard.node_id for shard in shards}
    known |= set(repository.store.list_directories(source_log(newest.source)))
    for shard in shape.shards:
        # With the history that a promoted replica had before.
        with look_at(shard.master.address, login_of(source, around)) as connection:
            told = connection.info("replication")
        mine = {told.get("master_replid"), told.get("master_replid2"), shard.master.node_id}
        if mine & known - {"", None}:
            return None
    return f"no server has an address or a history that is known here (it is {nodes[0]} now)"


def strangers(source: SourcePolicy, policy: Policy, newest: Manifest | None) -> Iterator[Finding]:
    """A problem if the newest backup under a source's name is of another source."""
    if newest is None:
        return
    fact = origin_of(newest).difference(origin_now(source, policy))
    if fact is not None:
        yield Finding(
            severity=Severity.PROBLEM,
            subject=f"source {newest.source}",
            fact=f"its backups in this repository may be of another source: {fact}",
            fix="Give it a name or a repository of its own; if it has moved or was renamed, run"
            f" `drtool backup {newest.source} --accept-source` once.",
            harm=Harm.UNREACHABLE,
        )


def require_own_backups(
    name: str, source: SourcePolicy, *, policy: Policy, repository: Repository
) -> None:
    """NotRecoverable if what stands under the name is of another stack.

    The machine is not asked: on this day it is often another one.
    """
    newest, _ = read_newest_manifest(repository, name)
    if newest is None:
        return
    now = origin_now(source, policy)
    fact = origin_of(newest).difference(Origin(stack=now.stack))
    if fact is not None:
        raise _not_own(name, newest, fact)


def require_own_tree(manifest: Manifest, source: FilesSource, *, newest: Manifest) -> None:
    """NotRecoverable if a snapshot is of a tree that this source neither is nor was accepted to be."""
    now = os.fsdecode(os.path.abspath(source.path))
    accepted = newest.origin.path if newest.origin else ()
    is_accepted = now in accepted and manifest.files.root in accepted
    if manifest.files.root != now and not is_accepted:
        fact = f"it is of the tree {manifest.files.root}, and this one is {now}"
        raise _not_own(manifest.source, manifest, fact)


def _not_own(name: str, manifest: Manifest, fact: str) -> NotRecoverable:
    return NotRecoverable(
        f"the backups of {name} in this repository may be of another source: {fact}"
        f" (backup {manifest.backup_id})",
        hint="Restore with the policy that they were taken with; or, if they are the right ones, with"
        " --accept-source.",
    )


def _is_loopback(node: str) -> bool:
    host = node.rpartition(":")[0].strip("[]") or node
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False

"""Read a repository back: keys, manifests, packs, chunks and the log, as deep as is asked for.

What is missing or damaged is a finding. A store that cannot be asked raises RepositoryUnavailable:
then nothing was verified. Marks are asked how far the log must reach; attempts and evidence are not
read, for no restore depends on them. Damage is remembered until the object was read whole again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from drtool.errors import AlreadyExists, ExitCode, IntegrityError
from drtool.model.finding import Harm, code_of_findings
from drtool.model.outcome import VerifyOutcome
from drtool.model.progress import Emit
from drtool.repository import layout
from drtool.repository.backups import Manifest, backed_up_sources
from drtool.repository.chunks import ChunkReader
from drtool.repository.damage import known_damage, remember_damage, remember_read
from drtool.repository.named import what_it_is_not
from drtool.repository.names import own_name
from drtool.repository.repository import MOST_ROOT_BYTES, Repository, RepositoryRoot, read_slots
from drtool.repository.root_seal import root_findings
from drtool.repository.rotation import recorded_versions
from drtool.repository.sealing import ObjectType
from drtool.system.clock import Clock, Stopwatch
from drtool.verify.changelog import verify_log
from drtool.verify.contents import (
    judge_backups,
    list_packs,
    look_at_packs,
    open_manifests,
    read_chunks,
    read_tables,
)
from drtool.verify.depth import Choice, Depth, Quick, Sampled, level_of
from drtool.verify.foreign import find_foreign
from drtool.verify.tally import Tally


def verify_repository(
    repository: Repository,
    *,
    depth: Depth,
    sources: Sequence[str] | None,
    emit: Emit,
    clock: Clock,
    seed: int,
) -> VerifyOutcome:
    """Verify what the backups and logs of `sources` need (None: of all), and leave evidence of it.

    `seed` decides which sample is taken. Reads with four threads; memory does not grow with the
    bytes read: see `contents`.
    """
    watch, began = Stopwatch(clock), clock.now()
    tally = Tally(emit, clock)
    chosen = sorted(sources) if sources else _all_sources(repository)
    choice = Choice(depth, seed)
    reader = ChunkReader(repository.store, repository.ring)
    end = tally.phase("verify", "repository")
    _verify_keys(repository, tally)
    shelf = list_packs(repository, tally)
    manifests: list[Manifest] = []
    read_back: list[str] = []
    known = known_damage(repository)
    for source in chosen:
        mine = _open_some(repository, source, tally)
        manifests += mine
        read_back += verify_log(repository, source, mine, choice=choice, tally=tally)
    look_at_packs(manifests, reader, shelf, tally=tally)
    read: dict[str, tuple[int, int]] = {}
    if not isinstance(depth, Quick):
        read_tables(manifests, reader, shelf, tally=tally)
        read = read_chunks(reader, shelf, choice, tally=tally)
    judge_backups(manifests, shelf, tally=tally)
    find_foreign(repository, tally, choice, read_back=read_back)
    end()
    outcome = VerifyOutcome(
        level=level_of(depth),
        sources=tuple(chosen),
        began=began,
        seconds=watch.seconds(),
        backups=len(manifests),
        objects=tally.objects,
        read_bytes=tally.read_bytes,
        gaps=tuple(tally.gaps),
        findings=tuple(tally.findings),
        foreign=tuple(sorted(tally.foreign)),
        rescue_sha256=repository.seal.rescue_sha256,
    )
    _leave_evidence(repository, outcome, depth, seed=seed, read=read)
    remember_damage(repository, tally.damaged)
    remember_read(repository, sorted((tally.read_whole - set(tally.damaged)) & set(known)))
    return outcome


def _open_some(repository: Repository, source: str, tally: Tally) -> list[Manifest]:
    found = open_manifests(repository, source, tally)
    if not found:
        tally.problem(
            f"backups of {source}",
            "there is none that opens",
            f"Run `drtool backup {source}`.",
            harm=Harm.UNREACHABLE,
        )
    return found


def exit_code_of(outcome: VerifyOutcome) -> ExitCode:
    """7 if something is damaged or missing, 4 if only a backup or a stretch of log is, 0 otherwise."""
    return code_of_findings(outcome.findings, otherwise=ExitCode.INTEGRITY)


def last_verified(repository: Repository) -> datetime | None:
    """When a verification last came to its end; None if none ever did."""
    prefix = layout.evidence_key("verify", "")
    names = {own_name(found.key) for found in repository.store.list(prefix)}
    for name in sorted(names, reverse=True):
        try:
            moment = datetime.strptime(name.removeprefix(prefix), _STAMP).replace(tzinfo=UTC)
        except ValueError:
            continue
        if repository.holds(ObjectType.EVIDENCE, name):
            return moment
    return None


_STAMP = "%Y%m%dT%H%M%S.%fZ"


def _all_sources(repository: Repository) -> list[str]:
    """Those with a backup, and those that have only a log so far."""
    return sorted({*backed_up_sources(repository), *repository.store.list_directories("log/")})


def _verify_keys(repository: Repository, tally: Tally) -> None:
    store, ring = repository.store, repository.ring
    root = RepositoryRoot.from_json(store.read(layout.ROOT, most_bytes=MOST_ROOT_BYTES))
    if root.repository_id != ring.repository_id:
        raise IntegrityError(
            f"object {layout.ROOT} is not the one that this run has opened",
            hint="Somebody has put another repository in its place. Find out who, and when.",
        )
    slots, errors = read_slots(repository)
    tally.looked_at(layout.ROOT)
    for slot in slots:
        tally.looked_at(layout.slot_key(ring.repository_id, slot.slot_id))
    for error in errors:
        key = error.key or "a key slot"
        if what_it_is_not(key, repository_id=ring.repository_id) is not None:
            continue  # no slot can have that name: told with all that was added
        # Somebody added it, or it was one of ours: nobody can tell. The key at hand opens another.
        tally.warn(key, error.message, error.hint)
    for version in sorted(recorded_versions(repository) | {*ring.versions}):
        key = layout.version_key(ring.repository_id, version)
        is_missing = store.stat(key) is None
        if is_missing or version not in ring.versions:
            tally.problem(
                key, f"{'is missing' if is_missing else 'does not open'}: nothing that was sealed under it"
                " can be read",
                "Bring it back from a copy of the repository.",
            )  # fmt: skip
        tally.looked_at(key)
    tally.findings += root_findings(store, repository.seal)


def _leave_evidence(
    repository: Repository,
    outcome: VerifyOutcome,
    depth: Depth,
    *,
    seed: int,
    read: dict[str, tuple[int, int]],
) -> None:
    """What was read when: FORMAT.md, section 11."""
    document = {
        "evidence": 1,
        "kind": "verify",
        "level": outcome.level,
        "percent": depth.percent if isinstance(depth, Sampled) else None,
        "seed": seed,
        "sources": list(outcome.sources),
        "began": outcome.began.isoformat(),
        "seconds": round(outcome.seconds, 3),
        "backups": outcome.backups,
        "objects": outcome.objects,
        "read_bytes": outcome.read_bytes,
        "gaps": [[gap.timeline, str(gap.begin), str(gap.end)] for gap in outcome.gaps],
        "findings": [[str(f.severity), f.subject, f.fact, f.fix] for f in outcome.findings],
        "packs": {pack_id: list(counts) for pack_id, counts in read.items()},
    }
    key = layout.evidence_key("verify", outcome.began.astimezone(UTC).strftime(_STAMP))
    try:
        repository.put(ObjectType.EVIDENCE, key, json.dumps(document).encode())
    except AlreadyExists:
        return  # two runs in one microsecond: one of them has left word

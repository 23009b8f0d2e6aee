"""`drtool repository`: make it, describe it, and look after its keys."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from drtool.errors import NotKept, UsageError
from drtool.model.finding import Finding, Severity
from drtool.model.measure import format_moment, read_iso
from drtool.model.outcome import Fact, FactSheet
from drtool.model.request import (
    KeyAdd,
    KeyList,
    KeyRemove,
    KeyRotate,
    RepositoryInit,
    RepositoryInspect,
)
from drtool.policy.policy import Policy
from drtool.policy.secrets import NoEncryption, SecretReference, file_findings
from drtool.repository.backups import backed_up_sources, backup_ids, name_backups
from drtool.repository.keys import KeySecret, Slot
from drtool.repository.repository import (
    Repository,
    add_slot,
    create_repository,
    read_slots,
    remove_slot,
)
from drtool.repository.rotation import rotate_key
from drtool.stores.capabilities import Capabilities, describe_capabilities
from drtool.stores.open import prepare_place
from drtool.stores.probe import probe_store
from drtool.wiring.parts import is_initialised, key_secret, opened_repository, opened_store
from drtool.wiring.root_seal import look_at_root
from drtool.wiring.surroundings import Surroundings

RepositoryRequest = RepositoryInit | RepositoryInspect | KeyList | KeyAdd | KeyRemove | KeyRotate


def run_repository(request: RepositoryRequest, policy: Policy, around: Surroundings) -> FactSheet:
    """Create, describe or rekey the repository."""
    if isinstance(request, RepositoryInit):
        return _init(request, policy, around)
    with opened_repository(policy, around) as repository:
        match request:
            case RepositoryInspect():
                return _describe(repository)
            case KeyList():
                return _slots(repository, policy.timezone)
            case KeyAdd():
                return _add_key(request, repository, around, zone=policy.timezone)
            case KeyRemove():
                kept = key_secret(policy.repository.key, around)
                return _remove_key(request, repository, kept, zone=policy.timezone)
            case KeyRotate():
                return _rotate(request, repository)


def _init(request: RepositoryInit, policy: Policy, around: Surroundings) -> FactSheet:
    secret = key_secret(policy.repository.key, around)
    if request.is_dry_run:
        secret.require_strong()
        return FactSheet(
            kind="repository-init-plan",
            title="Would create a repository; nothing was done",
            facts=(
                Fact(name="url", value=policy.repository.url, label="url"),
                Fact(name="key", value=str(secret.kind), label="opened by"),
            ),
        )
    prepare_place(policy.repository.url)
    with opened_store(policy, around) as store:
        if is_initialised(store):
            raise UsageError(
                f"there is a repository in {store.url} already",
                hint="Run `drtool repository info` to see whose it is, or choose another url.",
            )
        secret.require_strong()
        capabilities = probe_store(store, clock=around.clock)
        if not capabilities.reads_after_write:
            raise NotKept(
                f"{store.url} does not have what it has just acknowledged",
                hint="Use a store that shows at once what was put: drtool looks for every object"
                " before it relies on it. Nothing was made.",
            )
        repository = create_repository(
            store, secret, now=around.clock.now(), capabilities=capabilities
        )
        findings = [*describe_capabilities(capabilities), *look_at_root(repository)]
        findings += _about_file(policy.repository.key)
        if isinstance(policy.repository.key, NoEncryption):
            findings.append(
                Finding(
                    severity=Severity.WARNING,
                    subject="encryption",
                    fact="the policy says `key: none`: whoever reads the store reads the data",
                    fix="Make another repository with `key: env:DRTOOL_KEY`.",
                )
            )
        return FactSheet(
            kind="repository-init",
            title="Repository created",
            facts=(*_facts(repository), *_capability_facts(capabilities)),
            findings=tuple(findings),
        )


def _describe(repository: Repository) -> FactSheet:
    held = tuple(
        fact
        for source in backed_up_sources(repository)
        for fact in _backup_facts(source, backup_ids(repository, source))
    )
    root = repository.root
    return FactSheet(
        kind="repository-info",
        title="Repository",
        facts=(*_facts(repository), *held, *_capability_facts(root.capabilities)),
        findings=(
            *describe_capabilities(root.capabilities),
            *look_at_root(repository),
        ),
    )


def _backup_facts(source: str, ids: list[str]) -> tuple[Fact, ...]:
    """How many, and which: in JSON all of them."""
    return (
        Fact(name=f"backups_{source}", value=len(ids), label=f"backups of {source}"),
        Fact(
            name=f"backup_ids_{source}",
            value=tuple(ids),
            shown=name_backups(ids).removeprefix("There are: ").removesuffix("."),
            label="their ids",
        ),
    )


def _facts(repository: Repository) -> tuple[Fact, ...]:
    root = repository.root
    return (
        Fact(name="url", value=repository.store.url, label="url"),
        Fact(name="repository_id", value=root.repository_id.hex(), label="id"),
        Fact(name="created", value=read_iso(root.created) or root.created, label="created"),
        Fact(name="made_by", value=root.made_by, label="made by"),
        Fact(name="format", value=root.format_version, label="format"),
        Fact(name="key_version", value=repository.ring.newest, label="seals with key version"),
        Fact(
            name="rescue_sha256",
            value=repository.seal.rescue_sha256,
            label="RESCUE/rescue.py, SHA-256",
        ),
    )


def _capability_facts(capabilities: Capabilities) -> tuple[Fact, ...]:
    return (
        Fact(
            name="creates_atomically",
            value=capabilities.creates_atomically,
            label="two writers cannot overwrite each other",
        ),
        Fact(
            name="replaces_if_matching",
            value=capabilities.replaces_if_matching,
            label="leases are safe between machines",
        ),
        Fact(
            name="refuses_wrong_checksum",
            value=capabilities.refuses_wrong_checksum,
            label="refuses bytes damaged on the way",
        ),
        Fact(name="versioning", value=capabilities.versioning, label="keeps versions"),
        Fact(
            name="object_lock",
            value=capabilities.object_lock,
            label="refuses to delete a locked version",
        ),
        Fact(
            name="outlives_deletion",
            value=capabilities.outlives_deletion,
            label="new objects outlive their deletion",
        ),
    )


def _slots(repository: Repository, zone: ZoneInfo) -> FactSheet:
    slots, errors = read_slots(repository)
    return FactSheet(
        kind="repository-keys",
        title="Key slots",
        facts=tuple(_slot_fact(slot, zone) for slot in slots),
        findings=tuple(
            Finding(
                severity=Severity.PROBLEM, subject="key slot", fact=error.message, fix=error.hint
            )
            for error in errors
        ),
    )


def _slot_fact(slot: Slot, zone: ZoneInfo) -> Fact:
    return Fact(
        name=f"slot_{slot.slot_id}",
        value=f"{slot.kind}, made {slot.created}",
        shown=key_slot_words(slot.kind, slot.created, zone),
        label=f"slot {slot.slot_id}",
    )


def key_slot_words(kind: str, created: str, zone: ZoneInfo) -> str:
    """What a key slot is and since when, in the reader's zone; what is no moment is shown as it stands."""
    moment = read_iso(created)
    return f"{kind}, made {created if moment is None else format_moment(moment, zone)}"


def _about_file(key: SecretReference | NoEncryption) -> list[Finding]:
    """A warning for a key file that others on this machine may read."""
    return [] if isinstance(key, NoEncryption) else file_findings(key)


def _add_key(
    request: KeyAdd, repository: Repository, around: Surroundings, *, zone: ZoneInfo
) -> FactSheet:
    try:
        reference = SecretReference.parse(request.reference)
    except ValueError as error:
        raise UsageError(str(error), hint="For example: env:DRTOOL_SECOND_KEY.") from None
    secret = key_secret(reference, around)
    secret.require_strong()
    if request.is_dry_run:
        return FactSheet(
            kind="repository-key-add-plan",
            title="Would add a slot; nothing was done",
            facts=(Fact(name="kind", value=str(secret.kind), label="opened by"),),
        )
    slot = add_slot(repository, secret, now=around.clock.now())
    return FactSheet(
        kind="repository-key-add",
        title="Slot added, and opened once to be sure",
        facts=(_slot_fact(slot, zone),),
        findings=tuple(_about_file(reference)),
    )


def _remove_key(
    request: KeyRemove, repository: Repository, kept: KeySecret, *, zone: ZoneInfo
) -> FactSheet:
    slots = {slot.slot_id: slot for slot in read_slots(repository)[0]}
    if request.slot not in slots:
        raise UsageError(
            f"the repository has no key slot {request.slot!r}",
            hint=f"There are: {', '.join(sorted(slots))}.",
        )
    fact = _slot_fact(slots[request.slot], zone)
    if request.is_dry_run:
        return FactSheet(
            kind="repository-key-remove-plan",
            title="Would remove a slot; nothing was done",
            facts=(fact,),
        )
    remove_slot(repository, request.slot, kept=kept)
    return FactSheet(kind="repository-key-remove", title="Slot removed", facts=(fact,))


def _rotate(request: KeyRotate, repository: Repository) -> FactSheet:
    if request.is_dry_run:
        title, version = "Would add a key version; nothing was done", repository.ring.newest + 1
    else:
        title, version = "Key rotated; what is stored stays readable", rotate_key(repository)
    kind = "repository-key-rotate-plan" if request.is_dry_run else "repository-key-rotate"
    fact = Fact(name="key_version", value=version, label="new objects are sealed with version")
    return FactSheet(kind=kind, title=title, facts=(fact,))

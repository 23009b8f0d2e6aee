"""`drtool verify`: read the repository back."""

from __future__ import annotations

import secrets
from dataclasses import replace

from drtool.errors import UsageError
from drtool.model.outcome import Fact, FactSheet, VerifyOutcome
from drtool.model.request import VerifyLevel, VerifyRequest
from drtool.policy.policy import Policy
from drtool.repository.backups import backup_ids
from drtool.repository.repository import Repository
from drtool.system.access import require_temporary_files
from drtool.verify.depth import depth_of
from drtool.verify.quarantine import movable, put_aside, with_what_became_of, would_put_aside
from drtool.verify.repository import last_verified, verify_repository
from drtool.wiring.parts import opened_repository, restorable_sources
from drtool.wiring.surroundings import Surroundings

_WOULD = {
    VerifyLevel.QUICK: "Would look whether all of this is there, and read no content; nothing was done",
    VerifyLevel.SAMPLED: "Would read a sample of this back; nothing was read",
    VerifyLevel.WHOLE: "Would read all of this back; nothing was read",
}


def verify(
    request: VerifyRequest, policy: Policy, around: Surroundings
) -> VerifyOutcome | FactSheet:
    """Read back; with `is_dry_run` say what would be read. A repair reads, and puts aside what others have
    added to the store; with `is_dry_run` it says what it would.
    """
    names = tuple(restorable_sources(request.sources, policy, around))
    try:
        depth = depth_of(request.level, request.percent)
    except ValueError as error:
        raise UsageError(str(error), hint="For example: `drtool verify --percent 10`.") from None
    require_temporary_files()
    with opened_repository(policy, around) as repository:
        if request.is_dry_run and not request.repairs:
            last = last_verified(repository)
            return FactSheet(
                kind="verify-plan",
                title=_WOULD[request.level],
                facts=(
                    Fact(name="repository", value=repository.store.url),
                    Fact(name="level", value=str(request.level)),
                    *(
                        Fact(
                            name=f"backups_{name}",
                            value=len(backup_ids(repository, name)),
                            label=f"backups of {name}",
                        )
                        for name in names
                    ),
                    Fact(name="last_verified", value=last or "never"),
                ),
            )
        outcome = verify_repository(
            repository,
            depth=depth,
            sources=names,
            emit=around.emit,
            clock=around.clock,
            seed=secrets.randbits(32),
        )
        if not request.repairs:
            return outcome
        return _repaired(repository, outcome, around, is_dry_run=request.is_dry_run)


def _repaired(
    repository: Repository, outcome: VerifyOutcome, around: Surroundings, *, is_dry_run: bool
) -> VerifyOutcome:
    keys = movable(repository, outcome.foreign)
    if is_dry_run:
        became = would_put_aside(keys)
    else:
        now = repository.store.now()
        became = put_aside(repository, keys, now=now, emit=around.emit, clock=around.clock)
    findings = with_what_became_of(outcome.findings, outcome.foreign, became)
    return replace(outcome, findings=tuple(findings))

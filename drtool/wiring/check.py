"""`drtool check`: what is looked at of each source, its log, its mirror, and of the repository."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from drtool.check.key_slots import check_slots, is_phrase
from drtool.check.links import check_link
from drtool.check.run import Part, Seen, attempt, not_looked, run_checks
from drtool.errors import DrtoolError
from drtool.model.checked import CheckReport, Look
from drtool.model.measure import counted
from drtool.model.request import CheckRequest
from drtool.policy.policy import Policy
from drtool.policy.secrets import file_findings
from drtool.policy.sources import (
    BucketSource,
    FilesSource,
    PostgresSource,
    RedisSource,
    SourcePolicy,
)
from drtool.repository.keys import KeySecret
from drtool.repository.repository import Repository, read_slots
from drtool.stores.capabilities import Capabilities, describe_capabilities
from drtool.stores.place import VERIFY, link_of
from drtool.stores.remote import RemoteStore
from drtool.wiring.checking import Checking
from drtool.wiring.parts import key_secret, opened_repository
from drtool.wiring.surroundings import Surroundings


def check(request: CheckRequest, policy: Policy, around: Surroundings) -> CheckReport:
    """Look at the repository and the sources that were named, or all; each source's failure kept apart.

    A repository that cannot be opened is a failure of its own: the sources themselves are still
    looked at.
    """
    names = request.sources or tuple(str(name) for name in policy.sources)
    sources = {name: policy.source(name) for name in names}
    with ExitStack() as held:
        repository: Repository | DrtoolError
        try:
            repository = held.enter_context(opened_repository(policy, around))
        except DrtoolError as error:
            repository = error
        parts = [_repository_part(repository, policy, around)]
        for name, source in sources.items():
            checking = Checking(name=name, policy=policy, repository=repository, around=around)
            look = partial(_look, checking, source)
            parts.append(Part(name=name, kind=source.kind, look=look))
        return CheckReport(
            stack=policy.stack,
            timezone=policy.timezone.key,
            at=around.clock.now(),
            parts=run_checks(parts, clock=around.clock, emit=around.emit),
        )


def _look(checking: Checking, source: SourcePolicy) -> Iterator[Look]:
    # Each kind is loaded when it is met: the clients of the other kinds take half a second to load.
    match source:
        case PostgresSource():
            from drtool.wiring.check_postgres import look_at_postgres

            yield from look_at_postgres(checking, source)
        case RedisSource():
            from drtool.wiring.check_redis import look_at_redis

            yield from look_at_redis(checking, source)
        case FilesSource():
            from drtool.wiring.check_files import look_at_files

            yield from look_at_files(checking, source)
        case BucketSource():
            from drtool.wiring.check_files import look_at_bucket

            yield from look_at_bucket(checking, source)


def _repository_part(
    repository: Repository | DrtoolError, policy: Policy, around: Surroundings
) -> Part:
    look = partial(_look_at_repository, repository, policy, around)
    return Part(name="repository", kind="store", look=look)


def _look_at_repository(
    repository: Repository | DrtoolError, policy: Policy, around: Surroundings
) -> Iterator[Look]:
    yield from _look_at_secret_files(policy)
    if isinstance(repository, DrtoolError):
        yield not_looked("store", repository)
        return
    url, version = repository.store.url, repository.ring.newest
    yield Look(
        name="store",
        seen=f"{url} answers, and its key opens it (version {version})",
        findings=tuple(check_link(url, link_of(url), fix=VERIFY)),
    )
    yield from _look_at_key(repository, key_secret(policy.repository.key, around))
    recorded = repository.root.capabilities
    findings = [one for one in describe_capabilities(recorded) if one.subject != "clock"]
    yield Look(name="abilities", seen=_abilities(recorded), findings=tuple(findings))
    yield attempt("rescue program", lambda: _look_at_rescue(repository))
    if isinstance(repository.store, RemoteStore):
        yield attempt("clock", lambda: _look_at_clock(repository, around))


def _look_at_secret_files(policy: Policy) -> Iterator[Look]:
    """The files that the policy's secrets are in: do they belong to its user alone?"""
    files = [one for one in policy.secret_references() if one.place == "file"]
    if files:
        findings = tuple(finding for one in files for finding in file_findings(one))
        seen = (
            f"{counted(len(findings), 'is', 'are')} open to others"
            if findings
            else "closed to others"
        )
        yield Look(name="secret files", seen=seen, findings=findings)


def _look_at_key(repository: Repository, secret: KeySecret) -> Iterator[Look]:
    """Of a phrase in a key file alone: all else is stretched, or cannot be guessed."""
    if not is_phrase(secret):
        return
    repository_id = repository.ring.repository_id

    def look() -> Seen:
        slots, _ = read_slots(repository)
        findings = tuple(check_slots(slots, secret, repository_id=repository_id))
        return f"a phrase in a key file, {'not ' if findings else ''}stretched", findings

    yield attempt("key", look)


def _look_at_rescue(repository: Repository) -> Seen:
    """The root and the rescue program, which are outside every seal, against what was sealed of them."""
    from drtool.wiring.root_seal import look_at_root

    return f"SHA-256 {repository.seal.rescue_sha256}", look_at_root(repository)


def _abilities(recorded: Capabilities) -> str:
    if not recorded.is_measured:
        return "not known: nothing vouches for what was recorded of them"
    writers = "several writers" if recorded.creates_atomically else "a single writer"
    leases = "leases hold" if recorded.replaces_if_matching else "leases do not hold"
    return f"as measured at init: {writers}, {leases} between machines"


def _look_at_clock(repository: Repository, around: Surroundings) -> Seen:
    """The store's clock tells to the second only, so less than that is no difference."""
    from drtool.check.freshness import STORE_SKEW, check_clock

    before = around.clock.now()
    theirs = repository.store.now()
    skew = theirs - (before + (around.clock.now() - before) / 2)
    findings = check_clock("the store", skew, tolerated=STORE_SKEW)
    return f"{skew.total_seconds():+.0f} s against this machine's", findings

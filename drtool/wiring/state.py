"""How each source stands, made from the repository: what `status`, `check` and the others all show."""

from __future__ import annotations

from datetime import datetime

from drtool.check.state import SourceState
from drtool.policy.policy import Policy
from drtool.policy.sources import BucketSource, FilesSource, PostgresSource, RedisSource
from drtool.repository.repository import Repository
from drtool.wiring.state_facts import read_facts_of_state


def read_state(name: str, policy: Policy, repository: Repository, *, now: datetime) -> SourceState:
    """Look at everything that the repository holds of one source. The source itself is not asked."""
    source = policy.source(name)
    if isinstance(source, BucketSource):
        objective = policy.objective_of(name)
        zone = policy.timezone
        return SourceState(source=name, kind=source.kind, objective=objective, at=now, zone=zone)
    facts = read_facts_of_state(name, policy, repository, now=now)
    # Each kind is loaded when it is met.
    match source:
        case PostgresSource():
            from drtool.wiring.state_postgres import postgres_state, read_log

            return postgres_state(facts, source, log=read_log(facts))
        case RedisSource():
            from drtool.wiring.state_redis import read_stream, redis_state

            return redis_state(facts, source, stream=read_stream(facts))
        case FilesSource():
            from drtool.wiring.state_files import files_state

            return files_state(facts)

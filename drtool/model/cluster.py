"""Which cluster a change log is of, and which branch of it: a number that tells both.

A server whose data directory was put back from a copy goes on under the same system identifier and on
the same timeline, with other WAL under the names of the WAL that it wrote before. What it writes from
then on is another branch. Branch 0 is the system identifier itself, as every older repository has it;
branch `n` has `n` in the bits from 64 on, which no system identifier reaches.
"""

from __future__ import annotations

_SYSTEM_BITS = 64


def system_of(cluster: int) -> int:
    """The system identifier that the server itself tells."""
    return cluster & ((1 << _SYSTEM_BITS) - 1)


def branch_of(cluster: int) -> int:
    """The number of the branch; 0 unless a copy was put back."""
    return cluster >> _SYSTEM_BITS


def next_branch(cluster: int) -> int:
    """The branch after `cluster`'s, of the same system identifier."""
    return cluster + (1 << _SYSTEM_BITS)


def describe_cluster(cluster: int) -> str:
    """`7301` or `7301, branch 1`, for messages."""
    branch = branch_of(cluster)
    return f"{system_of(cluster)}, branch {branch}" if branch else str(system_of(cluster))

"""Whether the servers that a restore starts could reach a network."""

from __future__ import annotations

from drtool.model.finding import Finding, Severity
from drtool.system.network_namespace import without_network
from drtool.system.users import RunAs


def network_findings(owner: RunAs) -> tuple[Finding, ...]:
    """Whether the servers that recover and verify a copy could reach a network."""
    refused = without_network(owner).refused
    if refused is None:
        return ()
    return (
        Finding(
            severity=Severity.NOTE,
            subject="network",
            fact="the servers that recovered and verified the copy listened on no address, and could"
            f" reach others: this machine gives no network namespace: {refused}",
            fix="Run drtool where `unshare --net` works: as root, in a container with CAP_SYS_ADMIN.",
        ),
    )

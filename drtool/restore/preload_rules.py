"""Preload libraries whose background workers act by themselves in a copy that is started: left out, switched
off, or told. A worker is code of the library, so what it does is known here by the library's name alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from drtool.model.finding import Finding, Severity
from drtool.restore.start_rules import Pin

SETTING = "shared_preload_libraries"
# Without these a copy's own tables can be read and written all the same.
_LEFT_OUT = {
    "pg_cron": "runs the source's jobs",
    "pg_partman_bgw": "creates and drops partitions",
    "pg_task": "runs the source's jobs",
    "pg_net": "sends HTTP requests",
    "pglogical": "takes rows from the source's publishers",
    "spock": "takes rows from the source's other nodes",
    "bdr": "takes rows from the source's other nodes",
    "citus": "reaches the worker nodes of the source",
    "repmgr": "takes part in the source's failover",
    "pgautofailover": "takes part in the source's failover",
    "pg_failover_slots": "copies slots between the source's servers",
}
# Their tables need the library, and it has a switch.
_SWITCHED_OFF = {
    "pg_cron": ("cron.launch_active_jobs", "off"),
    "timescaledb": ("timescaledb.max_background_workers", "0"),
}
# These have no worker, or one that reads this server alone.
_KEEP_STILL = frozenset(
    {
        "pg_stat_statements", "pg_stat_kcache", "pg_qualstats", "pg_wait_sampling", "pg_stat_monitor",
        "auto_explain", "pgaudit", "pg_prewarm", "pg_hint_plan", "passwordcheck", "auth_delay",
        "plpgsql_check", "set_user", "timescaledb", "sepgsql", "vector", "basic_archive",
    }
)  # fmt: skip


def libraries_of(value: str) -> list[str]:
    """The libraries of a setting's value, as they stand there."""
    return [word.strip().strip('"') for word in value.split(",") if word.strip()]


def preload_pins(values: Mapping[str, str]) -> dict[str, Pin]:
    """What must be in force so that no library acts that is known to."""
    libraries = libraries_of(values.get(SETTING, ""))
    names = {Path(one).stem for one in libraries}
    pins = {
        setting: Pin(value, f"the jobs of {library} do not run in a copy")
        for library, (setting, value) in _SWITCHED_OFF.items()
        if library in names
    }
    kept = [one for one in libraries if Path(one).stem not in _LEFT_OUT]
    if len(kept) < len(libraries):
        gone = ", ".join(f"{name} {_LEFT_OUT[name]}" for name in sorted(names & _LEFT_OUT.keys()))
        pins[SETTING] = Pin(", ".join(kept), f"left out of a copy: {gone}")
    return pins


def preload_findings(source: Sequence[str], loaded: Sequence[str]) -> tuple[Finding, ...]:
    """Which of the libraries that the source loads were left out, and which that are loaded may act."""
    gone = sorted({Path(one).stem for one in source} & _LEFT_OUT.keys())
    unknown = sorted({Path(one).stem for one in loaded} - _KEEP_STILL)
    findings = []
    if gone:
        findings.append(
            Finding(
                severity=Severity.WARNING,
                subject=SETTING,
                fact="left out of the copy, because it would act by itself: "
                + ", ".join(f"{name} ({_LEFT_OUT[name]})" for name in gone),
                fix="Where the copy takes the source's place, and the source runs no more, set"
                f" {SETTING} in postgresql.auto.conf as the source has it, and restart.",
            )
        )
    if unknown:
        findings.append(
            Finding(
                severity=Severity.NOTE,
                subject=SETTING,
                fact=f"the copy loads {', '.join(unknown)}: background workers of theirs start with it",
                fix="Where they reach other servers, take them out before you start the copy.",
            )
        )
    return tuple(findings)

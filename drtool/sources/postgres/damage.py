"""Pages that the server found damaged while it sent a base backup: its warnings, as findings."""

from __future__ import annotations

import re

from drtool.model.finding import Finding, Severity
from drtool.sources.postgres.refusals import Failure, one_line

# The server speaks its own language; paths, numbers and the colon stay (basebackup.c).
_FILE = re.compile(r"((?:base|global|pg_tblspc)/[^\"“”„«»]+)[\"“”„«»]\D*(\d+)?(\s?:)?")
_KEPT = 1000
_FIX = (
    "Find the object with SELECT oid::regclass FROM pg_class WHERE relfilenode = NUMBER, restore an"
    " older backup beside it with `drtool restore`, and look at the disk."
)


class DamageReports:
    """Collects up to 1000 findings and counts the rest: a broken disk may report millions."""

    def __init__(self) -> None:
        self._findings: list[Finding] = []
        self._beyond = 0
        self._confirmed = False

    def take(self, notice: Failure) -> None:
        """Take one warning of the server; those that are no damage report are not kept."""
        if notice.source_file not in (None, "basebackup.c"):
            return
        match = _FILE.search(notice.message)
        if match is None:
            return
        if len(self._findings) >= _KEPT:
            self._beyond += 1
            return
        block = f", block {match[2]}" if match[3] and match[2] else ""
        self._findings.append(
            Finding(
                severity=Severity.PROBLEM,
                subject=f"{match[1]}{block}",
                fact=one_line(notice.message),
                fix=_FIX,
            )
        )

    def confirm(self) -> None:
        """The server said at the end that checksums were wrong."""
        self._confirmed = True

    def findings(self) -> tuple[Finding, ...]:
        """What was found; never empty when the server confirmed damage."""
        found = list(self._findings)
        if self._beyond or (self._confirmed and not found):
            fact = f"{self._beyond} more reports of damaged pages" if found else "damaged pages"
            found.append(
                Finding(severity=Severity.PROBLEM, subject="data directory", fact=fact, fix=_FIX)
            )
        return tuple(found)

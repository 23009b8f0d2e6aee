"""Reports are written where people asked for them, and kept in the repository as evidence."""

from __future__ import annotations

from pathlib import Path

from drtool.errors import DestinationRefused, DrtoolError
from drtool.model.outcome import RestoreReport
from drtool.model.progress import Noted
from drtool.report.documents import document, dumps
from drtool.report.page import render_page
from drtool.repository.layout import evidence_key
from drtool.repository.repository import Repository
from drtool.repository.sealing import ObjectType
from drtool.system.durable import replace_durably
from drtool.wiring.surroundings import Surroundings


def write_page(report: RestoreReport, path: Path, around: Surroundings) -> None:
    """Write the HTML page, without any secret and for us alone (0600); DestinationRefused says why it
    cannot be.
    """
    page = around.redactor.redact(render_page(report))
    try:
        replace_durably(path.absolute(), page.encode())
    except OSError as error:
        raise DestinationRefused(
            f"the report cannot be written to {path}: {error.strerror}",
            hint="The restore itself is done. Name another file with --report.",
        ) from error
    around.emit(Noted(f"report: {path.absolute()}"))


def keep_evidence(report: RestoreReport, repository: Repository, around: Surroundings) -> None:
    """Leave the report in the repository. A restore is not worse for a store that takes no writes."""
    moment = report.written.strftime("%Y%m%dT%H%M%S.%fZ")
    content = around.redactor.redact(dumps(document(report)))
    try:
        repository.put(ObjectType.EVIDENCE, evidence_key("restore", moment), content.encode())
    except DrtoolError as error:
        text = f"the report is not kept in the repository: {error.message}"
        around.emit(Noted(text, "warning"))

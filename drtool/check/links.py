"""What can be read, or forged, on the way to a server or a store. Pure rules."""

from __future__ import annotations

from collections.abc import Iterator

from drtool.model.finding import Finding, Severity
from drtool.model.link import Link


def check_link(subject: str, link: Link, *, fix: str) -> Iterator[Finding]:
    """A warning for a link that crosses a network in clear text, or to somebody who proved nothing."""
    if link.stays_here or (link.is_encrypted and link.is_verified):
        return
    fact = (
        "the link is encrypted, but nobody checks whose server it is: somebody on the way can stand in its"
        " place"
    )
    if not link.is_encrypted:
        fact = (
            "the link crosses a network in clear text: who is on the way reads what is backed up, and can"
            " change it"
        )
    yield Finding(severity=Severity.WARNING, subject=subject, fact=fact, fix=fix)

"""How a connection to a server or a store is protected on its way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """`stays_here`: it leads to this machine itself. `is_verified`: a certificate proved whose it is."""

    stays_here: bool
    is_encrypted: bool
    is_verified: bool

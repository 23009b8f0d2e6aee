"""A small valid policy, and ways to say it wrongly."""

from __future__ import annotations

VALID = """\
version: 1
stack: shop
timezone: Europe/Warsaw
objectives:
  default: {rpo: 15m, rto: 1h}
repository:
  url: file:///srv/drtool
  key: env:DRTOOL_KEY
sources:
  main-db:
    kind: postgres
    dsn: env:MAIN_DB_DSN
"""

"""Backups and change logs, kept in a store: sealed, write-once, readable without drtool (FORMAT.md)."""

"""All that drtool knows of PostgreSQL: its protocol, its files, its programs, its log."""

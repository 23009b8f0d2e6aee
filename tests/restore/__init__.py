"""A backup and its WAL become a running copy again, on real servers."""

"""All that drtool knows of Redis: its replication, its files, its topologies and its programs."""

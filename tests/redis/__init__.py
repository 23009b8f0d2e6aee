"""The Redis room, tried on real servers."""

"""Tests of the WAL receiver, on real servers."""

"""Tests of when work is due, and of the process that does it."""

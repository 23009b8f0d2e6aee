"""Tests of the room stores/ beyond the contract: faults, probes, URLs."""

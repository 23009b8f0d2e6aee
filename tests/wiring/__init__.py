"""Tests of `drtool/wiring`: parts put together."""

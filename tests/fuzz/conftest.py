"""The seed and each reader's share of the time of a long run."""

from __future__ import annotations

import os
import secrets

import pytest

from tests.fuzz.harness import LONG_SECONDS, LongRun, run_long

SEED = os.environ.get("FUZZ_SEED") or secrets.token_hex(4)


def pytest_report_header() -> str:
    return f"fuzz seed: {SEED} (FUZZ_SEED={SEED} makes the same cases again)"


@pytest.fixture
def long_run(request: pytest.FixtureRequest) -> LongRun:
    """Runs a reader for its share of `make fuzz`."""
    selected = sum(1 for item in request.session.items if item.get_closest_marker("fuzz"))
    share = LONG_SECONDS / max(1, selected)
    return lambda reader: run_long(reader, seed=SEED, seconds=share)

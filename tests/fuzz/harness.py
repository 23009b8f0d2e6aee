"""Runs a reader on mutated bytes and holds it to three things: only typed errors, time, memory.

A limit here is one on the reader: two seconds of processor time and half a gigabyte of address space
for each case, unless the reader says other ones. The limits are the kernel's (an interval timer of
processor time, RLIMIT_AS), so that a reader is interrupted in the middle of what it does.
"""

from __future__ import annotations

import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType

from drtool.errors import DrtoolError
from tests.fuzz.mutations import mutated

# Of each reader in `make test`; the seed is fixed, so that a run is as good as the one before.
SHORT_CASES = 300
SHORT_SECONDS = 2.0
SHORT_SEED = "1"
# Characters of an error.
MOST_MESSAGE = 100_000
# Of all readers together in `make fuzz`.
LONG_SECONDS = float(os.environ.get("FUZZ_SECONDS", "600"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """What reads bytes from outside, and valid samples of them, each of which it must read.

    `expected`: errors that the reader promises besides DrtoolError, where its caller turns them into one.
    """

    name: str
    read: Callable[[bytes], object]
    samples: Sequence[bytes]
    expected: tuple[type[Exception], ...] = ()
    most_seconds: float = 2.0
    most_bytes: int = 512 << 20

    def __str__(self) -> str:
        return self.name


# What the fixture `long_run` is.
LongRun = Callable[[Reader], None]


class TookTooLong(BaseException):
    """The reader used more processor time than it may; no reader catches it."""


def run_short(reader: Reader) -> None:
    """A few hundred cases from the fixed seed; AssertionError for the first that is not held."""
    _hold(reader, SHORT_SEED, cases=SHORT_CASES, seconds=SHORT_SECONDS)


def run_long(reader: Reader, *, seed: str, seconds: float) -> None:
    """As many cases as there is time for."""
    _hold(reader, seed, cases=1 << 60, seconds=seconds)


def case_of(reader: Reader, seed: str, number: int) -> bytes:
    """Case `number` of a run: the same bytes every time."""
    return mutated(Random(f"{seed}:{reader.name}:{number}"), reader.samples)


def _hold(reader: Reader, seed: str, *, cases: int, seconds: float) -> None:
    for sample in reader.samples:
        reader.read(sample)
    deadline = time.monotonic() + seconds
    number = 0
    with _processor_timer():
        while number < cases and time.monotonic() < deadline:
            fault = _fault_of(reader, case_of(reader, seed, number))
            if fault is not None:
                raise AssertionError(_told(reader, seed, number, fault))
            number += 1
    print(f"{reader.name}: {number} cases from seed {seed}")


def _fault_of(reader: Reader, content: bytes) -> str | None:
    began = time.process_time()
    try:
        with address_space(reader.most_bytes):
            signal.setitimer(signal.ITIMER_VIRTUAL, reader.most_seconds)
            try:
                reader.read(content)
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except DrtoolError as error:
        if not 0 < len(error.message) < MOST_MESSAGE:
            return f"an error with a message of {len(error.message)} characters"
    except reader.expected as error:
        if len(str(error)) > MOST_MESSAGE:
            return f"an error with a message of {len(str(error))} characters"
    except MemoryError:
        return f"needs more than {reader.most_bytes >> 20} MiB"
    except TookTooLong:
        return f"takes more than {reader.most_seconds} s\n{traceback.format_exc(limit=-8)}"
    except Exception:
        return traceback.format_exc(limit=-8)
    took = time.process_time() - began
    # What runs in C is not interrupted, and is found by what it took.
    return f"took {took:.1f} s" if took > reader.most_seconds else None


def _told(reader: Reader, seed: str, number: int, fault: str) -> str:
    content = case_of(reader, seed, number)
    kept = Path(os.environ.get("TMPDIR", "/tmp")) / f"fuzz-{reader.name.replace(' ', '-')}-{number}"
    kept.write_bytes(content)
    return (
        f"{reader.name}, seed {seed!r}, case {number} ({len(content)} bytes, in {kept}):\n"
        f"{content[:300]!r}\n{fault}"
    )


@contextmanager
def _processor_timer() -> Iterator[None]:
    before = signal.signal(signal.SIGVTALRM, _interrupt)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise TookTooLong


@contextmanager
def address_space(more_bytes: int) -> Iterator[None]:
    """No more address space for the process than it has now and `more_bytes`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

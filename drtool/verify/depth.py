"""How much of a repository is read back: values that can only be right."""

from __future__ import annotations

import random
from dataclasses import dataclass

from drtool.model.request import VerifyLevel


@dataclass(frozen=True, slots=True)
class Quick:
    """Nothing but keys, manifests, footers and listings."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """That, and `percent` of all chunks and log objects, chosen at random."""

    percent: float

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise ValueError(f"{self.percent} is no percentage of things to read")


@dataclass(frozen=True, slots=True)
class Whole:
    """Every byte that a backup or the log needs."""


Depth = Quick | Sampled | Whole


def depth_of(level: VerifyLevel, percent: float) -> Depth:
    """What the command line asks for; `percent` counts only for a sample."""
    match level:
        case VerifyLevel.QUICK:
            return Quick()
        case VerifyLevel.SAMPLED:
            return Sampled(percent)
        case VerifyLevel.WHOLE:
            return Whole()


def level_of(depth: Depth) -> VerifyLevel:
    """The name of a depth."""
    match depth:
        case Quick():
            return VerifyLevel.QUICK
        case Sampled():
            return VerifyLevel.SAMPLED
        case Whole():
            return VerifyLevel.WHOLE


class Choice:
    """Decides, one thing after the other, whether it is read. Equal seeds choose equally."""

    def __init__(self, depth: Depth, seed: int) -> None:
        self._depth = depth
        self._random = random.Random(seed)  # noqa: S311 - a sample, not a secret

    def takes(self) -> bool:
        """Whether the next thing is read."""
        match self._depth:
            case Quick():
                return False
            case Sampled(percent):
                return self._random.random() * 100 < percent
            case Whole():
                return True

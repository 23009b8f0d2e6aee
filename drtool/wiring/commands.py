"""Commands of drtool that drtool itself starts, each in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from drtool.system.process import ToldProcess, start_told
from drtool.wiring.surroundings import Surroundings

StartCommand = Callable[[Sequence[str]], ToldProcess]


def command_starter(policy_file: Path, around: Surroundings) -> StartCommand:
    """Starts commands of this very drtool, on the same policy, in our own environment and directory:
    they need our secrets. They say warnings and their answer alone, and end when we do.
    """
    # Not resolved: where the policy is a link, as in Kubernetes, its target goes when it is renewed.
    program = (sys.executable, "-m", "drtool.cli.main", "--policy", str(policy_file.absolute()))
    here = Path.cwd()

    def start(words: Sequence[str]) -> ToldProcess:
        return start_told((*program, "--quiet", *words), environment=around.environ, directory=here)

    return start

"""Runs rescue.py where there is no drtool: a bare interpreter that sees only the two packages."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

PACKAGES = ("zstandard", "cryptography", "cffi", "pycparser")
BOOT = """
import importlib.util, runpy, sys
sys.path[:] = [place for place in sys.path if "site-packages" not in place] + [sys.argv[1]]
assert importlib.util.find_spec("drtool") is None, "drtool can be imported here"
assert importlib.util.find_spec("numpy") is None, "this is no bare interpreter"
sys.argv = sys.argv[2:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    assert not [name for name in sys.modules if name.split(".")[0] == "drtool"], "drtool was imported"
"""


def bare_packages(directory: Path) -> Path:
    """A directory that holds zstandard, cryptography and what they need, and nothing else."""
    directory.mkdir()
    for name in (*PACKAGES, "_cffi_backend"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        origin = Path(spec.origin)
        place = origin.parent if origin.name == "__init__.py" else origin
        (directory / place.name).symlink_to(place)
    return directory


def run_rescue(
    packages: Path, program: Path, *arguments: str, key: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program with a clean environment, in a directory that has nothing in it."""
    empty = packages.parent / "empty"
    empty.mkdir(exist_ok=True)
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    if key is not None:
        environment["DRTOOL_KEY"] = key
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", BOOT, str(packages), str(program), *arguments],
        cwd=empty,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )

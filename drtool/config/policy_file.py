"""Finds the policy file, and reads it whole or refuses it with every problem it has."""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import Node

from drtool.config.reader import Problem, Reader, TooMuch, Wrong
from drtool.config.shapes import record_of
from drtool.errors import PolicyError, UsageError
from drtool.policy.policy import Policy
from drtool.system.changeable import changeable_by_others

# A hundred sources with comments take half of it; the library takes seconds for more.
MAX_POLICY_BYTES = 128 << 10
# Brackets open at once; a policy in JSON has five.
MAX_BRACKETS = 100
_BRACKET = re.compile(r"[\[\]{}]")
VARIABLE = "DRTOOL_POLICY"
DIRECTORY = "policies"


def find_policy(explicit: Path | None, environ: Mapping[str, str], cwd: Path) -> Path:
    """`--policy`, else DRTOOL_POLICY, else the single file in ./policies; UsageError if none is meant.

    The first two may name a directory that holds a single one. A policy names programs to run, so
    one that nobody named is only taken where nobody but root and this user can have written it.
    """
    named = explicit or (Path(environ[VARIABLE]) if environ.get(VARIABLE) else None)
    if named is not None:
        return _single_file(named) if named.is_dir() else named
    found = _single_file(cwd / DIRECTORY)
    _refuse_anybodys(found)
    return found


def _single_file(directory: Path) -> Path:
    found = sorted(path for end in ("yaml", "yml") for path in directory.glob(f"*.{end}"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"no policy: there is no file in {directory}",
            hint="Name one with --policy FILE or DRTOOL_POLICY, or write one with `drtool init`.",
        )
    raise UsageError(
        f"{len(found)} policies in {directory}: {', '.join(path.name for path in found)}",
        hint="Choose one with --policy FILE or DRTOOL_POLICY.",
    )


def _refuse_anybodys(found: Path) -> None:
    try:
        fault = changeable_by_others(found)
    except OSError:
        return  # reading it tells why it cannot be read
    if fault is not None:
        raise UsageError(
            f"policy {found} was found, and not named, and others can change it: {fault.place}"
            f" {fault.why}",
            hint=f"If it is the one that you mean, say --policy {shlex.quote(str(found))} or set"
            f" {VARIABLE}; or let it and the directories above it be yours or root's alone.",
        )


def read_policy(path: Path) -> Policy:
    """The policy in `path`; PolicyError names each problem as `file:line:column: what`."""
    return parse_policy(_read_text(path), str(path))


def parse_policy(text: str, origin: str) -> Policy:
    """The policy in `text`; `origin` names it in errors."""
    node = _compose(text, origin)
    reader = Reader()
    policy: object = None
    try:
        policy = reader.read(node, record_of(Policy), "")
    except (Wrong, TooMuch):
        pass
    if reader.problems:
        raise _refusal(origin, sorted(set(reader.problems)))
    assert isinstance(policy, Policy)
    return policy


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_POLICY_BYTES + 1)
    except OSError as error:
        raise PolicyError(
            f"policy {path} cannot be read: {error.strerror}",
            hint="Name another one with --policy FILE or DRTOOL_POLICY.",
        ) from error
    if len(content) > MAX_POLICY_BYTES:
        raise PolicyError(
            f"policy {path} is longer than {MAX_POLICY_BYTES} bytes",
            hint="Name the file of a policy, or make one policy of each stack.",
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PolicyError(f"policy {path} is not UTF-8 text (byte {error.start})") from error


def _opens_many_brackets(text: str) -> bool:
    """Whether so many are open somewhere that the library would look ahead over all of them, again and again.

    Those in texts and comments count: a policy that leaves a hundred of them open is none.
    """
    depth = 0
    for sign in _BRACKET.findall(text):
        depth = depth + 1 if sign in "[{" else max(0, depth - 1)
        if depth > MAX_BRACKETS:
            return True
    return False


def _compose(text: str, origin: str) -> Node:
    if _opens_many_brackets(text):
        raise _refusal(origin, [Problem(1, 1, "nested too deep to be a policy")])
    loader = YAML(typ="safe", pure=True)
    try:
        with warnings.catch_warnings():
            # A name may be given to several nodes, one after the other (YAML 1.2, 7.1).
            warnings.simplefilter("ignore", ReusedAnchorWarning)
            node = loader.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise _refusal(origin, [Problem(line, column, f"not YAML: {error.problem}")]) from error
    except (YAMLError, ValueError) as error:
        raise _refusal(origin, [Problem(1, 1, f"not YAML: {error}")]) from error
    except RecursionError:
        raise _refusal(origin, [Problem(1, 1, "nested too deep to be a policy")]) from None
    if not isinstance(node, Node):
        raise _refusal(origin, [Problem(1, 1, "the policy is empty")])
    return node


def _refusal(origin: str, problems: list[Problem]) -> PolicyError:
    lines = [f"{origin}:{p.line}:{p.column}: {p.text}" for p in problems]
    return PolicyError(
        "\n".join(lines),
        hint="`drtool policy schema` prints every valid key for your editor.",
    )

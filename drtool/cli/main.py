"""The program `drtool`: finds the command, runs it, and turns what goes wrong into words and a code."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

import click

import drtool
from drtool.cli.front import Front, silence
from drtool.cli.lazy import Lazy, LazyGroup, global_options
from drtool.errors import ExitCode

COMPLETION_VARIABLE = "_DRTOOL_COMPLETE"

COMMANDS = {
    "init": Lazy("drtool.cli.init:init", "Probe servers and write a starter policy."),
    "check": Lazy("drtool.cli.check:check", "Is everything ready: each finding with its fix."),
    "status": Lazy("drtool.cli.status:status", "One screen: window, RPO now, last backup, gaps."),
    "backup": Lazy("drtool.cli.backup:backup", "Take a backup now."),
    "wal": Lazy("drtool.cli.wal:wal", "Receive, push, fetch and inspect WAL."),
    "redis": Lazy("drtool.cli.redis:redis", "Archive the stream of a Redis, see how it stands."),
    "restore": Lazy("drtool.cli.restore:restore", "Bring sources back to one moment."),
    "sync": Lazy("drtool.cli.sync:sync", "Bring the mirrors of files up to date."),
    "schedule": Lazy("drtool.cli.schedule:schedule", "Do what is due, in a container."),
    "verify": Lazy("drtool.cli.verify:verify", "Read back what is stored."),
    "repository": Lazy("drtool.cli.repository:repository", "Create, describe and rekey it."),
    "policy": Lazy("drtool.cli.policy:policy", "Check the policy, print its schema."),
    "demo": Lazy("drtool.cli.demo:demo", "The whole story on this machine, no server needed."),
    "completion": Lazy("drtool.cli.completion:completion", "Print a shell's completion script."),
}


def _show_version(context: click.Context, _parameter: click.Parameter, value: object) -> None:
    if value and not context.resilient_parsing:
        print(f"drtool {drtool.__version__}")
        context.exit()


root = LazyGroup(
    name="drtool",
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},  # of every command below it too
    params=[
        *global_options(),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_version,
            help="Show the version.",
        ),
    ],
    help="Brings a whole stack back to one moment, and proves beforehand that it can.",
    epilog="\b\nExample:\n  drtool restore main-db --to '2024-05-01T10:00' --plan",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script: run a command and leave with its exit code."""
    # A command makes objects by the hundred thousand that stay until its end, and hardly a circle:
    # looking for circles after each 700 new ones took a tenth of its time.
    gc.set_threshold(20_000, 20, 50)
    _open_standard_streams()
    front = Front()
    listen(front)
    code = run(sys.argv[1:] if arguments is None else arguments, front)
    # The interpreter would look through all that was ever loaded for circles, to free what the
    # system frees anyway: 20 ms at the end of every command.
    gc.freeze()
    sys.exit(code)


def _open_standard_streams() -> None:
    """Let those that the caller closed lead nowhere: else the next file that is opened takes their
    place, and what is printed, or what a child prints, goes into it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115 - until the end
            if stream.fileno() != number:
                os.dup2(stream.fileno(), number)
            os.set_inheritable(number, True)
            setattr(sys, name, stream)


def run(given: Sequence[str], front: Front) -> int:
    """Run a command; return its exit code. Nothing escapes."""
    # Also where the command line cannot be understood, a program wants its answer as JSON.
    front.wants_json = "--json" in given
    code = _answer(given, front)
    front.flush()
    if front.answer_lost and not front.has_failed and not front.changes_something:
        return ExitCode.DESTINATION_REFUSED  # the answer was all there was to do
    return code


def _answer(given: Sequence[str], front: Front) -> int:
    try:
        if COMPLETION_VARIABLE in front.environ:
            return _complete(front.environ[COMPLETION_VARIABLE])
        # Not click's own `main`: it has its own words and codes for what goes wrong.
        with root.make_context("drtool", list(given), obj=front) as context:
            root.invoke(context)
        return ExitCode.DONE
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except BaseException as error:  # noqa: BLE001 - each way to fail gets its words and its code
        if isinstance(error, OSError) and not front.has_begun and error.filename is None:
            silence(sys.stdout)  # click's own printing of a help
            if isinstance(error, BrokenPipeError):
                return ExitCode.DONE
            front.print_note(f"drtool: error: standard output: {error.strerror}")
            return ExitCode.DESTINATION_REFUSED
        from drtool.cli.failure import code_for_postgres, tell

        front.has_failed = True
        return code_for_postgres(given, error, code=tell(front, error))


def _complete(instruction: str) -> int:
    """Answer the shell that asks what could come next."""
    from click.shell_completion import shell_complete

    return shell_complete(root, {}, "drtool", COMPLETION_VARIABLE, instruction)


def listen(front: Front) -> None:
    """SIGTERM, SIGINT and SIGHUP end a run; one that can end cleanly is asked to first, once.

    The event is set by a thread: a signal may come while the main thread holds the event's own lock,
    which `wait` and `set` take and which is not reentrant, and then nothing would ever end the run.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def tell() -> None:
        os.read(reading, 1)
        front.stop.set()

    def asked(_number: int, _frame: FrameType | None) -> None:
        front.signals_to_stop += 1
        with suppress(BlockingIOError):  # full of signals that nobody has read yet: one is enough
            os.write(writing, b"!")
        if not (front.ends_cleanly and front.signals_to_stop == 1):
            raise KeyboardInterrupt

    threading.Thread(target=tell, name="signals", daemon=True).start()
    signal.signal(signal.SIGTERM, asked)
    signal.signal(signal.SIGINT, asked)
    # The terminal is gone: what runs ends in good order all the same, unless nohup asked for more.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, asked)


if __name__ == "__main__":  # as the scheduler starts it: whatever the program is called here
    main()

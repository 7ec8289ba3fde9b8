"""The `densecli` command: collects the subcommands and maps errors to exit codes, in this one place."""

from __future__ import annotations

import atexit
import gc
import itertools
import os
import re
import sys
import traceback
from typing import Any

from densecli import errors, streams
from densecli.cli import help_formatter
from densecli.doctor import flags
from densecli.wording import printable

_NEEDS_NO_FOLDER = frozenset(["--version", "-V", "--help", "-h"])
_TREE = "densecli.cli.tree"
_REFUSALS = {
    "can't start new thread": "the system gives no more threads; raise the limit (ulimit -u; in a container, that of "
    "its pids), or end other programs",
    "No usable temporary directory": "there is no place for temporary files; set TMPDIR to a folder that can be "
    "written",
}
"""What Python says when the system refuses it what doctor would need too, and what that means."""


def app(**how: Any) -> object:
    """Run the command that sys.argv names; returns its exit code, or None."""
    # typer may be missing, and parsing brings in pydantic, which may be broken: doctor's own flags need no parser.
    if sys.argv[1:2] == ["doctor"] and (given := flags.read(sys.argv[2:])) is not None:
        from densecli.cli.doctor import doctor

        return doctor(**given)
    from densecli.cli.tree import commands

    return commands(**how)


def _run() -> int:
    if not (_has_current_folder() or _NEEDS_NO_FOLDER.intersection(sys.argv[1:])):
        return _fail("the current folder is not there any more; cd to one that is", errors.EXIT_ENVIRONMENT)
    try:
        if help_formatter.asks_for_help(sys.argv[1:]):
            help_formatter.import_formatter()
        code = app(prog_name="densecli", standalone_mode=False)
        sys.stdout.flush()  # what does not get out now would fail as Python ends, without words
        if code == errors.EXIT_ENVIRONMENT and sys.argv[1:2] != ["doctor"]:
            _point_to_doctor()  # every input failed, each with a line of its own, for a reason of the environment
        return code if isinstance(code, int) else errors.EXIT_OK
    except KeyboardInterrupt:
        return _fail("interrupted", errors.EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our stdout (head, less) went away: not an error worth words, but not a success either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.EXIT_NOTHING_SUCCEEDED
    except Exception as error:
        if errors.is_interruption(error) or _is_abort(error):
            return _fail("interrupted", errors.EXIT_INTERRUPTED)
        return _failed(error)


def _has_current_folder() -> bool:
    """Libraries ask for it wherever they are imported; a checkout that was replaced leaves a shell without one."""
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _is_abort(error: Exception) -> bool:
    """Whether this is typer's way to say that somebody pressed Ctrl-C; typer is asked only where it was imported."""
    typer = sys.modules.get("typer")
    return typer is not None and isinstance(error, getattr(typer, "Abort", ()))


def _failed(error: Exception) -> int:
    """Say what went wrong, and which exit code that has."""
    if isinstance(error, errors.DensecliError):
        code = _fail(str(error), error.exit_code, with_traceback=_verbose())
        if isinstance(error, errors.EnvironmentProblem):
            _point_to_doctor()
        return code
    # Typer's own usage errors know their text and exit code; their class moved between typer versions.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "densecli"
        message = " ".join(error.format_message().split()).rstrip(".")
        if not message:
            return error.exit_code  # a command without its subcommand: its help has been shown
        return _fail(f"{message}; see '{command} --help'", error.exit_code)
    what = " ".join(str(error).split()) or "no message"
    for said, meant in _REFUSALS.items():
        if said in what:
            return _fail(meant, errors.EXIT_ENVIRONMENT, with_traceback=_verbose())
    from densecli.doctor.failures import explain_error, is_environment_failure

    if is_environment_failure(error):
        if sys.argv[1:2] == ["doctor"] or _TREE not in sys.modules:  # doctor cannot start either
            seen, fix = explain_error(error)
            return _fail(f"{seen}; run {fix}", errors.EXIT_ENVIRONMENT, with_traceback=_verbose())
        code = _fail(
            f"a library is missing or broken: {type(error).__name__}: {what} (-v shows where)",
            errors.EXIT_ENVIRONMENT,
            with_traceback=_verbose(),
        )
        _point_to_doctor()
        return code
    return _fail(
        f"unexpected {type(error).__name__}: {what} (-v shows where; please report it)",
        errors.EXIT_NOTHING_SUCCEEDED,
        with_traceback=_verbose(),
    )


def _point_to_doctor() -> None:
    print("run densecli doctor", file=sys.stderr)


def _verbose() -> bool:
    """Whether -v was given, also behind other flags (-rv): asked of what may have failed before it was parsed."""
    options = itertools.takewhile(lambda argument: argument != "--", sys.argv[1:])
    return any(option == "--verbose" or re.fullmatch("-[rq]*v[A-Za-z]*", option) for option in options)


def _fail(message: str, code: int, *, with_traceback: bool = False) -> int:
    # Messages tell what stands in files of others: keys, names of classes.
    print(f"densecli: error: {printable(message)}", file=sys.stderr)
    if with_traceback:
        traceback.print_exc()
    return code


def main() -> None:
    """Entry point of the console script."""
    # Starting makes some million objects that stay until the end, torch's mostly. Looking through them for garbage
    # again and again took a quarter of a short run: during imports, and once more as Python ends.
    gc.set_threshold(20_000, 50, 50)
    atexit.register(gc.freeze)
    if os.path.expanduser("~") == "~":  # no HOME, and a user id that nobody has
        # As containers set it: numba and Triton would make a folder called ~ in the current one.
        os.environ["HOME"] = "/"
    with streams.prepared():
        code = _run()
    # Python notes a Ctrl-C that strikes inside of exec(text), as dataclasses use it during imports, and would end by a
    # signal in spite of our exit code; the next exec(text) forgets it.
    exec("")
    sys.exit(code)

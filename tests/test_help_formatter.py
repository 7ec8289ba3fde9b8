"""Typer's help formatter, imported without what help never uses: the same text, and nothing left behind."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from densecli.cli import help_formatter

PRINT_HELP = """
import sys
from densecli.cli import app, help_formatter
{change}
sys.argv = ["densecli", *{arguments!r}]
try:
    app.main()
finally:
    from rich.markdown import Markdown
    from rich.traceback import Traceback
    assert Markdown("**bold**").markup and Traceback.extract, "rich's own classes, for whoever else imports them"
"""


def printed(arguments: list[str], environment: dict[str, str], change: str = "") -> str:
    code = PRINT_HELP.format(change=change, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["segment", "-h"], ["presets", "show", "--help"]], ids=" ".join)
def test_the_text_is_that_of_typers_whole_formatter(arguments: list[str], clean_environment: dict[str, str]) -> None:
    text = printed(arguments, clean_environment)
    assert "Usage: " in text and "--help" in text
    assert text == printed(arguments, clean_environment, "help_formatter.asks_for_help = lambda arguments: False")


def test_a_formatter_that_needs_more_than_the_names_is_imported_whole(clean_environment: dict[str, str]) -> None:
    """Another version of typer may ask more of these modules than we know."""
    change = 'help_formatter.UNUSED = {"rich.markdown": "SomethingElse", "rich.traceback": "Traceback"}'
    assert printed(["--help"], clean_environment, change) == printed(["--help"], clean_environment)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["segment", "-h"], ["segment", "desk.jpg", "--help"]])
def test_what_asks_for_help(arguments: list[str]) -> None:
    assert help_formatter.asks_for_help(arguments)


@pytest.mark.parametrize("arguments", [["segment", "desk.jpg"], ["--version"], ["segment", "help"]])
def test_what_does_not(arguments: list[str]) -> None:
    assert not help_formatter.asks_for_help(arguments)


def test_paragraphs_are_filled(clean_environment: dict[str, str]) -> None:
    """Not broken where the source breaks its lines."""
    lines = printed(["segment", "--help"], {**clean_environment, "COLUMNS": "80"}).splitlines()
    begin = next(number for number, line in enumerate(lines) if "Writes NAME_overlay.png" in line)
    paragraph = [line.strip() for line in lines[begin : begin + lines[begin:].index(" " * 80)]]
    assert len(paragraph) >= 3
    for line, following in itertools.pairwise(paragraph):
        assert len(line) + 1 + len(following.split()[0]) > 78

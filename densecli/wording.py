"""Names and reasons on one printable line, whatever bytes a file system or a library put into them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence

FIRST_RUN = "first run here: compiling for this machine, once; that can take half a minute"


# Users may have an @ in them (me@example.org), and passwords are written with one too, though they should have %40.
_PASSWORD = re.compile(r"(?<=://)([^/:\s]*):[^/\s]*@")

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+):/+")  # two letters at least: C:/ is a drive


def without_password(name: str) -> str:
    """A URL with `***` for the password in it (`sftp://me:***@host/a.jpg`), for all that is printed or written."""
    return _PASSWORD.sub(r"\1:***@", name)


def command_line(arguments: Sequence[str]) -> str:
    """One command line that a user can paste into a shell of this system."""
    if os.name == "nt":  # whose cmd.exe takes single quotes for a part of the name
        import subprocess

        return subprocess.list2cmdline(arguments)
    return shlex.join(arguments)


def lacks_password(url: str) -> bool:
    """Whether a URL is one whose password was left out, so that nothing can be read from it."""
    return any(match[0].endswith(":***@") for match in _PASSWORD.finditer(url))


def url_of(given: str) -> str | None:
    """The URL that is given where a path belongs; None for a path.

    With the second slash before the host, which a Path takes out, and without which no password would be seen in it.
    """
    match = _URL.match(given)
    return None if match is None else f"{match[1]}://{given[match.end() :]}"


def shown_name(name: str) -> str:
    """`name` on one line, printable whatever bytes the file system allowed in it, and without a password."""
    return printable(without_password(name)) or "''"


def shown_input(given: str) -> str:
    """An input as messages and result lines name it: `stdin` for `-`, else the name on one line."""
    return "stdin" if given == "-" else shown_name(given)


def counted(reasons: Mapping[str, int]) -> str:
    """How often there was each reason: `2 hidden, 1,204 not an image or video`."""
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())


def reason_of(error: object) -> str:
    """One line that says what `error` says, without a password of a URL in it."""
    said = getattr(error, "strerror", None)  # of OSErrors, and of PyAV's errors, which are not all of that family
    if isinstance(said, str) and said:
        return without_password(said)
    return printable(without_password(" ".join(str(error).split()))) or type(error).__name__


def short_reason_of(error: object) -> str:
    """`reason_of`, cut off where libraries explain at length."""
    text = reason_of(error)
    return text if len(text) <= 200 else text[:197] + "…"


def printable(text: str) -> str:
    """`text` on one line, with what would steer a terminal written out."""
    if text.isprintable():  # nearly all are, and there is one for each output
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )

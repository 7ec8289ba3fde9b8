"""Typer's help formatter, imported without the Markdown parser and the syntax highlighter that our help never uses.

`typer.rich_utils` imports `rich.markdown` (for help written in Markdown) and `rich.traceback` (for tracebacks in
colour; `pretty_exceptions_enable` is off here) at its top, and with them markdown-it and pygments: a quarter of what
`densecli --help` takes (benchmarks/NOTES.md).
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

FORMATTER = "typer.rich_utils"
UNUSED = {"rich.markdown": "Markdown", "rich.traceback": "Traceback"}


def in_paragraphs(text: str) -> str:
    """Help text with each paragraph on one line: typer breaks lines where the source does, whatever the terminal."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def asks_for_help(arguments: list[str]) -> bool:
    """Whether these arguments of the command (without its own name) will print a help text."""
    return not arguments or any(argument in ("-h", "--help") for argument in arguments)


def import_formatter() -> None:
    """Import typer's help formatter with stand-ins for the classes that it never makes here.

    The stand-ins are gone from `sys.modules` afterwards: whoever else imports these modules gets rich's own. Where
    typer has no such module, or needs more of these than their names, it is left to import it in its own way.
    """
    if FORMATTER in sys.modules:
        return
    stand_ins = {name: _stand_in(name, of) for name, of in UNUSED.items() if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        importlib.import_module(FORMATTER)
    except Exception:  # whatever it is, typer meets it again without stand-ins, and says it better
        sys.modules.pop(FORMATTER, None)
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)


def _stand_in(name: str, of: str) -> ModuleType:
    module = ModuleType(name)
    setattr(module, of, type(of, (), {}))
    return module

"""The flags of `densecli doctor`, read without typer: parsing brings in pydantic, which may be what is broken."""

from __future__ import annotations

from collections.abc import Sequence

FLAGS = {
    "--deep": "deep",
    "--fix": "fix",
    "-y": "yes",
    "--yes": "yes",
    "--json": "as_json",
    "-q": "quiet",
    "--quiet": "quiet",
    "-v": "verbose",
    "--verbose": "verbose",
}
"""Arguments of the command line, and the parameters of `cli.doctor.doctor` that they set."""


def read(arguments: Sequence[str]) -> dict[str, bool] | None:
    """Parameters that these arguments set; None where one is no plain flag (--help, a mistake): typer answers these."""
    if any(argument not in FLAGS for argument in arguments):
        return None
    return dict.fromkeys((FLAGS[argument] for argument in arguments), True)

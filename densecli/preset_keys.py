"""The keys of a preset, section by section: what each one means and which values it takes, in words."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from densecli.engine.parameters import CleanupParameters, GeneratorParameters, Limits

SECTIONS: dict[str, type[BaseModel]] = {
    "generator": GeneratorParameters,
    "cleanup": CleanupParameters,
    "limits": Limits,
}
# --set takes bare keys and the summary lists them flat, so a key must be in one section only (a test holds us to it).
SECTION_OF = {key: section for section, values in SECTIONS.items() for key in values.model_fields}


def allowed_values(section: str, key: str) -> str:
    """What a key takes, in words, from the field's own type and bounds: "a whole number from 1 to 1024"."""
    info = SECTIONS[section].model_fields[key]
    return _type_in_words(info.annotation, info.metadata)


def takes_word(section: str, key: str, word: str) -> bool:
    """Whether `word` is one of the words that a key takes."""
    annotation = SECTIONS[section].model_fields[key].annotation
    return get_origin(annotation) is Literal and word in get_args(annotation)


def _type_in_words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *extra = get_args(annotation)
        return _type_in_words(inner, [m for e in extra for m in (e.metadata if isinstance(e, FieldInfo) else [e])])
    if origin in (Union, UnionType):
        return ", or ".join(map(_type_in_words, get_args(annotation)))
    if origin is Literal:
        return " or ".join(map(str, get_args(annotation)))
    if annotation is NoneType:
        return "null"
    if annotation is bool:
        return "true or false"
    kind = {int: "a whole number", float: "a number"}[annotation]
    low = next((m for m in metadata if isinstance(m, Ge | Gt)), None)
    high = next((m for m in metadata if isinstance(m, Le | Lt)), None)
    if isinstance(low, Ge) and isinstance(high, Le):
        return f"{kind} from {low.ge:g} to {high.le:g}"
    bounds = []
    if low is not None:
        bounds.append(f"of at least {low.ge:g}" if isinstance(low, Ge) else f"above {low.gt:g}")
    if high is not None:
        bounds.append(f"at most {high.le:g}" if isinstance(high, Le) else f"below {high.lt:g}")
    return f"{kind} {' and '.join(bounds)}".strip()


@cache
def meanings(section: str) -> dict[str, str]:
    """Key -> what it means, one sentence: the docstrings under the fields in densecli/engine/parameters.py."""
    try:
        tree = ast.parse(inspect.getsource(SECTIONS[section]))
    except OSError:  # a frozen build has no source
        return {}
    found = {}
    for statement, below in pairwise(tree.body[0].body):  # type: ignore[attr-defined]  # a module of one class
        match statement, below:
            case ast.AnnAssign(target=ast.Name(id=key)), ast.Expr(value=ast.Constant(value=str(text))):
                found[key] = " ".join(text.split())
    return found

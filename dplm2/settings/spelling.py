"""Spelling of a value: text from YAML or a command line, converted to the type of the field."""

import re
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import yaml
from pydantic_core import PydanticCustomError

EXPONENT = r"^[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+$"
SPELT = {False: "off", True: "on"}  # YAML 1.1 reads these words as truth values


def plain_value(value: Any, annotation: Any) -> Any:
    """``value`` converted to the annotated type if only the spelling differs; bool and number remain distinct.

    YAML 1.1 reads ``1e-4`` as text, and Snakemake's ``--config 'key={inner: 5}'`` passes inner values as text.
    """
    kinds, words = set(_kinds(annotation)), set(_words(annotation))
    if isinstance(value, list | tuple):
        return [plain_value(item, inner) for item, inner in zip(value, _items(annotation, len(value)), strict=True)]
    if isinstance(value, str) and value in words:
        return value
    if isinstance(value, bool) and SPELT[value] in words:
        return SPELT[value]
    if isinstance(value, bool) and bool not in kinds and kinds & {int, float, str}:
        raise PydanticCustomError("kind", "{wanted}", {"wanted": "a number or text, not true or false"})
    if isinstance(value, int | float) and not isinstance(value, bool) and kinds <= {bool, type(None)}:
        raise PydanticCustomError("kind", "{wanted}", {"wanted": "true or false"})
    if isinstance(value, str) and str not in kinds:
        read = _read_scalar(value)
        return read if read is None or isinstance(read, int | float) else value
    return value


def _read_scalar(text: str) -> Any:
    if re.match(EXPONENT, text.strip()):
        return float(text)
    try:
        return yaml.safe_load(text) if len(text) < 50 else text
    except (yaml.YAMLError, ValueError, OverflowError):  # not a calendar date
        return text


def _kinds(annotation: Any) -> Iterator[type]:
    """The plain types that an annotation accepts at its top level; text for literals of text."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from _kinds(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for option in typing.get_args(annotation):
            yield from _kinds(option)
    elif origin is Literal:
        # A literal accepts no other text, so "null" still means null.
        yield from {type(option) for option in typing.get_args(annotation)} - {str}
    else:
        yield origin or annotation


def _items(annotation: Any, count: int) -> list[Any]:
    """The annotation of each item of a list of this length; object if the annotation accepts no such list."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple:
        arguments = arguments[:1] * count if arguments[-1] is Ellipsis else arguments
        return list(arguments) if len(arguments) == count else [object] * count
    if origin in (Annotated, typing.Union, types.UnionType):
        options = (_items(option, count) for option in (arguments[:1] if origin is Annotated else arguments))
        return next((items for items in options if items != [object] * count), [object] * count)
    return [object] * count


def _words(annotation: Any) -> Iterator[str]:
    """The words that an annotation accepts at its top level."""
    if typing.get_origin(annotation) is Literal:
        yield from (option for option in typing.get_args(annotation) if isinstance(option, str))
    elif typing.get_origin(annotation) in (Annotated, typing.Union, types.UnionType):
        for option in typing.get_args(annotation):
            yield from _words(option)

"""Messages about errors in a configuration: path of the key, value, allowed values; all errors at once."""

import difflib
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from dplm2.core.errors import ConfigError

NAME_HINT = "letters, digits, '.', '_' and '-', beginning with a letter or digit"
CONTRADICTION = "contradiction"
LENIENT, ROOT = "lenient", "root"  # of the context of a validation

HINTS: dict[str, str] = {}
"""Descriptions of text patterns."""


def validated(model: type[BaseModel], values: Mapping[str, Any], lenient: bool = False) -> Any:
    """A section made of ``values``.

    Raises
    ------
    ConfigError
        Lists all errors at once: a section with valid keys is checked for contradictions even if another one is
        invalid.
    """
    context: dict[str, Any] = {LENIENT: lenient}
    given, lines = dict(values), []
    while True:
        try:
            made = model.model_validate(given, context=context)
        except ValidationError as error:
            found = error.errors(include_url=False)
            reported = [problem for problem in found if context.get(ROOT) is None or problem["type"] == CONTRADICTION]
            lines += explain(reported, model, values)
            broken = [_path_in(given, problem["loc"]) for problem in found if problem["type"] != CONTRADICTION]
            pruned = _without(given, broken)
            if context.get(ROOT) is None or pruned != given:
                # Once more without the invalid parts, to report undefined references as well.
                given, context[ROOT] = pruned, model
                continue
            break
        if not lines:
            return made
        break
    lines = list(dict.fromkeys(lines))
    raise ConfigError("the configuration is wrong:\n  " + "\n  ".join(lines))


def _path_in(given: Any, location: tuple) -> tuple:
    """The part of pydantic's location that is a path in the given values; the rest are branches of a union."""
    path = []
    for part in location:
        if _holds(given, part):
            given = given[part]
            path.append(part)
    return tuple(path)


def _holds(given: Any, part: Any) -> bool:
    if isinstance(given, Mapping):
        return part in given
    return isinstance(part, int) and isinstance(given, list | tuple) and part < len(given)


def _without(given: Mapping, paths: list[tuple]) -> dict:
    """``given`` without the values at some paths; a list is removed as a whole."""
    pruned = dict(given)
    for path in paths:
        if not path:
            return {}
        key, rest = path[0], path[1:]
        inner = pruned.get(key)
        if rest and isinstance(inner, Mapping):
            pruned[key] = _without(inner, [rest])
        else:
            pruned.pop(key, None)
    return pruned


def explain(problems: Iterable[Mapping[str, Any]], model: type[BaseModel], values: Mapping[str, Any]) -> list[str]:
    """One line for each error: path of the key, value, allowed values."""
    lines, reasons, further = [], {}, []
    for problem in problems:
        kind, location = problem["type"], problem["loc"]
        path = _path_in(values, location)
        place = ".".join(map(str, path))
        if kind == CONTRADICTION:
            lines += [_within(place, line) for line in problem["ctx"]["lines"].splitlines()]
        elif kind == "extra_forbidden":
            further.append(path)
            place = ".".join(map(str, path[:-1])) or "(top level)"
            lines.append(f"{place}: {_unknown_key(location[-1], _section_at(model, location[:-1]))}")
        elif kind == "missing":
            further.append((*path, location[-1]))
            lines.append(f"{_within(place, str(location[-1]))}: missing; this key is required")
        elif location and location[-1] == "[key]":
            if kind == "literal_error":
                place = ".".join(map(str, _path_in(values, location[:-2])))
                known = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
                lines.append(f"{place}: {_unknown_key(problem['input'], known)}")
                continue
            place, quotes = (
                ".".join(map(str, _path_in(values, location[:-2]))),
                "" if isinstance(problem["input"], str) else ", in quotes",
            )
            lines.append(f"{place}: {_shown(problem['input'])} is not a name: must be {NAME_HINT}{quotes}")
        elif kind == "invalid_key":
            place = ".".join(map(str, location[:-1])) or "(top level)"
            lines.append(f"{place}: {_unknown_key(location[-1], _section_at(model, location[:-1]))}")
        else:
            reasons.setdefault(path, (problem["input"], []))[1].append(_reason(problem))
    for path, (value, texts) in reasons.items():
        # A value that matches none of several types has a problem with each; the deepest one is the relevant one.
        if not any(len(other) > len(path) and other[: len(path)] == path for other in (*reasons, *further)):
            place = ".".join(map(str, path)) or "(top level)"
            lines.append(f"{place}: {_shown(value)}: must be {' or '.join(dict.fromkeys(texts))}")
    return lines


def _within(place: str, line: str) -> str:
    return f"{place}{line}" if line.startswith(":") or not place else f"{place}.{line}"


def _unknown_key(key: Any, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(str(key), known, 1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown key {str(key)!r}{meant}; allowed: {', '.join(known)}"


def _section_at(model: Any, location: tuple) -> Iterable[str]:
    """The keys of the section at a location in ``model``."""
    for part in location:
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = model.model_fields[part].annotation
        options = list(_sections_in(model))
        options = [option for option in options if option.__name__ == part] or options
        model = options[0] if options else model
    return model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else ()


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for option in typing.get_args(annotation):
        yield from _sections_in(option)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


REASONS = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "greater than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "literal_error": "one of {expected}",
    "int_parsing": "an integer",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_short": "non-empty text",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
    "tuple_type": "a list",
    "dict_type": "a mapping of names to values",
    "model_type": "a mapping of keys to values",
    "finite_number": "a finite number",
    "kind": "{wanted}",
}


def _reason(problem: Mapping[str, Any]) -> str:
    context = problem.get("ctx", {})
    if problem["type"] == "string_pattern_mismatch":
        return HINTS.get(context["pattern"], f"text that matches {context['pattern']}")
    text = REASONS.get(problem["type"])
    return text.format(**context) if text else problem["msg"]

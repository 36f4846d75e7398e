"""What a setting is: its meaning, its bounds, its default, and what it decides.

A section of the configuration is one subclass of `Section`. Its fields are declared with one of three functions, from
which everything else follows: the JSON Schema, ``config/README.md``, error messages, the ``params`` and ``resources``
of the workflow's rules, and the fingerprints of resumable state.

- `decides`: the value can change the result of a stage.
- `operates`: the value says how the work is done or watched. It never triggers a rerun.
- `refers`: the value names another section, or files. What decides is their content, not their name or place.
"""

import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from dplm2.core.errors import ConfigError

Role = Literal["decides", "operates", "refers"]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
NAME_HINT = "letters, digits, '.', '_' and '-', beginning with a letter or digit"
EXPONENT = r"^[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+$"
CONTRADICTION = "contradiction"
SPELT = {False: "off", True: "on"}  # YAML 1.1 reads these words as truth values
LENIENT, ROOT = "lenient", "root"  # of the context of a validation

HINTS: dict[str, str] = {}
"""What text that fits a pattern looks like, in words."""


def text_like(pattern: str, hint: str) -> Any:
    """The type of text that fits a pattern; ``hint`` completes the sentence "must be ..."."""
    HINTS[pattern] = hint
    return Annotated[str, StringConstraints(pattern=pattern)]


Name = Annotated[str, StringConstraints(pattern=NAME)]
Text = Annotated[str, StringConstraints(min_length=1)]
Day = text_like(r"^\d{4}-\d{2}-\d{2}$", "a day, YYYY-MM-DD")
Address = text_like(r"^https?://.*\{id\}", "an address (http or https) with {id} for the entry")


@dataclass(frozen=True)
class Meaning:
    """What a field's declaration says beside its type and bounds.

    Attributes
    ----------
    role
        Whether the value decides a result, operates the run, or refers to something whose content decides.
    readers
        The stages or tasks that read the field; None: all that read its section.
    files
        For a field that refers to files: patterns of those that count in a folder.
    hub
        Whether the value may also be the name of something that is not a file, such as a hub id, which then decides.
    obtain
        How to get files that are missing.
    """

    role: Role
    readers: tuple[str, ...] | None = None
    files: tuple[str, ...] = ()
    hub: bool = False
    obtain: str = ""


def decides(default: Any, text: str, *, readers: Iterable[str] | None = None, **bounds: Any) -> Any:
    """Declare a field whose value can change a result."""
    return _declared(default, text, Meaning("decides", None if readers is None else tuple(readers)), bounds)


def operates(default: Any, text: str, *, readers: Iterable[str] | None = None, **bounds: Any) -> Any:
    """Declare a field that says how the work is done, and never triggers a rerun."""
    return _declared(default, text, Meaning("operates", None if readers is None else tuple(readers)), bounds)


def refers(
    default: Any,
    text: str,
    *,
    files: Iterable[str] = (),
    hub: bool = False,
    obtain: str = "",
    readers: Iterable[str] | None = None,
    **bounds: Any,
) -> Any:
    """Declare a field that names another section (no ``files``) or files, whose content decides."""
    meaning = Meaning("refers", None if readers is None else tuple(readers), tuple(files), hub, obtain)
    return _declared(default, text, meaning, bounds)


def section(text: str, *, readers: Iterable[str] | None = None) -> Any:
    """Declare a section within a section; each of its fields has its own role. Left out, its defaults hold."""
    return _declared(
        {}, text, Meaning("decides", None if readers is None else tuple(readers)), {"validate_default": True}
    )


def _declared(default: Any, text: str, meaning: Meaning, bounds: Mapping[str, Any]) -> Any:
    return Field(default, description=text, json_schema_extra=_Extra(meaning), **bounds)


class _Extra(dict):
    """The meaning of a field as pydantic carries it along; in the JSON Schema it shows as ``role``."""

    def __init__(self, meaning: Meaning) -> None:
        super().__init__(role=meaning.role)
        self.meaning = meaning


def meaning_of(info: FieldInfo) -> Meaning:
    """What the declaration of a field says."""
    return info.json_schema_extra.meaning


class Section(BaseModel):
    """One section of the configuration: frozen, closed to unknown keys, and consistent in itself."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=False, allow_inf_nan=False, protected_namespaces=()
    )

    @classmethod
    def make(cls, **values: Any) -> Self:
        """The defaults with ``values`` in place of some.

        Raises
        ------
        ConfigError
            Names each wrong key and says what is allowed.
        """
        return validated(cls, values)

    @classmethod
    def restored(cls, values: Mapping[str, Any]) -> Self:
        """A section that an artifact recorded; keys without effect are accepted.

        Raises
        ------
        ConfigError
            Names each wrong key.
        """
        return validated(cls, values, lenient=True)

    def contradictions(self) -> Iterator[str]:
        """Yield one line, ``key: what is wrong``, for each contradiction within the section."""
        return iter(())

    def idle(self) -> Iterator[str]:
        """Yield one line for each key that is set but has no effect beside the others."""
        return iter(())

    def unresolved(self) -> Iterator[str]:
        """Yield one line for each name that stands for nothing; not asked of what one stage alone is told."""
        return iter(())

    def without_effect(self, reader: str) -> set[str]:
        """Fields that ``reader`` reads only under a condition that does not hold."""
        return set()

    def replaced(self, **values: Any) -> Self:
        """A copy with other values for some fields, checked for contradictions.

        Keys without effect are accepted: a section that an artifact recorded may hold some.
        """
        return validated(type(self), {**dict(self), **values}, lenient=True)

    def differs(self, key: str) -> bool:
        """Whether a field has another value than its default."""
        value = getattr(self, key)
        default = type(self).model_fields[key].get_default()
        return value != (type(value)() if isinstance(value, Section) and default == {} else default)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        return plain_value(value, cls.model_fields[info.field_name].annotation)

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        context = info.context or {}
        if context.get(ROOT) not in (None, type(self)):
            return self
        found = list(self.contradictions())
        if not context.get(LENIENT):
            found += [*self.idle(), *self.unresolved()]
        if found:
            raise PydanticCustomError(CONTRADICTION, "{lines}", {"lines": "\n".join(found)})
        return self


def plain_value(value: Any, annotation: Any) -> Any:
    """``value`` as the annotation wants it where that is a matter of spelling; bool and number are kept apart.

    YAML 1.1 reads ``1e-4`` as text, and Snakemake's ``--config 'key={inner: 5}'`` hands every inner value on as text.
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
    except (yaml.YAMLError, ValueError, OverflowError):  # a date that no calendar has
        return text


def _kinds(annotation: Any) -> Iterator[type]:
    """The plain types that an annotation takes at its top level; text where a literal is text."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from _kinds(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for option in typing.get_args(annotation):
            yield from _kinds(option)
    elif origin is Literal:
        # The words of a literal take no other text: "null" beside them still means null.
        yield from {type(option) for option in typing.get_args(annotation)} - {str}
    else:
        yield origin or annotation


def _items(annotation: Any, count: int) -> list[Any]:
    """The annotation of each item of a list of that many; object where the annotation takes no such list."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple:
        arguments = arguments[:1] * count if arguments[-1] is Ellipsis else arguments
        return list(arguments) if len(arguments) == count else [object] * count
    if origin in (Annotated, typing.Union, types.UnionType):
        options = (_items(option, count) for option in (arguments[:1] if origin is Annotated else arguments))
        return next((items for items in options if items != [object] * count), [object] * count)
    return [object] * count


def _words(annotation: Any) -> Iterator[str]:
    """The words that an annotation takes at its top level."""
    if typing.get_origin(annotation) is Literal:
        yield from (option for option in typing.get_args(annotation) if isinstance(option, str))
    elif typing.get_origin(annotation) in (Annotated, typing.Union, types.UnionType):
        for option in typing.get_args(annotation):
            yield from _words(option)


def validated(model: type[Section], values: Mapping[str, Any], lenient: bool = False) -> Any:
    """A section made of ``values``.

    Raises
    ------
    ConfigError
        Names everything that is wrong at once: a section whose keys are all right is checked for contradictions even
        where another one is broken.
    """
    context: dict[str, Any] = {LENIENT: lenient}
    given, lines = dict(values), []
    while True:
        try:
            made = model.model_validate(given, context=context)
        except ValidationError as error:
            found = error.errors(include_url=False)
            told = [problem for problem in found if context.get(ROOT) is None or problem["type"] == CONTRADICTION]
            lines += explain(told, model, values)
            broken = [_path_in(given, problem["loc"]) for problem in found if problem["type"] != CONTRADICTION]
            pruned = _without(given, broken)
            if context.get(ROOT) is None or pruned != given:
                # Once more without what is broken: names that stand for nothing are told as well.
                given, context[ROOT] = pruned, model
                continue
            break
        if not lines:
            return made
        break
    lines = list(dict.fromkeys(lines))
    raise ConfigError("the configuration is wrong:\n  " + "\n  ".join(lines))


def _path_in(given: Any, location: tuple) -> tuple:
    """The part of pydantic's location that leads through the given values; the rest names branches of a union."""
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
    """``given`` without the values at some paths; of a list the whole."""
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


def explain(problems: Iterable[Mapping[str, Any]], model: type[Section], values: Mapping[str, Any]) -> list[str]:
    """One line for each thing that is wrong: the key's path, the value, what is allowed."""
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
            lines.append(f"{_within(place, str(location[-1]))}: missing; it has to be given")
        elif location and location[-1] == "[key]":
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
        # A value that fits none of several kinds has a problem with each; one that came further is what was meant.
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
        if isinstance(model, type) and issubclass(model, Section) and part in model.model_fields:
            model = model.model_fields[part].annotation
        options = list(_sections_in(model))
        options = [option for option in options if option.__name__ == part] or options
        model = options[0] if options else model
    return model.model_fields if isinstance(model, type) and issubclass(model, Section) else ()


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
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
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "too_short": "{min_length} entries or more",
    "too_long": "{max_length} entries or fewer",
    "tuple_type": "a list",
    "dict_type": "a mapping of names to values",
    "model_type": "a mapping of keys to values",
    "finite_number": "a finite number",
    "kind": "{wanted}",
}


def _reason(problem: Mapping[str, Any]) -> str:
    context = problem.get("ctx", {})
    if problem["type"] == "string_pattern_mismatch":
        return HINTS.get(context["pattern"], f"text that fits {context['pattern']}")
    text = REASONS.get(problem["type"])
    return text.format(**context) if text else problem["msg"]


def deciding(part: Section, reader: str | None = None) -> dict[str, Any]:
    """The values of a section that can change a result, as plain JSON values, sections within it included.

    Parameters
    ----------
    part
        The section.
    reader
        The stage or task that reads it; fields that only others read are left out. None: all fields.
    """
    return _selected(part, reader, "decides")


def operating(part: Section, reader: str | None = None) -> dict[str, Any]:
    """The other values of a section that are not the defaults: how the work is done, and names of what it works on.

    Parameters
    ----------
    part, reader
        See `deciding`.
    """
    return _selected(part, reader, "operates")


def _selected(part: Section, reader: str | None, wanted: Role) -> dict[str, Any]:
    values = {}
    for key, meaning, value in fields_read(part, reader):
        if isinstance(value, Section):
            inner = _selected(value, reader, wanted)
            if inner or wanted == "decides":
                values[key] = inner
        elif _role_of(meaning, value) == wanted and (wanted == "decides" or part.differs(key)):
            values[key] = plain(value)
    return values


def fields_read(part: Section, reader: str | None) -> Iterator[tuple[str, Meaning, Any]]:
    """Name, meaning and value of each field that a reader reads."""
    idle = part.without_effect(reader) if reader is not None else set()
    for key, info in type(part).model_fields.items():
        meaning = meaning_of(info)
        read = reader is None or meaning.readers is None or reader in meaning.readers
        if read and key not in idle:
            yield key, meaning, getattr(part, key)


def _role_of(meaning: Meaning, value: Any) -> Role:
    """What a value does; a name that is no file decides by itself, files decide by their content."""
    if meaning.role != "refers":
        return meaning.role
    return "decides" if meaning.hub and isinstance(value, str) and not Path(value).exists() else "operates"


def plain(value: Any) -> Any:
    """A value of a section as JSON has it."""
    if isinstance(value, Section):
        return {key: plain(getattr(value, key)) for key in type(value).model_fields}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


@dataclass(frozen=True)
class FileReference:
    """Files that a setting names: where the setting stands, the path, and what it says of it."""

    place: str
    path: str
    meaning: Meaning = field(repr=False)


def files_named(part: Section, reader: str | None = None, place: str = "") -> Iterator[FileReference]:
    """The files and folders that a section names, sections within it included; hub ids are not among them."""
    for key, meaning, value in fields_read(part, reader):
        here = f"{place}.{key}" if place else key
        if isinstance(value, Section):
            yield from files_named(value, reader, here)
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                if isinstance(inner, Section):
                    yield from files_named(inner, reader, f"{here}.{name}")
        elif meaning.files and value is not None:
            for path in [value] if isinstance(value, str) else value:
                if not meaning.hub or Path(path).exists() or looks_like_path(path):
                    yield FileReference(here, path, meaning)


def looks_like_path(text: str) -> bool:
    """Whether a text can only be a path, not a hub id (``owner/name``) or the name of released weights."""
    return (
        text.startswith((".", "/", "~")) or text.count("/") > 1 or Path(text).suffix in (".pt", ".safetensors", ".ckpt")
    )

"""The manual of all configuration keys, generated from the settings: ``python -m dplm2.settings.manual``.

With ``--schema``, the JSON Schema, for editors that complete and check YAML.
"""

import json
import sys
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dplm2.settings.configuration import Configuration
from dplm2.settings.fields import Section, meaning_of
from dplm2.settings.mistakes import HINTS
from dplm2.settings.roles import plain

INTRODUCTION = """\
# The configuration, key by key

This page is generated from the settings against which every run is checked (`python -m dplm2.settings.manual >
config/README.md`; `--schema` prints the JSON Schema, for editors). An unknown key, a wrong type or an impossible value
stops a run before any job, with the key's path and what is allowed. `config.yaml` at the top of the repository is the
demo; `--configfile FILE` replaces it, `--config key=value` changes a key of it. Several files are merged, later ones
override earlier ones; a file can name the one it builds on (`base: config/paper.yaml`), and `null` in place of a
dataset, tokenizer, model or task removes it.

The column *effect* shows what a change of the key reruns: **decides** the stages whose results it can alter,
**operates** nothing (only how the work is done), **refers** the stages that read the named content, if it differs.
[docs/caching.md](../docs/caching.md) lists the rules for each key.
"""
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def manual() -> str:
    """The whole page as Markdown."""
    parts = [INTRODUCTION]
    for key, info in Configuration.model_fields.items():
        parts.append(f"## `{key}`\n\n{info.description}{_stated_default(info)}\n")
        named = typing.get_origin(info.annotation) is dict
        section = typing.get_args(info.annotation)[1] if named else info.annotation
        if isinstance(section, type) and issubclass(section, Section):
            prefix = f"{key}.<name>" if named else key
            rows = [f"| `{row[0]}` | " + " | ".join(row[1:]) + " |" for row in _rows(section, prefix)]
            heading = "| key | values | default | effect | meaning |\n| --- | --- | --- | --- | --- |"
            parts.append("\n".join([heading, *rows]) + "\n")
    return "\n".join(parts)


def _stated_default(info: FieldInfo) -> str:
    return f" Default: `{json.dumps(info.default)}`." if info.default not in (None, {}, PydanticUndefined) else ""


def keys(section: type[Section], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    """All keys of a section with their declarations, including nested sections."""
    for key, info in section.model_fields.items():
        place = f"{prefix}.{key}" if prefix else key
        yield place, info
        for inner in _inner_sections(info.annotation):
            yield from keys(inner, place)


def _inner_sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, Annotated):
        for option in typing.get_args(annotation):
            yield from _inner_sections(option)


def _rows(section: type[Section], prefix: str) -> Iterator[tuple[str, ...]]:
    for place, info in keys(section, prefix):
        effect = "" if any(True for _ in _inner_sections(info.annotation)) else meaning_of(info).role
        meaning = info.description.replace("|", "\\|").replace("\n", " ")
        yield place, _values(info.annotation, info.metadata).replace("|", "\\|"), _default(info), effect, meaning


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    return "" if info.default == {} else f"`{json.dumps(plain(info.default), ensure_ascii=False)}`"


def _values(annotation: Any, metadata: list | tuple = ()) -> str:
    """Allowed values of a key, in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    bounds = ", ".join(
        f"{sign} {getattr(m, name):g}" for m in metadata for name, sign in BOUNDS.items() if hasattr(m, name)
    )
    pattern = next((m.pattern for m in metadata if getattr(m, "pattern", None)), None)
    if pattern is not None:
        text = HINTS.get(pattern, "text")
    elif origin is Annotated:
        inner = [
            part for extra in arguments[1:] for part in (extra.metadata if isinstance(extra, FieldInfo) else [extra])
        ]
        return _values(arguments[0], [*inner, *metadata])
    elif origin is Literal:
        text = ", ".join(f"`{json.dumps(value)}`" for value in arguments)
    elif origin in (typing.Union, types.UnionType):
        return " or ".join(_values(option, metadata if option in (int, float) else ()) for option in arguments)
    elif origin is tuple:
        text = f"list of {_values(arguments[0])}"
    elif origin is dict:
        text = "mapping"
    elif isinstance(annotation, type) and issubclass(annotation, Section):
        text = "section"
    else:
        text = {int: "integer", float: "number", str: "text", bool: "true, false", type(None): "null"}[annotation]
    return f"{text} {bounds}".strip()


if __name__ == "__main__":
    if "--schema" in sys.argv[1:]:
        print(json.dumps(Configuration.model_json_schema(), indent=2))
    else:
        print(manual(), end="")

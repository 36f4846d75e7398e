"""The configuration: one JSON Schema, shared by the workflow and the command line.

The schema lies in ``dplm2/schema/``: ``config.json`` is the whole, the other files one section each. A description and
a default stand in it for every key; ``load`` checks a configuration against it and fills in the defaults.
"""

import dataclasses
import json
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from dplm2.errors import ConfigError

SCHEMA_FOLDER = Path(__file__).parent / "schema"
EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")
PLAIN = re.compile(r"[+-]?[\d.]+|true|false|null")
Settings = TypeVar("Settings")


def load(source: str | os.PathLike | Mapping) -> dict:
    """Read, check and complete a configuration.

    Parameters
    ----------
    source
        Path of a YAML or JSON file, or the JSON text of a configuration (it starts with ``{``), or a mapping. Sections
        may be left out: a stage needs only its own.

    Returns
    -------
    dict
        The configuration with every default filled in.

    Raises
    ------
    ConfigError
        Names each wrong key and says what is allowed.
    """
    given = _typed(_read(source), schema())
    problems = list(problems_of(given)) or list(_reference_problems(given))
    if problems:
        raise ConfigError("the configuration is wrong:\n  " + "\n  ".join(problems))
    return complete(given)


def _read(source: str | os.PathLike | Mapping) -> dict:
    if isinstance(source, Mapping):
        return dict(source)
    text, name = str(source), "the configuration given in place"
    if not text.lstrip().startswith("{"):
        name = text
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name}: cannot be read ({error})") from error
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: a configuration is a mapping of keys to values")
    return value


@cache
def schema(section: str = "config") -> dict:
    """The JSON Schema of a section (``config`` is the whole)."""
    return json.loads((SCHEMA_FOLDER / f"{section}.json").read_text(encoding="utf-8"))


@cache
def _registry() -> Registry:
    names = sorted(path.stem for path in SCHEMA_FOLDER.glob("*.json"))
    return Registry().with_resources(
        [(f"{name}.json", Resource(contents=schema(name), specification=DRAFT202012)) for name in names]
    )


def problems_of(value: Mapping, section: str = "config") -> Iterator[str]:
    """Yield one line for each thing that is wrong with ``value``, in the order of its keys."""
    validator = Draft202012Validator(schema(section), registry=_registry())
    for error in sorted(validator.iter_errors(value), key=lambda e: [str(part) for part in e.absolute_path]):
        yield _explain(error)


def _typed(value: Any, node: Mapping) -> Any:
    """``value`` with text turned into the number, truth value or null that the schema wants there.

    YAML 1.1 reads ``1e-4`` as text, and Snakemake's ``--config 'key={inner: 5}'`` hands on every inner value as text.
    """
    options = [_resolved(option) for option in _resolved(node).get("oneOf", _resolved(node).get("anyOf", [node]))]
    options = [option for option in options if isinstance(option, Mapping)]
    if isinstance(value, Mapping):
        inner = next((option for option in options if "properties" in option or "additionalProperties" in option), {})
        properties, others = inner.get("properties", {}), inner.get("additionalProperties")
        others = others if isinstance(others, Mapping) else {}
        return {key: _typed(item, properties.get(key, others)) for key, item in value.items()}
    if isinstance(value, list):
        items = next((option["items"] for option in options if isinstance(option.get("items"), Mapping)), {})
        return [_typed(item, items) for item in value]
    if isinstance(value, str) and not any(_takes_text(option) for option in options):
        return float(value) if EXPONENT.fullmatch(value) else yaml.safe_load(value) if PLAIN.fullmatch(value) else value
    return value


def _takes_text(node: Mapping) -> bool:
    kinds = node.get("type", ())
    if "enum" in node or "const" in node:
        return all(isinstance(value, str) for value in node.get("enum", [node.get("const")]))
    return not kinds or "string" in ([kinds] if isinstance(kinds, str) else kinds)


def _resolved(node: Mapping) -> Mapping:
    return schema(node["$ref"].removesuffix(".json")) if "$ref" in node else node


def _reference_problems(given: Mapping) -> Iterator[str]:
    """Names that stand for nothing, and keys that would have no effect beside ``pretrained``.

    A section that is not given at all is not looked into: a single stage is handed its own section only.
    """

    def unknown(path: str, kind: str, names: object) -> Iterator[str]:
        for name in [names] if isinstance(names, str) else names or []:
            if kind in given and name not in given[kind]:
                yield f"{path}: {kind} has no {name!r}; there: {', '.join(sorted(given[kind])) or 'none'}"

    for name, section in given.get("datasets", {}).items():
        if (section.get("files") is None) == (section.get("fetch") is None):
            yield f"datasets.{name}: give either 'files', or 'fetch' with a list of what to download"
    for kind, always in (("tokenizers", {"pretrained", "tokenization"}), ("models", {"pretrained", "tokenizer"})):
        for name, section in given.get(kind, {}).items():
            path = f"{kind}.{name}"
            if section.get("pretrained"):
                without_effect = sorted(set(section) - always)
                if without_effect:
                    keys = ", ".join(without_effect)
                    yield f"{path}: {keys} would have no effect beside 'pretrained'; leave them out"
            elif given.get("datasets") and not section.get("datasets"):
                yield f"{path}: give 'datasets' to train on, or 'pretrained' with the folder of a finished one"
            yield from unknown(f"{path}.datasets", "datasets", section.get("datasets"))
            if kind == "models":
                yield from unknown(f"{path}.tokenizer", "tokenizers", section.get("tokenizer"))
                yield from _warmup_problems(path, section, given)
    for name, section in given.get("generation", {}).items():
        yield from unknown(f"generation.{name}.dataset", "datasets", section.get("dataset"))
    for key in ("reconstruction", "likelihood"):
        yield from unknown(f"evaluation.{key}", "datasets", given.get("evaluation", {}).get(key))
    if "tokenizers" in given.get("models", {}):
        yield "models.tokenizers: this name is taken (results of tokenizers are kept under it); choose another"


def _warmup_problems(path: str, section: Mapping, given: Mapping) -> Iterator[str]:
    warmup = section.get("warmup", {})
    if "model" in warmup and warmup["model"] not in given["models"]:
        yield f"{path}.warmup.model: models has no {warmup['model']!r}; there: {', '.join(sorted(given['models']))}"
    from_scratch = (
        warmup.get("source", "scratch") == "scratch" and "model" not in warmup and "pretrained" not in section
    )
    if "network" in section and not from_scratch:
        yield f"{path}.network: would have no effect: the weights of the warm-up's source bring their own size"
    if given.get("datasets") and from_scratch and "network" not in section:
        yield f"{path}.network: needed for warmup.source 'scratch': the size of the network"


def _explain(error: ValidationError) -> str:
    path = ".".join(str(part) for part in error.absolute_path) or "(top level)"
    if error.validator == "additionalProperties":
        known = set(error.schema.get("properties", {}))
        unknown = sorted(set(error.instance) - known)
        return f"{path}: unknown key {', '.join(map(repr, unknown))}; allowed: {', '.join(sorted(known))}"
    if error.validator in ("oneOf", "anyOf") and error.context:
        branches = [_explain(part) for part in error.context]
        return f"{path}: {error.instance!r} fits none of what is allowed ({'; '.join(dict.fromkeys(branches))})"
    if error.validator == "const" and "description" in error.schema:
        return f"{path}: {error.schema['description']}"
    if error.validator == "pattern" and "description" in error.schema:
        return f"{path}: {error.instance!r} does not fit: {error.schema['description']}"
    if error.validator in ("propertyNames", "pattern"):
        return f"{path}: {error.instance!r} is not a name: letters, digits, '.', '_', '-'; first a letter or digit"
    return f"{path}: {error.message}"


def complete(value: Any, section: str = "config") -> Any:
    """``value`` with the defaults of ``section`` filled in at every depth; ``value`` itself is not changed."""
    return _complete(value, schema(section))


def defaults(section: str) -> dict:
    """The settings of a section in which nothing is given."""
    return complete({}, section)


def _complete(value: Any, node: Mapping) -> Any:
    if "$ref" in node:
        node = {**schema(node["$ref"].removesuffix(".json")), **{k: v for k, v in node.items() if k != "$ref"}}
    if isinstance(value, Mapping):
        properties = node.get("properties", {})
        filled = {}
        for key, child in properties.items():
            if key in value:
                filled[key] = _complete(value[key], child)
            elif "default" in child:
                filled[key] = _complete(child["default"], child)
            elif "$ref" in child and "default" in (referred := schema(child["$ref"].removesuffix(".json"))):
                filled[key] = _complete(referred["default"], child)
        others = node.get("additionalProperties")
        for key, item in value.items():
            if key not in properties:
                filled[key] = _complete(item, others) if isinstance(others, Mapping) else item
        return filled
    if isinstance(value, list) and isinstance(node.get("items"), Mapping):
        return [_complete(item, node["items"]) for item in value]
    return value


def section(configuration: Mapping, kind: str, name: str) -> dict:
    """The settings ``configuration[kind][name]``, for example kind ``tokenizers`` and name ``demo``.

    Raises
    ------
    ConfigError
        If there is none; the message lists those there are.
    """
    named = configuration.get(kind, {})
    if name not in named:
        there = ", ".join(sorted(named)) or "none"
        raise ConfigError(f"{kind}.{name}: not in the configuration; {kind} there: {there}")
    return named[name]


def build(settings: type[Settings], values: Mapping) -> Settings:
    """Make the frozen dataclass ``settings`` from a completed section; nested mappings become nested dataclasses.

    Lists become tuples, so that settings can be hashed and compared.
    """
    hints = typing.get_type_hints(settings)
    fields = {field.name for field in dataclasses.fields(settings)}
    unknown = set(values) - fields
    if unknown:
        raise ConfigError(f"{settings.__name__}: unknown key {', '.join(sorted(unknown))}")
    return settings(**{key: _convert(hints[key], value) for key, value in values.items()})


def _convert(hint: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        for option in options:
            if dataclasses.is_dataclass(option):
                return build(option, value)
        return value
    return tuple(value) if isinstance(value, list) else value

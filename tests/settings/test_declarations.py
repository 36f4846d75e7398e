"""Requirements on the declarations of keys, from which the manual and the JSON Schema are derived."""

import json
from pathlib import Path
from typing import Annotated

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter
from pydantic_core import PydanticUndefined

from dplm2.settings import Configuration, Section, load
from dplm2.settings.evaluation import EvaluationSettings
from dplm2.settings.fields import Meaning, meaning_of
from dplm2.settings.manual import _inner_sections, keys, manual
from dplm2.settings.roles import files_named, plain
from tests.settings.example import WHOLE

ROOT = Path(__file__).parents[2]
SHIPPED = [ROOT / "config.yaml", *sorted((ROOT / "config").glob("*.yaml"))]
NAMED = {"datasets", "tokenizers", "models", "generation", "representations", "proteingym"}


def sections(model: type[Section], place: str = "") -> list[tuple[str, type[Section]]]:
    """Every section of a settings model with its path, the model itself first."""
    found = [(place, model)]
    for key, info in model.model_fields.items():
        annotation = info.annotation.__args__[1] if not place and key in NAMED else info.annotation
        for inner in _inner_sections(annotation):
            found += sections(inner, f"{place}.{key}".lstrip("."))
    return found


SECTIONS = sections(Configuration)
FIELDS = [(f"{place}.{key}".lstrip("."), m, key) for place, m in SECTIONS for key in m.model_fields]


def test_manual_lists_the_same_sections():
    """The sections of this test and the rows of the manual are the same."""
    top = [(place, info) for place, info in keys(Configuration, "")]
    named = [row for kind in NAMED for row in keys(Configuration.model_fields[kind].annotation.__args__[1], kind)]
    assert sorted(place for place, _ in top + named) == sorted(place for place, *_ in FIELDS)
    assert len(FIELDS) > 200


@pytest.mark.parametrize(("place", "model", "key"), FIELDS, ids=[place for place, *_ in FIELDS])
def test_fields_have_description_role_and_valid_default(place, model, key):
    info = model.model_fields[key]
    meaning = meaning_of(info)
    assert len(info.description) >= 15, "say what the key means"
    assert (
        info.description[0].isupper()
        or info.description[0] in "`.0123456789"
        or info.description.startswith(tuple(_words_of(info)))
    ), info.description
    assert info.description.rstrip()[-1] in ".)"
    assert "  " not in info.description
    assert isinstance(meaning, Meaning) and meaning.role in ("decides", "operates", "refers")
    assert not (meaning.files or meaning.hub) or meaning.role == "refers"
    assert info.is_required() or info.default is not PydanticUndefined
    if not info.is_required() and info.default != {}:
        TypeAdapter(Annotated[info.annotation, info]).validate_python(info.default)


def _words_of(info) -> list[str]:
    """The words that a field accepts: a description may begin with one of them."""
    return [str(word) for word in getattr(info.annotation, "__args__", ()) if isinstance(word, str)]


@pytest.mark.parametrize(("place", "model"), SECTIONS, ids=[place or "whole" for place, _ in SECTIONS])
def test_default_sections_are_valid(place, model):
    required = [key for key, info in model.model_fields.items() if info.is_required()]
    if required:
        pytest.skip("has keys that must be given")
    made = model.make()
    assert made == model() == model.restored(plain(made)) == model.make(**plain(made))
    chosen = {"self"} if model is EvaluationSettings else set()  # a selected backend has its section
    assert {key for key in model.model_fields if made.differs(key)} == chosen


@pytest.mark.parametrize("path", SHIPPED, ids=[path.name for path in SHIPPED])
def test_shipped_configurations_are_valid(path):
    load(path)


def test_manual_is_up_to_date():
    written = (ROOT / "config" / "README.md").read_text(encoding="utf-8")
    assert written == manual(), "run: python -m dplm2.settings.manual > config/README.md"


def test_manual_has_a_row_per_key():
    text = manual()
    for place, _, _ in FIELDS:
        kind, _, rest = place.partition(".")
        shown = f"| `{kind}.<name>.{rest}` |" if kind in NAMED and rest else f"| `{place}` |"
        assert shown in text or f"## `{place}`" in text, place


def test_schema_accepts_the_same_values_and_states_roles():
    schema = Configuration.model_json_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for path in (ROOT / "config.yaml", ROOT / "config" / "small.yaml", ROOT / "config" / "warmup.yaml"):
        assert list(validator.iter_errors(yaml.safe_load(path.read_text(encoding="utf-8")))) == []
    assert list(validator.iter_errors(json.loads(json.dumps(WHOLE)))) == []
    for wrong in ({"sede": 1}, {"seed": -1}, {"device": "tpu"}, {"datasets": {"a": {"shards": "many"}}}):
        assert list(validator.iter_errors(wrong)), wrong
    for definition in [schema, *schema["$defs"].values()]:
        assert definition["additionalProperties"] is False
        for name, node in definition["properties"].items():
            assert node["role"] in ("decides", "operates", "refers"), name
            # If a section has the same description as its key, the schema has it once.
            described = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node
            assert node.get("description") or described["description"], name


def test_files_named_by_settings_are_found():
    found = {(reference.place, reference.path) for reference in files_named(load(WHOLE).tokenizers["trained"])}
    assert found == {("initial", "start"), ("encoder.weights", "if1.pt")}
    evaluation = {reference.place for reference in files_named(load(WHOLE).evaluation)}
    assert evaluation == {"foldseek.database"}  # folder/esmfold looks like a hub id and is not a folder here

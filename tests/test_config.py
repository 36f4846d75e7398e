"""The configuration's edge: every mistake is named with its key, and nothing is filled in that was given."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from dplm2 import config
from dplm2.errors import ConfigError

SECTIONS = sorted(path.stem for path in config.SCHEMA_FOLDER.glob("*.json"))

# Keys that stand for something only where they are given; their descriptions say what it means to leave them out.
WITHOUT_DEFAULT = {
    "tokenizer": ("datasets", "pretrained"),
    "model": ("datasets", "pretrained", "warmup.model"),
    "evaluation": ("self", "esmfold"),
}


def keys_of(node: dict, path: str = "") -> list[tuple[str, dict, bool]]:
    found = []
    for name, child in node.get("properties", {}).items():
        found.append((f"{path}{name}", child, name in node.get("required", ())))
        found += keys_of(child, f"{path}{name}.")
    return found


@pytest.mark.parametrize("section", SECTIONS)
def test_schema_is_valid_closed_and_explained(section):
    node = config.schema(section)
    Draft202012Validator.check_schema(node)
    assert node["additionalProperties"] is False
    for path, child, required in keys_of(node):
        assert child.get("description") or "$ref" in child, f"{section}: {path} has no description"
        closed = child.get("type") == "object"  # a section that is absent unless it is given
        optional = path in WITHOUT_DEFAULT.get(section, ())
        assert "default" in child or required or "$ref" in child or closed or optional, path
        if "default" in child and not isinstance(child["default"], dict):
            assert not list(Draft202012Validator(child, registry=config._registry()).iter_errors(child["default"])), (
                path
            )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sede": 1}, "unknown key 'sede'; allowed: datasets, device"),
        ({"seed": "one"}, "seed: 'one' is not of type 'integer'"),
        ({"seed": -1}, "seed: -1 is less than the minimum of 0"),
        ({"device": "tpu"}, "device: 'tpu' is not one of ['auto', 'cpu', 'cuda', 'mps']"),
        ({"datasets": {"../up": {"files": "x"}}}, "is not a name"),
        ({"datasets": {"a": {}}}, "datasets.a: give either 'files', or 'fetch' with a list"),
        (
            {"datasets": {"a": {"files": "x", "fetch": {"list": "y"}}}},
            "datasets.a: give either 'files', or 'fetch' with a list",
        ),
        ({"datasets": {"a": {"fetch": {}}}}, "datasets.a.fetch: 'list' is a required property"),
        ({"tokenizers": {"t": {"datasets": ["a"], "training": {"steps": -5}}}}, "tokenizers.t.training.steps: -5"),
        (
            {"datasets": {"a": {"files": "x"}}, "tokenizers": {"t": {"datasets": ["b"]}}},
            "tokenizers.t.datasets: datasets has no 'b'; there: a",
        ),
        (
            {"tokenizers": {"t": {"pretrained": "folder", "training": {"steps": 5}}}},
            "training would have no effect beside 'pretrained'",
        ),
    ],
)
def test_mistakes_are_named(given, message):
    with pytest.raises(ConfigError) as caught:
        config.load(given)
    assert message in str(caught.value)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        config.load({"seed": -1, "device": "tpu"})
    assert "seed:" in str(caught.value)
    assert "device:" in str(caught.value)


def test_file_and_text_and_mapping_are_equal(tmp_path):
    given = {"seed": 3, "datasets": {"mine": {"files": "folder"}}}
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(given))
    assert config.load(path) == config.load(json.dumps(given)) == config.load(given)


def test_given_values_are_kept_and_defaults_are_filled_in_at_depth():
    given = {"tokenizers": {"t": {"datasets": ["a"], "quantizer": {"bits": 5}}}}
    completed = config.load(given)["tokenizers"]["t"]
    assert completed["quantizer"]["bits"] == 5
    assert completed["training"] == config.defaults("training")
    assert "encoder" not in given["tokenizers"]["t"]


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001"])
def test_numbers_with_exponents_are_numbers_however_they_are_spelt(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(f"tokenizers: {{t: {{training: {{learning_rate: {text}}}}}}}")
    completed = config.load(path)
    assert completed["tokenizers"]["t"]["training"]["learning_rate"] == 1e-4
    assert config.load(json.dumps(completed)) == completed


def test_text_becomes_what_the_schema_wants_and_names_stay_text():
    given = {
        "seed": "7",
        "datasets": {"1": {"files": "5", "filters": {"max_length": "null", "deduplicate": "false"}}},
        "generation": {"g": {"task": "co-generation", "lengths": ["50", "60"], "samples": "2"}},
        "tokenizers": {"t": {"datasets": ["1"], "training": {"betas": ["0.9", "0.95"]}}},
    }
    completed = config.load(given)
    assert completed["seed"] == 7
    assert completed["datasets"]["1"]["files"] == "5"
    assert completed["datasets"]["1"]["filters"]["max_length"] is None
    assert completed["datasets"]["1"]["filters"]["deduplicate"] is False
    assert completed["generation"]["g"]["lengths"] == [50, 60]
    assert completed["tokenizers"]["t"]["training"]["betas"] == [0.9, 0.95]


@pytest.mark.parametrize(("text", "message"), [("a: [", "not YAML"), ("- a\n", "a mapping of keys")])
def test_broken_files(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        config.load(path)


def test_missing_file_is_named():
    with pytest.raises(ConfigError, match="nowhere.yaml"):
        config.load("nowhere.yaml")


def test_every_shipped_configuration_is_valid():
    root = Path(__file__).parents[1]
    for path in [root / "config.yaml", *sorted((root / "config").glob("*.yaml"))]:
        config.load(path)

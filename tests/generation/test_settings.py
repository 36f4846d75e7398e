"""Settings of generation tasks: the schema, the paper's values, and keys without effect."""

import dataclasses

import pytest

from dplm2 import config
from dplm2.errors import ConfigError
from dplm2.language import heads
from dplm2.language.schedule import Strategy
from dplm2.language.vocabulary import TRACKS
from dplm2.settings.generation import TASKS, GenerationSettings, resolve


def test_fields_are_the_keys_of_the_schema():
    schema = config.schema("generation")
    assert {field.name for field in dataclasses.fields(GenerationSettings)} == set(schema["properties"])
    assert set(schema["task_defaults"]) == set(TASKS) == set(schema["properties"]["task"]["enum"])
    for key, node in schema["properties"].items():
        assert node["description"] and (key == "task" or "default" in node)
        assert set(node.get("tasks", TASKS)) <= set(TASKS)


def test_values_of_the_paper():
    designed, folded = resolve({"task": "co-generation"}), resolve({"task": "folding"})
    assert (designed.steps, designed.unmasking) == (500, "stochastic@1.0")
    assert (designed.lengths, designed.samples) == ((100, 200, 300, 400, 500), 100)
    assert set(designed.sampler.strategy.values()) == {Strategy.parse("annealing@2.0:0.1")}
    assert {designed.sampler.nucleus_of(track) for track in TRACKS} == {0.95}
    assert (folded.steps, folded.strategy, folded.unmasking) == (100, "argmax", "deterministic")
    assert folded.lengths is None


@pytest.mark.parametrize("task", TASKS)
def test_a_completed_section_resolves_to_the_same(task):
    section = {"task": task, "steps": 7}
    assert resolve(config.complete(section, "generation")) == resolve(section)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"task": "folding", "lengths": [100]},
            "lengths: has no effect on this task, only on co-generation, sequence",
        ),
        ({"task": "co-generation", "problems": ["a.yaml"]}, "problems: has no effect on this task"),
        ({"task": "co-generation", "guidance": 2.0}, "guidance: has no effect on this task"),
        ({"task": "backbone", "amino_acids": "official"}, "amino_acids: has no effect on this task"),
        ({"task": "folding", "strategy": "hot"}, "strategy: 'hot' fits none .* a strategy is argmax, gumbel_argmax"),
        ({"task": "folding", "unmasking": "stochastic1.0"}, "'stochastic1.0' fits none .* unmasking is deterministic"),
        ({"task": "folding", "strategy": {"structure": "argmax"}}, "'sequence' is a required property"),
        ({"task": "sequence", "lengths": [0]}, "lengths"),
        ({"task": "sequence", "lengths": {"minimum": 9, "maximum": 5}}, "lengths: minimum 9 is above maximum 5"),
        (
            {"task": "sequence", "lengths": [5], "dataset": "demo"},
            "lengths: lengths come from a list, a range or `dataset`, not from two",
        ),
        ({"task": "folding", "split": "test"}, "split: has no effect without `dataset`"),
        ({"task": "folding", "temperature": 2}, "unknown key 'temperature'; allowed: .*strategy"),
        ({"task": "dream"}, "task: 'dream' is not one of"),
        ({"task": "inverse-folding", "fixed": "3-"}, "fixed: .*'3-' does not fit: Residues, counted from 1"),
    ],
)
def test_wrong_sections_are_refused(section, message):
    with pytest.raises(ConfigError, match=message):
        resolve(section)


def test_the_workflow_refuses_them_before_any_job():
    with pytest.raises(ConfigError, match="generation.fold.lengths: has no effect on this task, only on co-generation"):
        config.load({"generation": {"fold": {"task": "folding", "lengths": [5]}}})


def test_what_the_schema_refuses_and_what_a_key_has_an_effect_on_agree():
    for key, node in config.schema("generation")["properties"].items():
        other = {"integer": 99, "number": 0.7, "array": ["x"], "string": "train"}
        kinds = [node["type"]] if isinstance(node.get("type"), str) else node.get("type", ["integer"])
        value = next(
            v
            for v in [node.get("enum", [None])[-1], node.get("enum", [None])[0], other[kinds[0]]]
            if v not in (None, node.get("default"))
        )
        for task in TASKS:
            wrong = list(
                config.problems_of(
                    {"task": task, key: value, **({"dataset": "d"} if key == "split" else {})}, "generation"
                )
            )
            assert any("has no effect on this task" in line for line in wrong) == (task not in node.get("tasks", TASKS))


def test_what_decides_a_sample_leaves_out_what_does_not():
    short, long = resolve({"task": "sequence", "samples": 3}), resolve({"task": "sequence", "samples": 5})
    assert short.sampling == long.sampling != resolve({"task": "sequence", "steps": 3}).sampling
    assert "lengths" in short.described and "problems" not in short.described


def test_each_track_may_have_its_own_strategy():
    both = {"structure": "argmax", "sequence": "temperature@0.5"}
    sampler = resolve({"task": "co-generation", "strategy": both}).sampler
    assert sampler.strategy["structure"].kind == "argmax" and sampler.strategy["sequence"].first == 0.5


def test_steps_can_be_bounded_by_the_length():
    settings = resolve({"task": "co-generation", "steps": 500, "steps_per_residue": 1})
    assert [settings.steps_for(length) for length in (1, 100, 600)] == [1, 100, 500]


def test_what_is_left_to_the_model_is_its_heads():
    """DPLM-2 Bit: ``generate`` of the authors' dplm2_bit.py. What is given stays, whatever the head."""
    bits = heads.HEADS["bits"].sampling
    designed, folded = (resolve({"task": task}).for_head(bits) for task in ("co-generation", "folding"))
    assert designed.strategy == "annealing@1.1:0.1" and designed.nucleus == {"structure": 1.0, "sequence": 0.95}
    assert designed.sampler.nucleus_of("structure") == 1.0 and folded.strategy == "argmax"
    given = resolve({"task": "co-generation", "strategy": "annealing@2.0:1.0", "nucleus": 0.5}).for_head(bits)
    assert (given.strategy, given.nucleus) == ("annealing@2.0:1.0", 0.5)

"""Settings of generation tasks: the paper's values, and keys without effect."""

import pytest

from dplm2.core.errors import ConfigError
from dplm2.language import heads
from dplm2.language.schedule import Strategy, Unmasking, sampler_settings
from dplm2.language.vocabulary import TRACKS
from dplm2.settings import load
from dplm2.settings.fields import meaning_of
from dplm2.settings.generation import TASK_DEFAULTS, TASKS, GenerationSettings
from dplm2.settings.roles import plain

# A value of each key that only some tasks read, other than its default.
OTHER = {
    "dataset": "d",
    "split": "train",
    "lengths": [9],
    "problems": ["x"],
    "references": "x",
    "motif_tokens": "motif",
    "fixed": "5",
    "mask_sequence": "5",
    "mask_structure": "5",
    "renoise": 0.7,
    "guidance": 0.7,
    "amino_acids": "official",
    "format": "none",
    "trajectory": 99,
}


def test_task_defaults_are_the_papers():
    designed, folded = GenerationSettings.make(task="co-generation"), GenerationSettings.make(task="folding")
    assert (designed.steps, designed.unmasking) == (500, None)  # left to the model
    assert (designed.lengths, designed.samples) == ((100, 200, 300, 400, 500), 100)
    sampler = sampler_settings(designed)
    assert set(sampler.strategy.values()) == {Strategy.parse("annealing@2.0:0.1")}
    assert {sampler.nucleus_of(track) for track in TRACKS} == {0.95}
    assert set(sampler.unmasking.values()) == {Unmasking.parse("stochastic@1.0")}
    assert (folded.steps, folded.strategy, folded.unmasking) == (100, "argmax", "deterministic")
    assert folded.lengths is None


@pytest.mark.parametrize("task", ["folding", "inverse-folding"])
@pytest.mark.parametrize("key", ["samples", "best_of"])
def test_several_samples_of_a_chain_are_drawn_at_random_by_default(task, key):
    assert GenerationSettings.make(task=task, **{key: 3}).strategy == "annealing@1.0:0.1"
    assert GenerationSettings.make(task=task, **{key: 1}).strategy == "argmax"
    assert GenerationSettings.make(task=task, strategy="temperature@0.1", **{key: 3}).strategy == "temperature@0.1"
    noisy = GenerationSettings.make(task=task, strategy="argmax", unmasking="stochastic@1.0", **{key: 3})
    assert noisy.strategy == "argmax"  # which positions are unmasked first is drawn
    with pytest.raises(ConfigError, match=f"{key}: 3 equal results, since strategy argmax"):
        GenerationSettings.make(task=task, strategy="argmax", **{key: 3})


def test_argmax_is_allowed_if_samples_differ_in_other_ways():
    likeliest = {"strategy": "argmax", "unmasking": "deterministic", "samples": 3}
    for others in (
        {"task": "co-generation", "lengths": {"minimum": 5, "maximum": 9}},
        {"task": "sequence", "dataset": "demo"},
        {"task": "scaffolding", "problems": ["a.yaml"]},
        {"task": "infilling", "renoise": 0.5},
    ):
        assert GenerationSettings.make(**likeliest, **others).strategy == "argmax"
    with pytest.raises(ConfigError, match="samples: 3 equal results"):
        GenerationSettings.make(**likeliest, task="co-generation", lengths=[50])


@pytest.mark.parametrize("task", TASKS)
def test_completed_section_is_read_back_equal(task):
    made = GenerationSettings.make(task=task, steps=7)
    assert GenerationSettings.make(**plain(made)) == made
    assert GenerationSettings.make(**dict.fromkeys(TASK_DEFAULTS[task]), task=task).replaced(steps=7) == made


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"task": "folding", "lengths": [100]},
            r"lengths: has no effect on this task \(folding\), only on co-generation, sequence",
        ),
        ({"task": "co-generation", "problems": ["a.yaml"]}, "problems: has no effect on this task"),
        ({"task": "co-generation", "guidance": 2.0}, "guidance: has no effect on this task"),
        ({"task": "backbone", "amino_acids": "official"}, "amino_acids: has no effect on this task"),
        ({"task": "folding", "strategy": "hot"}, "strategy: 'hot': must be argmax, gumbel_argmax, .* temperature@T"),
        ({"task": "folding", "unmasking": "stochastic1.0"}, "unmasking: 'stochastic1.0': must be deterministic"),
        ({"task": "folding", "strategy": {"structure": "argmax"}}, "strategy.sequence: missing"),
        ({"task": "sequence", "lengths": [0]}, "lengths.0: 0: must be at least 1"),
        ({"task": "sequence", "lengths": {"minimum": 9, "maximum": 5}}, r"lengths.minimum: 9 is above maximum \(5\)"),
        (
            {"task": "sequence", "lengths": [5], "dataset": "demo"},
            "lengths: give either a list, a range or `dataset`",
        ),
        ({"task": "folding", "split": "test"}, "split: has no effect without `dataset`"),
        ({"task": "folding", "temperature": 2}, "unknown key 'temperature'; allowed: .*strategy"),
        ({"task": "dream"}, "task: 'dream': must be one of 'co-generation'"),
        ({"task": "inverse-folding", "fixed": "3-"}, "fixed: '3-': must be residues counted from 1"),
    ],
)
def test_invalid_sections_are_refused(section, message):
    with pytest.raises(ConfigError, match=message):
        GenerationSettings.make(**section)


def test_workflow_refuses_invalid_sections_before_any_job():
    with pytest.raises(ConfigError, match="generation.fold.lengths: has no effect on this task .*only on co-gener"):
        load({"generation": {"fold": {"task": "folding", "lengths": [5]}}})


def test_keys_are_refused_only_by_tasks_without_them():
    readers = {key: meaning_of(info).readers for key, info in GenerationSettings.model_fields.items()}
    assert {key for key, read in readers.items() if read is not None} == set(OTHER)
    for key, value in OTHER.items():
        for task in TASKS:
            dataset = {"dataset": "d"} if key == "split" else {}
            try:
                GenerationSettings.make(task=task, **dataset, **{key: value})
                message = ""
            except ConfigError as error:
                message = str(error)
            assert (f"{key}: has no effect on this task" in message) == (task not in readers[key]), (key, task)


def test_settings_of_a_sample_exclude_the_number_of_samples():
    short, long, other = (
        GenerationSettings.make(task="sequence", **values) for values in ({"samples": 3}, {"samples": 5}, {"steps": 3})
    )
    assert short.sampling == long.sampling != other.sampling
    assert "lengths" in short.described and "problems" not in short.described


def test_each_track_may_have_its_own_strategy():
    both = {"structure": "argmax", "sequence": "temperature@0.5"}
    sampler = sampler_settings(GenerationSettings.make(task="co-generation", strategy=both))
    assert sampler.strategy["structure"].kind == "argmax" and sampler.strategy["sequence"].first == 0.5


def test_steps_can_be_limited_by_the_length():
    settings = GenerationSettings.make(task="co-generation", steps=500, steps_per_residue=1)
    assert [settings.steps_for(length) for length in (1, 100, 600)] == [1, 100, 500]


def test_defaults_left_to_the_model_are_those_of_its_head():
    """DPLM-2 Bit: ``generate`` of the authors' dplm2_bit.py. Given values take precedence over the head's."""
    bits = heads.HEADS["bits"].sampling
    designed, folded = (GenerationSettings.make(task=task).completed(bits) for task in ("co-generation", "folding"))
    assert designed.strategy == "annealing@1.1:0.1" and plain(designed.nucleus) == {"structure": 1.0, "sequence": 0.95}
    assert sampler_settings(designed).nucleus_of("structure") == 1.0 and folded.strategy == "argmax"
    given = GenerationSettings.make(task="co-generation", strategy="annealing@2.0:1.0", nucleus=0.5).completed(bits)
    assert (given.strategy, given.nucleus) == ("annealing@2.0:1.0", 0.5)

"""Mistakes are reported all at once, each with the key's path, the value and the allowed values."""

import copy

import pytest

from dplm2.core.errors import ConfigError
from dplm2.settings import Configuration, load
from tests.settings.example import WHOLE


def mistakes(given) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(given)
    first, *lines = str(caught.value).split("\n")
    assert first == "the configuration is wrong:"
    assert all(line.startswith("  ") and line[2] != " " for line in lines)
    return [line[2:] for line in lines]


def with_value(place: str, value) -> dict:
    """The example with another value of a key."""
    whole = copy.deepcopy(WHOLE)
    *parents, key = place.split(".")
    inner = whole
    for part in parents:
        inner = inner.setdefault(part, {})
    inner[key] = value
    return whole


def test_example_is_valid():
    load(WHOLE)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("seed", "one", "seed: 'one': must be an integer"),
        ("seed", -1, "seed: -1: must be at least 0"),
        ("seed", 1.5, "seed: 1.5: must be an integer"),
        ("seed", True, "seed: True: must be a number or text, not true or false"),
        ("seed", None, "seed: None: must be an integer"),
        ("seed", [1], "seed: [1]: must be an integer"),
        ("device", "tpu", "device: 'tpu': must be one of 'auto', 'cpu', 'cuda' or 'mps'"),
        ("results", "", "results: '': must be non-empty text"),
        ("results", 5, "results: 5: must be text"),
        ("datasets", [], "datasets: []: must be a mapping of names to values"),
        ("report", "x", "report: 'x': must be a mapping of keys to values"),
        ("datasets.own.files", 3, "datasets.own.files: 3: must be text or a list"),
        ("datasets.own.files", [""], "datasets.own.files.0: '': must be non-empty text"),
        ("datasets.own.filters.max_coil", 2, "datasets.own.filters.max_coil: 2: must be at most 1.0"),
        ("datasets.own.filters.max_resolution", 0, "datasets.own.filters.max_resolution: 0: must be greater than 0.0"),
        ("datasets.own.filters.deduplicate", 1, "datasets.own.filters.deduplicate: 1: must be true or false"),
        (
            "datasets.own.filters.released_after",
            "soon",
            "datasets.own.filters.released_after: 'soon': must be a day, YYYY-MM-DD",
        ),
        (
            "datasets.fetched.fetch.pdb_address",
            "ftp://x/{id}",
            "datasets.fetched.fetch.pdb_address: 'ftp://x/{id}': must be an address (http or https) with {id} for the "
            "entry",
        ),
        ("datasets.fetched.fetch", {}, "datasets.fetched.fetch.list: missing; this key is required"),
        ("tokenizers.trained.training.steps", -5, "tokenizers.trained.training.steps: -5: must be at least 1"),
        (
            "tokenizers.trained.training.devices",
            "some",
            "tokenizers.trained.training.devices: 'some': must be an integer or one of 'auto'",
        ),
        (
            "tokenizers.trained.training.betas",
            [0.5],
            "tokenizers.trained.training.betas.1: missing; this key is required",
        ),
        (
            "tokenizers.trained.training.betas",
            [0.5, 2],
            "tokenizers.trained.training.betas.1: 2: must be less than 1.0",
        ),
        (
            "tokenizers.trained.training.learning_rate",
            float("inf"),
            "tokenizers.trained.training.learning_rate: inf: must be a finite number",
        ),
        (
            "tokenizers.trained.training.loggers",
            ["paper"],
            "tokenizers.trained.training.loggers.0: 'paper': must be one of 'tensorboard' or 'wandb'",
        ),
        (
            "generation.designs.lengths",
            [],
            "generation.designs.lengths: []: must be at least 1 entries or a mapping of keys to values",
        ),
        (
            "generation.designs.lengths",
            [True],
            "generation.designs.lengths: [True]: must be a number or text, not true",
        ),
        ("generation.designs.lengths", {"minimum": 3}, "generation.designs.lengths.maximum: missing"),
        (
            "generation.designs.strategy",
            "hot",
            "generation.designs.strategy: 'hot': must be argmax, gumbel_argmax, gumbel_argmax@T, annealing@HIGH:LOW or "
            "temperature@T",
        ),
        ("evaluation.designable_sc_tm", [0], "evaluation.designable_sc_tm.0: 0: must be greater than 0"),
        (
            "models.scratch.network",
            {"layers": 1, "heads": 2, "intermediate_size": 4},
            "models.scratch.network.hidden_size: missing; this key is required",
        ),
    ],
)
def test_invalid_values_are_reported(place, value, said):
    # Only this one: names of invalid sections are defined nevertheless.
    (found,) = mistakes(with_value(place, value))
    assert found.startswith(said), found


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("sede", "(top level): unknown key 'sede' (did you mean 'seed'?); allowed: datasets, device, evaluation"),
        ("datasets.own.file", "datasets.own: unknown key 'file' (did you mean 'files'?); allowed: clusters"),
        ("datasets.fetched.fetch.lists", "datasets.fetched.fetch: unknown key 'lists' (did you mean 'list'?)"),
        (
            "models.scratch.diffusion.task_ratios.jont",
            "models.scratch.diffusion.task_ratios: unknown key 'jont' (did you mean 'joint'?); allowed: folding, "
            "independent, inverse_folding, joint, single_modality",
        ),
        ("generation.folding.temperature", "generation.folding: unknown key 'temperature'; allowed: amino_acids"),
        (
            "generation.designs.lengths.minium",
            "generation.designs.lengths: unknown key 'minium' (did you mean 'minimum'",
        ),
        ("evaluation.esmfold.recycle", "evaluation.esmfold: unknown key 'recycle' (did you mean 'recycles'?)"),
    ],
)
def test_unknown_key_suggests_a_similar_one(place, said):
    (found,) = mistakes(with_value(place, 1))
    assert found.startswith(said), found


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "../up",
            "datasets: '../up' is not a name: must be letters, digits, '.', '_' and '-', beginning with a letter",
        ),
        (".hidden", "datasets: '.hidden' is not a name"),
        ("", "datasets: '' is not a name"),
        ("a b", "datasets: 'a b' is not a name"),
        ("ä", "datasets: 'ä' is not a name"),
        ("a\n", "datasets: 'a\\n' is not a name"),
        (
            7,
            "datasets: 7 is not a name: must be letters, digits, '.', '_' and '-', beginning with a letter or digit",
        ),
        (None, "datasets: None is not a name"),
        (True, "datasets: True is not a name"),
    ],
)
def test_names_must_be_safe_file_names(name, said):
    (found,) = mistakes({"datasets": {name: {"files": "x"}}})
    assert found.startswith(said), found


def test_non_text_key_is_unknown():
    assert mistakes({1: 2})[0].startswith("(top level): unknown key '1'; allowed: datasets")
    assert mistakes({"report": {None: 2}})[0].startswith("report: unknown key 'None'; allowed: ")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (
            "tokenizers.trained.datasets",
            ["owm"],
            "tokenizers.trained.datasets: datasets has no 'owm'; available: fetched, own",
        ),
        (
            "models.scratch.datasets",
            ["x", "own"],
            "models.scratch.datasets: datasets has no 'x'; available: fetched, own",
        ),
        (
            "models.scratch.tokenizer",
            "x",
            "models.scratch.tokenizer: tokenizers has no 'x'; available: finished, hub, trained",
        ),
        (
            "models.second.warmup.model",
            "x",
            "models.second.warmup.model: models has no 'x'; available: finished, scratch",
        ),
        ("models.second.warmup.model", "second", "models.second.warmup.model: the model would start from itself"),
        ("generation.folding.dataset", "x", "generation.folding.dataset: datasets has no 'x'; available: fetched, own"),
        ("evaluation.reconstruction", ["x"], "evaluation.reconstruction: datasets has no 'x'; available: fetched, own"),
        ("evaluation.likelihood", ["x"], "evaluation.likelihood: datasets has no 'x'; available: fetched, own"),
    ],
)
def test_undefined_names_are_reported(place, value, said):
    (found,) = mistakes(with_value(place, value))
    assert found.startswith(said), found


def test_circular_model_sources_are_refused():
    whole = with_value("models.third", {"tokenizer": "hub", "datasets": ["own"], "warmup": {"model": "second"}})
    load(whole)
    whole["models"]["second"]["warmup"]["model"] = "third"
    assert mistakes(whole) == [
        f"models.{name}.warmup.model: the model would start from itself" for name in ("second", "third")
    ]


@pytest.mark.parametrize(("kind", "name"), [("models", "tokenizers"), ("generation", "likelihood")])
def test_reserved_names_are_refused(kind, name):
    section = {"models": {"tokenizer": "hub", "datasets": ["own"]}, "generation": {"task": "sequence"}}[kind]
    (found,) = mistakes(with_value(f"{kind}.{name}", section))
    assert found.startswith(f"{kind}.{name}: this name is reserved")


def test_section_without_datasets_may_refer_to_undefined_ones():
    assert load({"models": {"m": {"tokenizer": "t", "datasets": ["d"]}}}).models["m"].tokenizer == "t"
    assert mistakes({"datasets": {}, "models": {"m": {"tokenizer": "t", "datasets": ["d"]}}}) == [
        "models.m.datasets: datasets has no 'd'; available: none"
    ]


def test_all_mistakes_are_reported_at_once():
    """Values, keys, contradictions, keys without effect, and names, in valid and invalid sections."""
    whole = with_value("seed", -1)
    whole["devise"] = "cpu"
    whole["datasets"]["own"]["shards"] = 0
    whole["tokenizers"]["trained"]["encoder"]["heads"] = 7
    whole["tokenizers"]["trained"]["datasets"] = ["nowhere"]
    whole["tokenizers"]["trained"]["loss"]["fape"] = 0.0
    whole["tokenizers"]["trained"]["loss"]["fape_clamp"] = 5.0
    whole["models"]["scratch"]["diffusion"]["task_ratios"]["joint"] = 0.9
    whole["models"]["scratch"]["training"]["betas"] = "many"
    whole["models"]["scratch"]["tokenizer"] = "absent"
    whole["generation"]["folding"]["lengths"] = [5]
    whole["generation"]["folding"]["dataset"] = "missing"
    whole["evaluation"]["likelihood"] = ["void"]
    places = {line.split(": ")[0] for line in mistakes(whole)}
    assert places == {
        "seed",
        "(top level)",
        "datasets.own.shards",
        "tokenizers.trained.encoder.heads",
        "tokenizers.trained.datasets",
        "tokenizers.trained.loss.fape_clamp",
        "models.scratch.diffusion.task_ratios",
        "models.scratch.training.betas",
        "models.scratch.tokenizer",
        "generation.folding.lengths",
        "generation.folding.dataset",
        "evaluation.likelihood",
    }


def test_mistakes_are_reported_once():
    found = mistakes(with_value("tokenizers.trained.training.accumulate", 4))
    assert len(found) == len(set(found)) == 1


def test_long_values_are_shortened():
    (found,) = mistakes({"seed": "x" * 5000})
    assert len(found) < 120


def test_missing_required_keys_are_reported():
    open_ = {
        "datasets": {"d": {}},
        "tokenizers": {"t": {}},
        "models": {"m": {"tokenizer": "t"}, "n": {"tokenizer": "t", "datasets": ["d"]}},
        "generation": {
            "fold": {"task": "folding"},
            "motifs": {"task": "scaffolding"},
            "loops": {"task": "infilling"},
            "free": {"task": "sequence"},
        },
    }
    found = list(load(open_).missing_for_a_run())
    assert [line.split(": ")[0] for line in found] == [
        "datasets.d",
        "tokenizers.t",
        "models.m",
        "models.m.network",
        "models.n.network",
        "generation.fold.dataset",
        "generation.motifs.problems",
        "generation.loops.dataset",
    ]
    assert list(load(WHOLE).missing_for_a_run()) == []
    assert list(Configuration().missing_for_a_run()) == []

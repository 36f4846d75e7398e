"""The paper's presets are complete, valid, and agree with the paper."""

from pathlib import Path

import pytest

from dplm2.language import heads
from dplm2.language.vocabulary import Vocabulary
from dplm2.settings import load
from dplm2.settings.roles import plain

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "config"
PRESETS = ("paper_150m", "paper_650m", "paper_3b", "ablations")
BIT = "paper_bit_650m"
DEVICES = 8  # DPLM-2, section 3.3: eight A100; one batch for each
TOKENS_PER_DEVICE = 2 * 8192


@pytest.mark.parametrize("name", [*PRESETS, BIT])
def test_preset_is_complete_and_consistent(name):
    for model in load(FOLDER / f"{name}.yaml").models.values():
        training = model.training
        steps = 300_000 if name == BIT else 100_000
        assert (training.steps, training.warmup, training.learning_rate) == (steps, 2000, 1e-4)
        assert training.last_learning_rate == 1e-5 and training.gradient_clip == 0.5
        assert training.token_budget * training.accumulate == DEVICES * TOKENS_PER_DEVICE
        assert model.diffusion.steps == 500


@pytest.mark.parametrize("name", [*PRESETS, BIT])
def test_the_tokenizer_is_trained_on_five_chains_for_each_device(name):
    """The authors' structok_lfq_8k_pdb_swissprot_c512.yaml: batch_size 5 per device, crop_size 512."""
    [tokenizer] = load(FOLDER / f"{name}.yaml").tokenizers.values()
    training, crop = tokenizer.training, tokenizer.loss.crop
    assert training.devices == "auto"
    assert (training.max_batch_size, training.token_budget, training.accumulate) == (5, 5 * crop, DEVICES)


@pytest.mark.parametrize("name", [*PRESETS, BIT])
def test_chains_pass_the_filters_of_the_authors(name):
    """Tokenizer: ``filter`` of the same file. Language model: ``preprocess_dataset`` in their tokenized_protein.py."""
    datasets = load(FOLDER / f"{name}.yaml").datasets
    shared = {"min_length": 60, "max_length": 1024, "max_coil": 0.5, "radius_of_gyration_quantile": 0.96}
    language = {"min_plddt": 85, "max_plddt_deviation": 15, "trim_plddt": 70}
    filters = {dataset: plain(section.filters) for dataset, section in datasets.items()}
    assert filters["pdb"].items() >= (shared | dict.fromkeys(language) | {"monomers_only": True}).items()
    assert filters["swissprot"].items() >= (shared | language).items()
    for test_set in ("cameo2022", "pdb_date"):
        assert {filters[test_set][key] for key in (*shared, *language)} == {None}


@pytest.mark.parametrize("name", PRESETS)
def test_self_mixup_is_a_second_stage_of_the_trained_model(name):
    models = load(FOLDER / f"{name}.yaml").models
    second = {model: section for model, section in models.items() if section.diffusion.self_mixup != "off"}
    assert len(second) == 1
    for model, section in second.items():
        assert section.warmup.model == model.removesuffix("-self-mixup")
        assert section.warmup.model in models


def test_ablations_of_the_paper_exist():
    models = load(FOLDER / "ablations.yaml").models
    without = {name for name, section in models.items() if section.warmup.sequence_stage == "never"}
    assert without == {"no-pretraining", "no-pretraining-pdb-only"}
    assert models["pdb-only"].datasets == ("pdb",) and models["full"].datasets == ("pdb", "swissprot")


def test_dplm2_bit_preset_trains_all_weights_with_a_valid_objective():
    """The authors' dplm2_bit_650m.yaml, except for the number of updates, which is from arXiv 2504.11454."""
    [model] = load(FOLDER / f"{BIT}.yaml").models.values()
    heads.make(model.structure_head, Vocabulary(), 8).check(model.diffusion)
    assert (model.structure_head, model.lora.enabled, model.diffusion.self_mixup) == ("bits", False, "off")
    assert model.warmup.embedding_scaling == heads.HEADS["bits"].official.scaling


def test_benchmarks_of_index_models_use_the_papers_temperatures():
    """The default is a later recommendation; DPLM-2's tables use 2.0 to 1.0, DPLM-2 Bit's 1.1 to 0.1."""
    for name in (*PRESETS, BIT, "benchmark"):
        for section in load(FOLDER / f"{name}.yaml").generation.values():
            if section.task not in ("folding", "inverse-folding"):
                assert section.strategy == ("annealing@1.1:0.1" if name == BIT else "annealing@2.0:1.0")

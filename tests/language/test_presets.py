"""The paper's presets: complete, valid, and what the paper says."""

from pathlib import Path

import pytest

from dplm2 import config
from dplm2.language.settings import ModelSettings
from dplm2.training.settings import TrainingSettings

FOLDER = Path(__file__).parents[2] / "config"
PRESETS = ("paper_150m", "paper_650m", "paper_3b", "ablations")
TOKENS_PER_DEVICE = 2 * 8192


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_complete_and_consistent(name):
    whole = config.load(FOLDER / f"{name}.yaml")
    for section in whole["models"].values():
        model = config.build(ModelSettings, section)
        training = config.build(TrainingSettings, model.training)
        training.check()
        assert (training.steps, training.warmup, training.learning_rate) == (100_000, 2000, 1e-4)
        assert training.last_learning_rate == 1e-5 and training.gradient_clip == 0.5
        assert training.token_budget * training.accumulate == TOKENS_PER_DEVICE
        assert model.diffusion.steps == 500
    for section in whole["tokenizers"].values():
        config.build(TrainingSettings, section["training"]).check()


@pytest.mark.parametrize("name", PRESETS)
def test_self_mixup_is_a_second_stage_of_the_trained_model(name):
    models = config.load(FOLDER / f"{name}.yaml")["models"]
    second = {model: section for model, section in models.items() if section["diffusion"]["self_mixup"] != "off"}
    assert len(second) == 1
    for model, section in second.items():
        assert section["warmup"]["model"] == model.removesuffix("-self-mixup")
        assert section["warmup"]["model"] in models


def test_ablations_of_the_paper_are_there():
    models = config.load(FOLDER / "ablations.yaml")["models"]
    without = {name for name, section in models.items() if section["warmup"]["sequence_stage"] == "never"}
    assert without == {"no-pretraining", "no-pretraining-pdb-only"}
    assert models["pdb-only"]["datasets"] == ["pdb"] and models["full"]["datasets"] == ["pdb", "swissprot"]

"""Settings of the loop: one home for defaults, and no key that silently does nothing."""

import dataclasses

import pytest

from dplm2 import config
from dplm2.errors import ConfigError
from dplm2.settings.training import INCIDENTAL, TrainingSettings, decisive

PROPERTIES = config.schema("training")["properties"]


def test_dataclass_and_schema_name_the_same_keys():
    assert {field.name for field in dataclasses.fields(TrainingSettings)} == set(PROPERTIES)
    assert set(PROPERTIES) >= INCIDENTAL
    assert all("default" in key and len(key["description"]) > 20 for key in PROPERTIES.values())


def test_the_defaults_are_the_papers():
    settings = TrainingSettings.make()
    settings.check()
    assert (settings.steps, settings.warmup, settings.learning_rate) == (100_000, 2000, 1e-4)
    assert settings.last_learning_rate == pytest.approx(1e-5)
    assert (settings.betas, settings.weight_decay, settings.gradient_clip) == ((0.9, 0.98), 0.01, 0.5)


@pytest.mark.parametrize(
    "values, key",
    [
        ({"optimizer": "muon", "strategy": "fsdp"}, "optimizer"),
        ({"steps": 10, "warmup_steps": 10}, "warmup_steps"),
        ({"final_learning_rate": 1.0}, "final_learning_rate"),
        ({"schedule": "constant", "decay_power": 2.0}, "decay_power"),
        ({"schedule": "constant", "final_learning_rate": 1e-6}, "final_learning_rate"),
        ({"steps": 100, "warmup_steps": 0, "initial_learning_rate": 1e-6}, "initial_learning_rate"),
        ({"learning_rate": 1e-9}, "initial_learning_rate"),
        ({"weight_decay": 0.0, "decay_all": False}, "decay_all"),
        ({"save_every_seconds": None}, "save_every"),
    ],
)
def test_contradictions_and_keys_without_effect_are_refused(values, key):
    with pytest.raises(ConfigError, match=rf"training\.{key}"):
        TrainingSettings.make(**values).check()


def test_the_schema_refuses_impossible_values():
    for values in ({"steps": 0}, {"loggers": ["paper"]}, {"ema_decay": 1.0}, {"stepps": 5}, {"devices": 0}):
        with pytest.raises(ConfigError):
            TrainingSettings.make(**values)


def test_progress_survives_a_change_of_how_but_not_of_what():
    section = config.defaults("training")
    assert decisive({**section, "log_every": 7, "keep": 9}) == decisive(section)
    assert decisive({**section, "learning_rate": 1.0}) != decisive(section)

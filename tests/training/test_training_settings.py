"""Settings of the loop: defaults in one place, and no key without effect."""

import pytest

from dplm2.core.errors import ConfigError
from dplm2.settings import deciding
from dplm2.settings.training import TrainingSettings


def test_defaults_are_the_papers():
    settings = TrainingSettings()
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
        ({"accumulate": 3, "devices": 2}, "accumulate"),
    ],
)
def test_contradictions_and_keys_without_effect_are_refused(values, key):
    with pytest.raises(ConfigError, match=rf"\n  {key}: "):
        TrainingSettings.make(**values)


def test_impossible_values_are_refused():
    for values in ({"steps": 0}, {"loggers": ["paper"]}, {"ema_decay": 1.0}, {"stepps": 5}, {"devices": 0}):
        with pytest.raises(ConfigError):
            TrainingSettings.make(**values)


def test_progress_survives_only_operational_changes():
    settings = TrainingSettings()
    for change in ({"log_every": 7, "keep": 9}, {"activation_checkpointing": True, "workers": 3}, {"strategy": "ddp"}):
        assert deciding(settings.replaced(**change)) == deciding(settings)
    assert deciding(settings.replaced(accumulate=4, devices=2)) == deciding(settings.replaced(accumulate=4))
    for change in ({"learning_rate": 1.0}, {"accumulate": 2}):
        assert deciding(settings.replaced(**change)) != deciding(settings)

"""Training from the command line on the chains of the fixture ``tokens_folder``."""

import json

from dplm2.cli import main

CODES = 16
TRAINING = {"token_budget": 600, "learning_rate": 5e-3, "warmup_steps": 5, "validate_every": 40, "log_every": 10}


def configuration(**model):
    section = {
        "tokenizer": "t",
        "datasets": ["d"],
        "network": {"hidden_size": 48, "layers": 2, "heads": 4, "intermediate_size": 96},
        "warmup": {"dropout": 0.0, "sequence_training": {"steps": 120, **TRAINING}},
        "diffusion": {"crop_min_length": 10},
        "training": {"steps": 160, **TRAINING},
    }
    whole = {
        "tokenizers": {"t": {"datasets": ["d"]}},
        "datasets": {"d": {"files": "x"}},
        "models": {"m": {**section, **model}},
        "device": "cpu",
    }
    return json.dumps(whole)


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0

"""Contradictory values and keys without effect: each rule of each section."""

import pytest

from dplm2.core.errors import ConfigError
from dplm2.settings import Section
from dplm2.settings.dataset import Clusters, DatasetSettings, Split
from dplm2.settings.designs import RankingSettings
from dplm2.settings.evaluation import EvaluationSettings
from dplm2.settings.generation import GenerationSettings, LengthRange
from dplm2.settings.model import (
    DiffusionSettings,
    LoraSettings,
    ModelSettings,
    NetworkSettings,
    TaskRatios,
    WarmupSettings,
)
from dplm2.settings.representations import RepresentationSettings
from dplm2.settings.tokenizer import (
    DecoderSettings,
    EncoderSettings,
    LossSettings,
    QuantizerSettings,
    TokenizerSettings,
)
from dplm2.settings.training import TrainingSettings

SIZE = {"layers": 1, "heads": 2, "intermediate_size": 8}
COMMAND = {"template": "fold {fasta} {out}"}
MPNN = {"template": "mpnn {pdb} {out}"}
FILE = {"source": "file", "file": "x"}
CO = {"task": "co-generation"}
NO_LOSS = {"fape": 0, "distance": 0, "local_fape": 0, "violation": 0}

# Section, invalid values (with the named key and words of the message), and similar valid values.
CONTRADICTIONS = [
    (Clusters, {"source": "file"}, "file: missing; source: file needs it", FILE),
    (
        Split,
        {"validation_fraction": 0.5, "test_fraction": 0.5},
        "validation_fraction: with test_fraction no training chains are left",
        {"validation_fraction": 0.5, "test_fraction": 0.4},
    ),
    (
        DatasetSettings,
        {"files": "x", "fetch": {"list": "y"}},
        "files: give one of 'files', 'fetch'",
        {"fetch": {"list": "y"}},
    ),
    (
        DatasetSettings,
        {"filters": {"min_length": 600}},
        "filters.min_length: 600 is above max_length (512)",
        {"filters": {"min_length": 600, "max_length": None}},
    ),
    (
        DatasetSettings,
        {"filters": {"one_per_cluster": True}},
        "filters.one_per_cluster: needs clusters",
        {"filters": {"one_per_cluster": True}, "clusters": FILE},
    ),
    (
        TrainingSettings,
        {"steps": 10, "warmup_steps": 10},
        "warmup_steps: 10 is not less than steps (10)",
        {"steps": 10},
    ),
    (
        TrainingSettings,
        {"learning_rate": 1e-4, "final_learning_rate": 1e-3},
        "final_learning_rate: 0.001 is above learning_rate (0.0001)",
        {"learning_rate": 1e-4, "final_learning_rate": 1e-4},
    ),
    (
        TrainingSettings,
        {"learning_rate": 1e-4, "initial_learning_rate": 1e-3},
        "initial_learning_rate: 0.001 is above learning_rate (0.0001)",
        {"learning_rate": 1e-4, "initial_learning_rate": 1e-4},
    ),
    (
        TrainingSettings,
        {"optimizer": "muon", "strategy": "fsdp"},
        "optimizer: muon needs unsharded matrices",
        {"optimizer": "muon", "strategy": "ddp"},
    ),
    (
        TrainingSettings,
        {"save_every_seconds": None},
        "save_every: give this key or",
        {"save_every_seconds": None, "save_every": 5},
    ),
    (
        TrainingSettings,
        {"accumulate": 3, "devices": 2},
        "accumulate: 3 batches per update",
        {"accumulate": 4, "devices": 2},
    ),
    (
        TrainingSettings,
        {"accumulate": 6, "devices": 2, "nodes": 2},
        "accumulate: 6 batches per update cannot be shared evenly by 4 devices",
        {"accumulate": 8, "devices": 2, "nodes": 2},
    ),
    (
        TrainingSettings,
        {"accumulate": 3, "devices": "auto", "nodes": 2},
        "accumulate: 3 batches per update cannot be shared evenly by 2 nodes",
        {"accumulate": 2, "devices": "auto", "nodes": 2},
    ),
    (TrainingSettings, {"devices": 2}, "accumulate: 1 batches per update", {"devices": "auto"}),
    (
        EncoderSettings,
        {"heads": 7, "width": 128},
        "heads: 7 is not a divisor of width (128)",
        {"heads": 4, "width": 128},
    ),
    (
        EncoderSettings,
        {"cached_features": True},
        "cached_features: has no effect",
        {"cached_features": True, "frozen": True},
    ),
    (
        QuantizerSettings,
        {"bits": 6, "bits_per_value": [3, 2], "bound": "tanh"},
        "bits_per_value: adds up to 5, bits is 6",
        {"bits": 5, "bits_per_value": [3, 2], "bound": "tanh"},
    ),
    (
        QuantizerSettings,
        {"bits": 5, "bits_per_value": [3, 2]},
        "bits_per_value: levels are in -1 to 1; bound must be tanh, not none",
        {"bits": 5},
    ),
    (
        QuantizerSettings,
        {"bits": 5, "bits_per_value": [3, 2], "bound": "tanh", "gradual_steps": 5},
        "bits_per_value: bits cannot be enabled one by one",
        {"bits": 5, "gradual_steps": 5},
    ),
    (
        DecoderSettings,
        {"structure_blocks": 0},
        "structure_blocks: 0 requires start: chain",
        {"structure_blocks": 0, "start": "chain"},
    ),
    (
        DecoderSettings,
        {"sequence_head_width": 48},
        "sequence_head_width: 48 is not a divisor of sequence_dim (128)",
        {},
    ),
    (DecoderSettings, {"pairwise_head_width": 12}, "pairwise_head_width: 12 is not a divisor of pair_dim (32)", {}),
    (DecoderSettings, {"post_quant_heads": 7}, "post_quant_heads: 7 is not a divisor of sequence_dim (128)", {}),
    (
        NetworkSettings,
        {"hidden_size": 6, **SIZE},
        "hidden_size: 6 is not a multiple of twice the number of heads (2)",
        {"hidden_size": 8, **SIZE},
    ),
    (TaskRatios, {"joint": 0.9}, ": the fractions sum to 1.65, not to 1", {"joint": 0.0, "independent": 0.25}),
    (
        DiffusionSettings,
        {"max_length": 50},
        "crop_min_length: 60 is above max_length (50)",
        {"max_length": 50, "crop_probability": 0},
    ),
    *[
        (
            ModelSettings,
            {"tokenizer": "t", "structure_head": head, **wrong},
            f"{said} with structure_head {head}" if "classes" in said else said,
            {"tokenizer": "t", "structure_head": "codes", **wrong},
        )
        for head, wrong, said in (
            ("bits", {"diffusion": {"classes": "all"}}, "diffusion.classes: all:"),
            ("pairs", {"diffusion": {"classes": "all"}}, "diffusion.classes: all:"),
            ("bits", {"diffusion": {"unobserved_structure": "unknown"}}, "diffusion.unobserved_structure: unknown:"),
            ("bits", {"warmup": {"structure_tokens": "code"}}, "warmup.structure_tokens: code:"),
        )
    ],
    (LengthRange, {"minimum": 9, "maximum": 5}, "minimum: 9 is above maximum (5)", {"minimum": 5, "maximum": 5}),
    (
        GenerationSettings,
        {**CO, "lengths": [5], "dataset": "d"},
        "lengths: give either a list, a range or `dataset`",
        {**CO, "dataset": "d"},
    ),
    (GenerationSettings, {**CO, "split": "test"}, "split: has no effect without `dataset`", {**CO, "dataset": "d"}),
    (
        GenerationSettings,
        {"task": "folding", "samples": 2, "renoise": 0.5},
        "renoise: has no effect on this task",
        CO,
    ),
    (RankingSettings, {"weights": {}}, "weights: {} gives no ranking", {"weights": {"sc_tm": 0.1}}),
    (RankingSettings, {"weights": {"plddt": 0}}, "weights.plddt: 0 has no effect", {"weights": {"plddt": -1}}),
    (
        RankingSettings,
        {"at_least": {"length": 90}, "at_most": {"length": 80}},
        "at_least.length: 90 is above at_most (80)",
        {"at_least": {"length": 80}, "at_most": {"length": 80}},
    ),
    (
        EvaluationSettings,
        {"folding_backend": "command"},
        "command: missing; folding_backend: command needs it",
        {"folding_backend": "command", "command": COMMAND},
    ),
    (
        EvaluationSettings,
        {"inverse_folding_backend": "proteinmpnn"},
        "proteinmpnn: missing; inverse_folding_backend: proteinmpnn needs it",
        {"inverse_folding_backend": "proteinmpnn", "proteinmpnn": MPNN},
    ),
    (
        EvaluationSettings,
        {"novelty": "foldseek"},
        "foldseek.database: missing; novelty: foldseek needs a database of known structures",
        {"novelty": "foldseek", "foldseek": {"database": "pdb"}},
    ),
    (
        EvaluationSettings,
        {"folding_baseline": True},
        "folding_baseline: needs another folding_backend than self",
        {"folding_baseline": True, "folding_backend": "esmfold"},
    ),
]
LABELS = {"task": "regression", "data": "x.csv"}
WITHOUT_EFFECT = [
    (
        RepresentationSettings,
        {**LABELS, "epochs": 3},
        "epochs: has no effect with probe: linear",
        {**LABELS, "epochs": 3, "probe": "network"},
    ),
    (
        RepresentationSettings,
        {**LABELS, "probe": "full", "layer": 1},
        "layer: has no effect with probe: full",
        {**LABELS, "layer": 1},
    ),
    (
        RepresentationSettings,
        {**LABELS, "tracks": "sequence", "structures": "pdb"},
        "structures: has no effect with tracks: sequence",
        {**LABELS, "structures": "pdb"},
    ),
    (Clusters, {"file": "x"}, "file: has no effect without source: file", FILE),
    (
        Clusters,
        {"identity": 0.5},
        "identity: has no effect without source: mmseqs2",
        {"source": "mmseqs2", "identity": 0.5},
    ),
    (Clusters, {**FILE, "coverage": 0.9}, "coverage: has no effect without source: mmseqs2", FILE),
    (
        Clusters,
        {"sensitivity": 5},
        "sensitivity: has no effect without source",
        {"source": "mmseqs2", "sensitivity": 5},
    ),
    (
        TrainingSettings,
        {"schedule": "constant", "final_learning_rate": 1e-6},
        "final_learning_rate: has no effect with schedule: constant",
        {"schedule": "constant"},
    ),
    (
        TrainingSettings,
        {"schedule": "constant", "decay_power": 2},
        "decay_power: has no effect with schedule: constant",
        {"decay_power": 2},
    ),
    (
        TrainingSettings,
        {"warmup_steps": 0, "initial_learning_rate": 1e-6},
        "initial_learning_rate: has no effect without warm-up",
        {"warmup_steps": 1, "initial_learning_rate": 1e-6},
    ),
    (
        TrainingSettings,
        {"steps": 5, "initial_learning_rate": 1e-6},
        "initial_learning_rate: has no effect without",
        {"steps": 5},
    ),
    (
        TrainingSettings,
        {"weight_decay": 0, "decay_all": False},
        "decay_all: has no effect with weight_decay: 0",
        {"decay_all": False},
    ),
    (EncoderSettings, {"layers": 0, "heads": 7}, "heads: has no effect with layers: 0", {"layers": 0}),
    (
        EncoderSettings,
        {"layers": 0, "feedforward_width": 7},
        "feedforward_width: has no effect with layers: 0",
        {"feedforward_width": 7},
    ),
    (
        QuantizerSettings,
        {"entropy_weight": 0, "entropy_temperature": 1},
        "entropy_temperature: has no effect with entropy_weight: 0",
        {"entropy_temperature": 1},
    ),
    *(
        (DecoderSettings, {"blocks": 0, key: value}, f"{key}: has no effect with blocks: 0", {key: value})
        for key, value in (("sequence_head_width", 16), ("pairwise_head_width", 16), ("triangle_attention", False))
    ),
    *(
        (
            DecoderSettings,
            {"post_quant_layers": 0, key: 4},
            f"{key}: has no effect with post_quant_layers: 0",
            {key: 4},
        )
        for key in ("post_quant_heads", "post_quant_window")
    ),
    (
        DecoderSettings,
        {"triangle_attention": False, "pairwise_head_width": 16},
        "pairwise_head_width: has no effect with triangle_attention: false",
        {"triangle_attention": False},
    ),
    *(
        (LossSettings, {"fape": 0, key: 0.5}, f"{key}: has no effect with fape: 0", {key: 0.5})
        for key in ("fape_clamp", "unclamped_fraction")
    ),
    (
        LossSettings,
        {"local_fape_window": 5},
        "local_fape_window: has no effect with local_fape: 0",
        {"local_fape": 1, "local_fape_window": 5},
    ),
    *(
        (
            TokenizerSettings,
            {"pretrained": "x", key: value},
            f"{key}: has no effect together with 'pretrained'",
            {"pretrained": "x", "tokenization": {"token_budget": 5}},
        )
        for key, value in (
            ("datasets", ["d"]),
            ("initial", "y"),
            ("encoder", {"frozen": True}),
            ("quantizer", {"bits": 5}),
            ("decoder", {"blocks": 1}),
            ("loss", {"crop": 64}),
            ("training", {"steps": 5}),
        )
    ),
    *(
        (
            TokenizerSettings,
            {"decoder": {"structure_blocks": 0, "start": "chain"}, "loss": {**NO_LOSS, key: 1}},
            f"loss.{key}: has no effect with decoder.structure_blocks: 0",
            {"decoder": {"structure_blocks": 0, "start": "chain"}, "loss": NO_LOSS},
        )
        for key in NO_LOSS
    ),
    *(
        (
            TokenizerSettings,
            {"loss": {key: 2}},
            f"loss.{key}: has no effect without decoder.start: chain",
            {"loss": {key: 2}, "decoder": {"start": "chain"}},
        )
        for key in ("chain", "chain_reach", "chain_outliers")
    ),
    (WarmupSettings, {"model": "m", "source": "x"}, "source: has no effect together with warmup.model", {"model": "m"}),
    *(
        (
            WarmupSettings,
            {"sequence_stage": "never", key: value},
            f"{key}: has no effect, the sequence stage does not run",
            {key: value},
        )
        for key, value in (
            ("sequence_files", ["x"]),
            ("sequence_max_length", 5),
            ("sequence_steps", 5),
            ("sequence_weighting", "constant"),
            ("sequence_training", {"steps": 5}),
        )
    ),
    (
        WarmupSettings,
        {"source": "x", "sequence_steps": 5},
        "sequence_steps: has no effect",
        {"source": "x", "sequence_stage": "always", "sequence_steps": 5},
    ),
    *(
        (LoraSettings, {key: value}, f"{key}: has no effect with enabled: false", {key: value, "enabled": True})
        for key, value in (("rank", 5), ("alpha", 5), ("dropout", 0.5))
    ),
    (
        DiffusionSettings,
        {"crop_probability": 0, "crop_min_length": 9},
        "crop_min_length: has no effect with crop_probability: 0",
        {"crop_min_length": 9},
    ),
    *(
        (
            ModelSettings,
            {"tokenizer": "t", "pretrained": "x", key: value},
            f"{key}: has no effect together with 'pretrained'",
            {"tokenizer": "t", "pretrained": "x"},
        )
        for key, value in (
            ("datasets", ["d"]),
            ("network", {"hidden_size": 8, **SIZE}),
            ("structure_head", "bits"),
            ("warmup", {"dropout": 0.5}),
            ("lora", {"enabled": True}),
            ("diffusion", {"steps": 5}),
            ("training", {"steps": 5}),
        )
    ),
    (
        ModelSettings,
        {"tokenizer": "t", "warmup": {"source": "x"}, "network": {"hidden_size": 8, **SIZE}},
        "network: has no effect, the source of the warm-up",
        {"tokenizer": "t", "network": {"hidden_size": 8, **SIZE}},
    ),
    (EvaluationSettings, {"esmfold": {}}, "esmfold: has no effect without folding_backend: esmfold", {}),
    (EvaluationSettings, {"command": COMMAND}, "command: has no effect without folding_backend: command", {}),
    (EvaluationSettings, {"proteinmpnn": MPNN}, "proteinmpnn: has no effect without inverse_folding_backend", {}),
    (EvaluationSettings, {"foldseek": {}}, "foldseek: has no effect without diversity or novelty: foldseek", {}),
    (
        EvaluationSettings,
        {"folding_backend": "esmfold", "self": {}},
        "self: has no effect without folding_backend or inverse_folding_backend: self",
        {"folding_backend": "esmfold", "self": {}, "inverse_folding_backend": "self"},
    ),
]


def named(rule) -> str:
    section, wrong, said, _ = rule
    return f"{section.__name__}-{said.split(':')[0] or 'whole'}-{','.join(wrong)}"


def lines_of(section: type[Section], values: dict) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        section.make(**values)
    return [line.strip() for line in str(caught.value).split("\n")[1:]]


@pytest.mark.parametrize("rule", CONTRADICTIONS, ids=named)
def test_contradictions_are_refused_everywhere(rule):
    section, wrong, said, right = rule
    (line,) = lines_of(section, wrong)
    assert line.startswith(said), line
    with pytest.raises(ConfigError, match="wrong"):
        section.restored(wrong)
    section.make(**right)


@pytest.mark.parametrize("rule", WITHOUT_EFFECT, ids=named)
def test_keys_without_effect_are_refused_except_in_artifacts(rule):
    section, wrong, said, right = rule
    (line,) = lines_of(section, wrong)
    assert line.startswith(said), line
    section.restored(wrong)
    section.make(**right)


def test_every_section_with_rules_is_tested():
    def with_rules(kind: type[Section]) -> set[type[Section]]:
        own = {kind} if {"contradictions", "idle"} & set(vars(kind)) else set()
        return own.union(*map(with_rules, kind.__subclasses__()))

    tried = {section for section, *_ in CONTRADICTIONS + WITHOUT_EFFECT}
    assert {kind.__name__ for kind in with_rules(Section)} - {kind.__name__ for kind in tried} == {
        "Section",
        "Configuration",  # test_mistakes.py
    }


def test_sections_are_frozen_and_copies_are_validated():
    settings = TrainingSettings.make(steps=50)
    with pytest.raises(ValueError, match="frozen"):
        settings.steps = 5
    assert settings.replaced(steps=5).steps == 5 and settings.steps == 50
    with pytest.raises(ConfigError, match=r"warmup_steps: 7 is not less than steps \(5\)"):
        settings.replaced(steps=5, warmup_steps=7)


def test_section_of_an_artifact_with_unused_keys_can_be_changed():
    recorded = TokenizerSettings.restored({"encoder": {"layers": 0, "heads": 2}})
    assert recorded.replaced(initial="x").encoder == recorded.encoder


def test_selected_backends_have_their_sections():
    assert EvaluationSettings().self.steps == 100
    chosen = EvaluationSettings.make(folding_backend="esmfold", diversity="foldseek")
    assert chosen.self is None and chosen.esmfold.recycles == 3 and chosen.foldseek.program == "foldseek"

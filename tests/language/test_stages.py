"""Both stages from the command line, on synthetic tokens with dependent tracks."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_run import CODES, TRAINING, configuration, run
from test_warmup import sequence_model

from dplm2.cli import main
from dplm2.language import likelihood, stages
from dplm2.language.chains import TokenizedChains
from dplm2.language.esm import Esm2, Esm2Config
from dplm2.language.network import MultimodalEsm
from dplm2.language.vocabulary import Vocabulary
from dplm2.settings import load
from dplm2.settings.model import DiffusionSettings
from dplm2.tokenizer.model import StructureTokenizer


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tokenizer_folder, tokens_folder):
    """A model after both stages."""
    folder = tmp_path_factory.mktemp("run")
    common = ["--tokens", tokens_folder, "--state", folder / "state", "--config", configuration()]
    run("model", "warmup", "--tokenizer", tokenizer_folder, "--out", folder / "m/initial", *common)
    run("model", "train", "--initial", folder / "m/initial", "--out", folder / "m", *common)
    return folder / "m"


def chains_of(tokens_folder, split="train"):
    from dplm2.language.stages import splits_of
    from dplm2.language.vocabulary import Vocabulary

    return TokenizedChains(splits_of(pq.read_table(tokens_folder))[split], Vocabulary(CODES), DiffusionSettings.make())


def test_training_learns_both_tracks(trained, tokens_folder):
    """Cross-entropies of training and validation chains fall below the unigram baseline."""
    unigram = likelihood.unigram_baseline(chains_of(tokens_folder))
    network = MultimodalEsm.from_pretrained(trained)
    for split in ("train", "validation"):
        pooled = likelihood.pooled(likelihood.masked_cross_entropies(network, chains_of(tokens_folder, split)))
        for track, (value, _) in pooled.items():
            assert value < 0.9 * unigram[track][0]


def test_sequence_stage_learns(trained, tokens_folder):
    unigram = likelihood.unigram_baseline(chains_of(tokens_folder))["sequence"][0]
    with (trained / "initial/metrics.csv").open() as stream:
        last = list(csv.DictReader(stream))[-1]
    assert float(last["validation_cross_entropy_sequence"]) < 0.98 * unigram


def test_the_sequence_stage_samples_by_cluster_if_the_datasets_have_clusters(tokens_folder, tokenizer_folder, tmp_path):
    """One chain of each of two clusters is an epoch."""
    table = pq.read_table(tokens_folder)
    clusters = pa.array([str(row % 2) for row in range(len(table))])
    table = table.set_column(table.column_names.index("cluster"), "cluster", clusters)
    (tmp_path / "tokens").mkdir()
    pq.write_table(table, tmp_path / "tokens/part-00000.parquet")
    training = {
        **TRAINING,
        "steps": 2,
        "warmup_steps": 0,
        "validate_every": None,
        "sample_by": "cluster",
        "log_every": 1,
    }
    whole = configuration(warmup={"dropout": 0.0, "sequence_training": {**training, "token_budget": 10_000}})
    common = ["--tokens", tmp_path / "tokens", "--state", tmp_path / "state", "--config", whole]
    run("model", "warmup", "--tokenizer", tokenizer_folder, "--out", tmp_path / "m", *common)
    with (tmp_path / "m/metrics.csv").open() as stream:
        assert [float(row["epoch"]) for row in csv.DictReader(stream)] == [1, 2]


def test_metrics_cover_every_track_and_task(trained):
    with (trained / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    asked = ["structure", "sequence", "structure_folding", "sequence_inverse_folding", "structure_joint"]
    for name in asked:
        assert float(rows[-1][f"validation_cross_entropy_{name}"]) > 0


def test_model_records_tokenizer_and_run(trained, tokenizer_folder):
    network = MultimodalEsm.from_pretrained(trained)
    assert (trained / network.tokenizer).resolve() == tokenizer_folder.resolve()
    assert network.tokenizer_fingerprint == StructureTokenizer.from_pretrained(tokenizer_folder).codes_fingerprint
    record = json.loads((trained / "run.json").read_text())
    assert record["tokens_per_second"] > 0
    assert record["steps"] == 160 and record["inputs"]["tokenizer"] == network.tokenizer_fingerprint


def test_second_stage_with_lora_and_self_mixup(trained, tokens_folder, tokenizer_folder, tmp_path):
    """Continue from a trained model: warm-up does not change it, and merged weights are saved at the end."""
    text = configuration(
        network=None,
        warmup={"source": str(trained)},
        lora={"enabled": True, "rank": 4},
        diffusion={"self_mixup": "clean", "crop_min_length": 10},
        training={"steps": 4, **TRAINING, "warmup_steps": 0, "initial_learning_rate": 1e-7},
    )
    section = json.loads(text)
    del section["models"]["m"]["network"]
    section["models"]["m"]["training"].pop("initial_learning_rate")
    common = ["--tokens", tokens_folder, "--state", tmp_path / "state", "--config", json.dumps(section)]
    run("model", "warmup", "--tokenizer", tokenizer_folder, "--out", tmp_path / "initial", *common)
    before = MultimodalEsm.from_pretrained(trained).model.state_dict()
    started = MultimodalEsm.from_pretrained(tmp_path / "initial").model.state_dict()
    assert all(torch.equal(before[name], started[name]) for name in before)
    run("model", "train", "--initial", tmp_path / "initial", "--out", tmp_path / "m", *common)
    after = MultimodalEsm.from_pretrained(tmp_path / "m").model.state_dict()
    assert set(after) == set(before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "esm.encoder.layer.0.attention.self.query.weight" in changed
    assert "esm.encoder.layer.0.attention.self.query.bias" not in changed


@pytest.mark.parametrize(("name", "value"), [("structure_tokens", "code"), ("sequence_stage", "always")])
def test_settings_for_sequence_models_are_refused(
    trained, tokens_folder, tokenizer_folder, tmp_path, capsys, name, value
):
    text = configuration(network=None, warmup={"source": str(trained), name: value})
    section = json.loads(text)
    del section["models"]["m"]["network"]
    arguments = ["model", "warmup", "--tokenizer", tokenizer_folder, "--out", tmp_path / "m", "--tokens", tokens_folder]
    arguments += ["--state", tmp_path / "state", "--config", json.dumps(section)]
    assert main([str(argument) for argument in arguments]) == 2
    assert f"warmup.{name}: {value} has no effect" in capsys.readouterr().err


def test_tokens_from_another_tokenizer_are_refused(trained, tokens_folder, tmp_path, capsys):
    table = pq.read_table(tokens_folder / "part-00000.parquet")
    metadata = {"tokenizer_fingerprint": "other", "codebook_size": str(CODES)}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "part-00000.parquet")
    arguments = ["model", "train", "--initial", trained, "--tokens", tmp_path, "--out", tmp_path / "m"]
    arguments += ["--state", tmp_path / "state", "--config", configuration()]
    assert main([str(argument) for argument in arguments]) == 1
    message = capsys.readouterr().err
    assert "other" in message and MultimodalEsm.from_pretrained(trained).tokenizer_fingerprint in message


def test_sequence_stage_learns_from_compressed_files(tokens_folder, tokenizer_folder, tmp_path):
    """Sequences of one residue: the files are learned, not the datasets' own sequences."""
    for letter in "WY":
        with gzip.open(tmp_path / f"{letter}.fasta.gz", "wt") as stream:
            stream.writelines(f">{length}\n{letter * length}\n" for length in range(20, 40))
    training = {"steps": 40, **TRAINING, "validate_every": None}
    files = [str(tmp_path / f"{letter}.fasta.gz") for letter in "WY"]
    warmup = {"dropout": 0.0, "sequence_files": files, "sequence_training": training}
    common = ["--tokens", tokens_folder, "--state", tmp_path / "state", "--config", configuration(warmup=warmup)]
    run("model", "warmup", "--tokenizer", tokenizer_folder, "--out", tmp_path / "m", *common)
    network = MultimodalEsm.from_pretrained(tmp_path / "m")
    vocabulary = network.vocabulary
    masked = [vocabulary.cls_sequence, *12 * [vocabulary.mask_sequence], vocabulary.eos_sequence]
    with torch.no_grad():
        best = network.eval()(torch.tensor([masked]))[0, 1:-1, :33].topk(2).indices
    assert {vocabulary.tokens[index] for index in best.flatten().tolist()} == {"W", "Y"}


class Begun(Exception):
    """The training would begin now."""


def test_progress_is_kept_by_all_that_decides_the_training(tokens_folder, tokenizer_folder, tmp_path, monkeypatch):
    """Of both trainings: another seed, setting, set of chains or starting point begins anew."""

    def fit(*_, fingerprint, **__):
        found.append(fingerprint)
        raise Begun

    def begin(stage, start, seed=0, tokens=tokens_folder, **model):
        settings = load(configuration(**model)).models["m"]
        with pytest.raises(Begun):
            stage(*start(tokens), tmp_path / "m", tmp_path / "state", settings, seed=seed, device="cpu")

    (tmp_path / "fewer").mkdir()
    pq.write_table(pq.read_table(tokens_folder).slice(1), tmp_path / "fewer" / "part-00000.parquet")
    fingerprint, vocabulary = StructureTokenizer.from_pretrained(tokenizer_folder).codes_fingerprint, Vocabulary(CODES)
    for number in range(2):  # weights differ
        esm = Esm2(Esm2Config(vocabulary.size, 16, 1, 2, 16))
        MultimodalEsm(esm, vocabulary, tokenizer_fingerprint=fingerprint).save_pretrained(tmp_path / str(number))
    monkeypatch.setattr(stages, "fit", fit)

    def warm_up(tokens):
        return [tokens], tokenizer_folder

    def train(tokens):
        return tmp_path / "0", [tokens]

    for stage, start, part in ((stages.warm_up, warm_up, "network"), (stages.train, train, "diffusion")):
        found: list[str] = []
        begin(stage, start)
        begin(stage, start)
        assert len(set(found)) == 1
        begin(stage, start, seed=1)
        begin(stage, start, tokens=tmp_path / "fewer")
        change = {"network": {"hidden_size": 48, "layers": 1, "heads": 4, "intermediate_size": 96}}
        begin(stage, start, **(change if part == "network" else {"diffusion": {"crop_min_length": 11}}))
        assert len(set(found)) == 4
    begin(stages.train, lambda tokens: (tmp_path / "1", [tokens]))
    assert len(set(found)) == 5


@pytest.mark.parametrize("from_files", [False, True])
def test_sequence_stage_does_not_resume_from_another_source(tokens_folder, tokenizer_folder, tmp_path, from_files):
    """The folder has the same name, but other weights than those of the saved state."""
    (tmp_path / "a.fasta").write_text(">a\nMKVLLAMKVLLA\n")
    training = {**TRAINING, "steps": 1, "warmup_steps": 0, "validate_every": None}
    warmup = {"source": str(tmp_path / "source"), "sequence_stage": "always", "sequence_training": training}
    warmup["sequence_files"] = [str(tmp_path / "a.fasta")] if from_files else []
    whole = json.loads(configuration(warmup=warmup))
    del whole["models"]["m"]["network"]
    common = ["--tokens", tokens_folder, "--state", tmp_path / "state", "--config", json.dumps(whole)]
    source = sequence_model()
    for change, expected in ((0.0, 1), (0.0, 1), (1.0, 2)):
        source.lm_head.bias.data += change
        source.save_pretrained(tmp_path / "source")
        run("model", "warmup", "--tokenizer", tokenizer_folder, "--out", tmp_path / "m", *common)
        assert len(list((tmp_path / "state/sequence-stage").iterdir())) == expected


@pytest.mark.skipif(torch.__version__ < "2.8", reason="older optimisers ask, too, whether they are being compiled")
@pytest.mark.parametrize("compiled", [False, True])
def test_reported_attention_is_the_one_used(trained, tokens_folder, tmp_path, capsys, monkeypatch, compiled):
    """A compiled network does not pack (compilation is omitted here)."""
    masked = []
    used = MultimodalEsm.attention_mask
    monkeypatch.setattr(MultimodalEsm, "attention_mask", lambda *a: masked.append(1) or used(*a))
    monkeypatch.setattr(torch, "compile", lambda module, dynamic: module)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiled)
    training = {"steps": 2, **TRAINING, "warmup_steps": 0, "compile": compiled}
    common = ["--tokens", tokens_folder, "--state", tmp_path / "state", "--config", configuration(training=training)]
    run("model", "train", "--initial", trained / "initial", "--out", tmp_path / "m", *common)
    told = "padded samples with a mask" if compiled else "each sample separately, without padding"
    assert f"attention: {told}" in capsys.readouterr().err and bool(masked) == compiled

"""Options of multimodal training from the command line, against the plain run."""

import csv
import json
import os
import subprocess
import sys
import types

import pytest
import torch
from safetensors.torch import load_file
from small_run import CODES, configuration, run

from dplm2.cli import main
from dplm2.language.esm import Esm2, Esm2Config
from dplm2.language.network import MultimodalEsm
from dplm2.language.vocabulary import Vocabulary
from dplm2.tokenizer.model import StructureTokenizer
from dplm2.training.devices import SHARDS_ON_CPU

STEPS = 6
TRAINING = {"steps": STEPS, "token_budget": 200, "learning_rate": 5e-3, "warmup_steps": 2, "log_every": 1,
            "validate_every": 3}  # fmt: skip
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def initial(tmp_path_factory, tokenizer_folder):
    """A warmed-up model with dropout."""
    torch.manual_seed(0)
    vocabulary = Vocabulary(CODES)
    network = MultimodalEsm(Esm2(Esm2Config(vocabulary.size, 48, 2, 4, 96)), vocabulary)
    network.tokenizer_fingerprint = StructureTokenizer.from_pretrained(tokenizer_folder).codes_fingerprint
    folder = tmp_path_factory.mktemp("initial")
    network.save_pretrained(folder)
    return folder


def arguments(initial, tokens, out, lora=False, **training):
    section = configuration(training={**TRAINING, **training}, lora={"enabled": True} if lora else {})
    common = ["--initial", initial, "--tokens", tokens, "--state", out / "state", "--out", out / "m"]
    return [str(argument) for argument in ["model", "train", *common, "--config", section]]


def trained(initial, tokens, out, **options):
    run(*arguments(initial, tokens, out, **options))
    return out


def rows(out):
    with (out / "m/metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def assert_same_curve(out, expected, tolerance, drop=("seconds",)):
    ours, theirs = rows(out), rows(expected)
    assert len(ours) == len(theirs) == STEPS
    for row, other in zip(ours, theirs, strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() - set(drop):
            assert bool(row[name]) == bool(other[name]), name
            if row[name]:
                assert float(row[name]) == pytest.approx(float(other[name]), rel=tolerance, abs=1e-7, nan_ok=True), name


def weights(out):
    return load_file(out / "m/model.safetensors")


@pytest.fixture(scope="module")
def plain(initial, tokens_folder, tmp_path_factory):
    return trained(initial, tokens_folder, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def plain_lora(initial, tokens_folder, tmp_path_factory):
    return trained(initial, tokens_folder, tmp_path_factory.mktemp("plain"), lora=True)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "low rank"])
def test_activation_checkpointing_is_bit_identical(request, initial, tokens_folder, tmp_path, lora):
    """With dropout, which draws the same numbers when activations are recomputed."""
    expected = request.getfixturevalue("plain_lora" if lora else "plain")
    trained(initial, tokens_folder, tmp_path, lora=lora, activation_checkpointing=True)
    assert_same_curve(tmp_path, expected, 0.0)
    found = weights(tmp_path)
    assert all(torch.equal(found[name], value) for name, value in weights(expected).items())


@pytest.mark.parametrize("lora", [False, True], ids=["full", "low rank"])
def test_bf16_follows_fp32(request, initial, tokens_folder, tmp_path, lora):
    expected = request.getfixturevalue("plain_lora" if lora else "plain")
    trained(initial, tokens_folder, tmp_path, lora=lora, precision="bf16")
    ours, theirs = ([float(row["loss"]) for row in rows(out)] for out in (tmp_path, expected))
    assert ours == pytest.approx(theirs, rel=0.01) and ours != theirs
    assert {value.dtype for value in weights(tmp_path).values()} == {torch.float32}


def test_moving_average_is_validated_and_written(initial, tokens_folder, tmp_path, plain):
    trained(initial, tokens_folder, tmp_path, ema_decay=0.9)
    # The average does not affect the trained weights, and lags behind them.
    assert [row["loss"] for row in rows(tmp_path)] == [row["loss"] for row in rows(plain)]
    before, after, averaged = (load_file(f / "model.safetensors") for f in (initial, plain / "m", tmp_path / "m"))
    name = "esm.encoder.layer.1.output.dense.weight"
    assert 0 < (averaged[name] - after[name]).norm() < (before[name] - after[name]).norm()
    validated = "validation_cross_entropy_structure"
    assert rows(tmp_path)[-1][validated] != rows(plain)[-1][validated]


def test_resumes_bit_for_bit_with_dropout_and_accumulation(initial, tokens_folder, tmp_path):
    """Repeatedly stopped by the time limit, in the middle of an epoch."""
    options = {"lora": True, "accumulate": 2, "save_every": 1}
    trained(initial, tokens_folder, tmp_path / "straight", **options)
    stopped = arguments(initial, tokens_folder, tmp_path / "stopped", **options, time_limit_minutes=1e-6)
    statuses = [main(stopped) for _ in range(STEPS)]
    assert statuses == [75] * (STEPS - 1) + [0]
    assert_same_curve(tmp_path / "stopped", tmp_path / "straight", 0.0)
    found = weights(tmp_path / "stopped")
    assert all(torch.equal(found[name], value) for name, value in weights(tmp_path / "straight").items())


@pytest.mark.skipif(torch.__version__ < SHARDS_ON_CPU, reason="older torch does not average sharded gradients on CPUs")
def test_two_processes_equal_one_with_accumulation(initial, tokens_folder, tmp_path):
    """Data-parallel and sharded, with LoRA and with all weights trained, for two batches per update."""
    options = {"ddp": {}, "ddp-lora": {"lora": True}, "fsdp": {"strategy": "fsdp"}}
    options["fsdp-lora"] = options["fsdp"] | options["ddp-lora"]
    runs = {name: {"accumulate": 2, **chosen} for name, chosen in options.items()}
    script = "import json, sys; from dplm2.cli import main; [main(a) for a in json.loads(sys.argv[1])]"
    (tmp_path / "runs.py").write_text(script)
    lines = [arguments(initial, tokens_folder, tmp_path / name, **options) for name, options in runs.items()]
    command = [sys.executable, *TORCHRUN, tmp_path / "runs.py", json.dumps(lines)]
    finished = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "2 processes (ddp)" in finished.stderr and "2 processes (fsdp)" in finished.stderr
    for lora in (False, True):
        one = trained(initial, tokens_folder, tmp_path / f"one-{lora}", lora=lora, accumulate=2)
        for name, options in runs.items():
            if options.get("lora", False) == lora:
                assert_same_curve(tmp_path / name, one, 1e-5)


def test_tensorboard_receives_the_metrics(initial, tokens_folder, tmp_path, plain):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained(initial, tokens_folder, tmp_path, loggers=["tensorboard"])
    (folder,) = tmp_path.glob("state/model/*/tensorboard")
    events = EventAccumulator(str(folder)).Reload()
    for name in ("loss", "gradient_norm", "validation_cross_entropy_structure"):
        points = [(event.step, event.value) for event in events.Scalars(name)]
        expected = [(int(row["step"]), pytest.approx(float(row[name]), rel=1e-5)) for row in rows(plain) if row[name]]
        assert points == expected


def test_wandb_receives_the_metrics(initial, tokens_folder, tmp_path, plain, monkeypatch):
    """With a mock of wandb: the run id is the training's fingerprint, so that a resumed training continues it."""
    taken, started = [], {}
    run_ = types.SimpleNamespace(log=lambda row, step: taken.append((step, row)), finish=lambda: taken.append("end"))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **named: started.update(named) or run_))
    trained(initial, tokens_folder, tmp_path, loggers=["wandb"])
    (state,) = (tmp_path / "state/model").iterdir()
    assert started == {"dir": state, "name": "model", "id": state.name, "resume": "allow"}
    assert taken.pop() == "end"
    assert [step for step, _ in taken] == list(range(1, STEPS + 1))
    losses = [row["loss"] for _, row in taken]
    assert losses == pytest.approx([float(row["loss"]) for row in rows(plain)], rel=1e-6)


def test_error_for_a_missing_logger_says_how_to_install_it(initial, tokens_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(arguments(initial, tokens_folder, tmp_path, loggers=["wandb"])) == 2
    assert "pip install wandb" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_trained_parameters_are_reported_before_the_first_step(initial, tokens_folder, tmp_path, capsys):
    trained(initial, tokens_folder, tmp_path, lora=True, steps=3)
    said = capsys.readouterr().err.split("a noised input")
    network = MultimodalEsm.from_pretrained(initial)
    total = sum(parameter.numel() for parameter in network.parameters())
    # Rank 16 on the six matrices of both layers; embeddings and head fully.
    updates = 2 * 16 * (4 * (48 + 48) + 2 * (48 + 96))
    whole = sum(p.numel() for n, p in network.named_parameters() if "lm_head" in n or "embeddings" in n)
    assert f"parameters: {total + updates:,} in total, {updates + whole:,} trained" in said[0]
    for words in ("tokens per batch: ", " GB of memory, at most ", "device: cpu", "precision: fp32", "attention: "):
        assert words in said[0]
    structure, sequence = said[1].splitlines()[1:3]
    assert structure.split()[0] == "structure" and sequence.split()[0] == "sequence"
    # Four characters per structure token, one per residue.
    assert len(structure.split()) - 1 == len(sequence.split()[1])

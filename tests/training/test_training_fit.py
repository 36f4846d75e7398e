"""The loop against a plain torch loop, and resumed runs against uninterrupted ones: bit for bit."""

import contextlib
import csv
import json
import math
import os
import signal
import threading
import time
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny_task import Network, SpoiltTask, TinyTask, same, train, weights

from dplm2.core.errors import ConfigError, DPLM2Error, Preempted
from dplm2.settings.training import TrainingSettings
from dplm2.training import devices, log, randomness, state
from dplm2.training.batches import Batches, Position
from dplm2.training.optimizer import learning_rate
from dplm2.training.run import Run

# An epoch has about 9 batches: 20 steps with two batches each cross four epoch boundaries.
SETTINGS = {"steps": 20, "warmup_steps": 3, "accumulate": 2, "log_every": 4, "validate_every": 6, "save_every": 5}


@pytest.fixture(autouse=True)
def one_thread_and_quick_writes(monkeypatch):
    # Syncing is not needed here; tests with killed processes keep it.
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows(out, *drop):
    with (out / "metrics.csv").open(newline="") as stream:
        return [{name: value for name, value in row.items() if name not in drop} for row in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    train(out, SETTINGS)
    return out


def test_loop_equals_a_plain_torch_loop(straight):
    """The order of batches and the seeds are the package's; gradients, clipping, AdamW and means are torch's."""
    settings = TrainingSettings.make(**SETTINGS, token_budget=60, learning_rate=0.01)
    task = TinyTask()
    network = task.module.train()
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.98), weight_decay=0.01, eps=1e-8)
    stream = Batches(task.costs, token_budget=60, max_batch_size=800, seed=3).stream(Position(), 0)
    losses, norms, rates, tokens, epochs = [], [], [], [0], []
    for step in range(20):
        rates.append(learning_rate(step, settings))
        optimizer.param_groups[0]["lr"] = rates[-1]
        for micro in islice(stream, 2):
            batch = task.collate(micro.indices, randomness.generator(3, randomness.NOISE, micro.number))
            torch.manual_seed(randomness.derive(3, randomness.FORWARD, micro.number))
            loss, _ = network(batch)
            (loss / 2).backward()
            losses.append(loss.item())
            tokens.append(tokens[-1] + sum(task.costs[chain] for chain in micro.indices))
            epochs.append(micro.epoch)
        norms.append(torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5).item())
        optimizer.step()
        optimizer.zero_grad()
    found = weights(straight)
    for name, value in network.state_dict().items():
        assert torch.allclose(found[name], value, rtol=1e-5, atol=1e-7), name
    # A row every 4 steps and every validation: steps 4, 6, 8, 12, 16, 18, 20, each with means since the last row.
    edges = [0, 4, 6, 8, 12, 16, 18, 20]
    table = rows(straight)
    assert [int(row["step"]) for row in table] == edges[1:]
    for row, first, last in zip(table, edges[:-1], edges[1:], strict=True):
        chunk = losses[2 * first : 2 * last]
        assert float(row["loss"]) == pytest.approx(sum(chunk) / len(chunk), rel=1e-5)
        assert float(row["perplexity"]) == pytest.approx(sum(map(math.exp, chunk)) / len(chunk), rel=1e-5)
        assert float(row["gradient_norm"]) == pytest.approx(sum(norms[first:last]) / (last - first), rel=1e-5)
        # The learning rate of the last update.
        assert float(row["learning_rate"]) == pytest.approx(rates[last - 1], rel=1e-5)
        # All tokens and epochs up to and including that update.
        assert int(row["tokens"]) == tokens[2 * last]
        assert float(row["epoch"]) == pytest.approx(epochs[2 * last - 1], rel=1e-6)
        assert bool(row["validation_loss"]) == (last in (6, 12, 18, 20))
    with torch.no_grad():
        assert float(table[-1]["validation_loss"]) == pytest.approx(task.validate(network.eval())["loss"], rel=1e-5)


def test_validations_draw_the_same_numbers_from_the_seed(tmp_path):
    class Drawing(TinyTask):
        def validate(self, module):
            return {"drawn": float(torch.rand(()))}

    drawn = []
    for seed in (3, 4):
        train(tmp_path / str(seed), SETTINGS, task=Drawing(), seed=seed)
        drawn.append({row["validation_drawn"] for row in rows(tmp_path / str(seed)) if row["validation_drawn"]})
    assert [len(values) for values in drawn] == [1, 1] and drawn[0] != drawn[1]


@pytest.mark.parametrize(
    "stop_at, number",
    [(1, "SIGTERM"), (4, "SIGTERM"), (5, "SIGTERM"), (9, "SIGUSR1"), (10, "SIGTERM"), (13, "SIGTERM")],
)
def test_stopped_run_resumes_bit_for_bit(straight, tmp_path, stop_at, number):
    with pytest.raises(Preempted, match=f"saved at step {stop_at + 1} of 20"):
        train(tmp_path, SETTINGS, trouble={"kill_at": stop_at, "signal": number})
    assert not (tmp_path / "weights.safetensors").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    result = train(tmp_path, SETTINGS)
    assert (result.resumed_from, result.steps) == (stop_at + 1, 20)
    assert same(weights(tmp_path), weights(straight))
    assert rows(tmp_path, "seconds") == rows(straight, "seconds")


@pytest.mark.parametrize(
    "options",
    [
        {"ema_decay": 0.9},
        {"sample_by": "cluster"},
        {"precision": "bf16"},
        {"activation_checkpointing": True},
        {"accumulate": 1, "decay_all": False, "gradient_clip": None},
        {"optimizer": "muon", "decay_all": False},
    ],
    ids=lambda options: "-".join(options),
)
def test_every_kind_of_run_resumes_bit_for_bit(tmp_path, options):
    settings, chains = {**SETTINGS, **options}, {"clusters": 11}
    train(tmp_path / "straight", settings, trouble=chains)
    with pytest.raises(Preempted):
        train(tmp_path / "stopped", settings, trouble={**chains, "kill_at": 7, "signal": "SIGTERM"})
    train(tmp_path / "stopped", settings, trouble=chains)
    assert same(weights(tmp_path / "stopped"), weights(tmp_path / "straight"))
    assert rows(tmp_path / "stopped", "seconds") == rows(tmp_path / "straight", "seconds")


def test_ctrl_c_saves_and_interrupts(straight, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, SETTINGS, trouble={"kill_at": 6, "signal": "SIGINT"})
    assert train(tmp_path, SETTINGS).resumed_from == 7
    assert same(weights(tmp_path), weights(straight))


def test_time_limit_stops_and_saves(straight, tmp_path):
    with pytest.raises(Preempted, match="time limit"):
        train(tmp_path, {**SETTINGS, "time_limit_minutes": 0.001}, trouble={"pause": 0.02})
    train(tmp_path, SETTINGS)
    assert same(weights(tmp_path), weights(straight))


def test_activation_checkpointing_changes_nothing(straight, tmp_path):
    train(tmp_path, {**SETTINGS, "activation_checkpointing": True})
    found, expected = weights(tmp_path), weights(straight)
    # The running statistic outside the blocks is updated once: only blocks are recomputed.
    assert same(found, expected)
    assert "forward" not in vars(Network().layers[0])


def test_number_of_workers_does_not_matter(straight, tmp_path):
    train(tmp_path, {**SETTINGS, "workers": 1})
    assert same(weights(tmp_path), weights(straight))


def test_finished_training_is_not_repeated(straight, tmp_path):
    train(tmp_path, SETTINGS)
    task = TinyTask()
    result = train(tmp_path, SETTINGS, task=task)
    assert (result.resumed_from, result.steps) == (20, 20) and task.collated == []
    assert same(weights(tmp_path), weights(straight))
    assert result.figures["validation_loss"] == float(rows(tmp_path)[-1]["validation_loss"])


def test_state_of_another_fingerprint_is_not_used(straight, tmp_path):
    with pytest.raises(Preempted):
        train(tmp_path, SETTINGS, trouble={"kill_at": 7, "signal": "SIGTERM"}, fingerprint="other")
    assert train(tmp_path, SETTINGS).resumed_from == 0
    # Not even if the folder is renamed.
    (tmp_path / "state/f00d").rename(tmp_path / "aside")
    (tmp_path / "state/other").rename(tmp_path / "state/f00d")
    assert train(tmp_path, SETTINGS).resumed_from == 0
    assert same(weights(tmp_path), weights(straight))


def test_result_has_the_averaged_weights(tmp_path):
    train(tmp_path, {**SETTINGS, "accumulate": 1, "ema_decay": 0.9})
    task = TinyTask()
    train(tmp_path / "plain", {**SETTINGS, "accumulate": 1}, task=task)
    averaged, plain = weights(tmp_path), weights(tmp_path / "plain")
    assert not torch.allclose(averaged["head.weight"], plain["head.weight"])
    task.module.load_state_dict(averaged)
    with torch.no_grad():
        expected = task.validate(task.module)["loss"]
    assert float(rows(tmp_path)[-1]["validation_loss"]) == pytest.approx(expected, rel=1e-6)
    with safe_open(tmp_path / "state/f00d/step-00000020.safetensors", "pt") as stream:
        assert torch.equal(stream.get_tensor("average/head.weight"), averaged["head.weight"])
        assert torch.equal(stream.get_tensor("parameter/head.weight"), plain["head.weight"])


def test_average_includes_every_update_once(tmp_path):
    """Recomputed from the weights after each update; the factor of update n is (1 + n) / (10 + n), up to the decay."""
    train(tmp_path, {**SETTINGS, "steps": 8, "save_every": 1, "keep": 9, "ema_decay": 0.25})
    expected = TinyTask().module.head.weight.detach().double()
    for step in range(1, 9):
        with safe_open(tmp_path / f"state/f00d/step-0000000{step}.safetensors", "pt") as stream:
            factor = min(0.25, step / (9 + step))
            expected = factor * expected + (1 - factor) * stream.get_tensor("parameter/head.weight").double()
            assert torch.allclose(stream.get_tensor("average/head.weight").double(), expected, rtol=1e-5, atol=1e-7)


def test_frozen_weights_are_unchanged_and_not_saved(tmp_path):
    train(tmp_path, SETTINGS, freeze=["embedding", "layers.0"])
    before, after = TinyTask().module.state_dict(), weights(tmp_path)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {name for name in after if not name.startswith(("embedding", "layers.0"))}
    with safe_open(tmp_path / "state/f00d/step-00000020.safetensors", "pt") as stream:
        names = set(stream.keys())
    trained = {name for name in changed if name != "passes"}
    kinds = ("parameter", "optimizer/step", "optimizer/exp_avg", "optimizer/exp_avg_sq")
    assert names == {f"{kind}/{name}" for kind in kinds for name in trained} | {"buffer/passes"}


def test_bf16_keeps_weights_in_fp32_and_learns_similarly(straight, tmp_path):
    train(tmp_path, {**SETTINGS, "precision": "bf16"})
    assert {value.dtype for value in weights(tmp_path).values()} == {torch.float32}
    losses = [[float(row["loss"]) for row in rows(out)] for out in (straight, tmp_path)]
    assert losses[1] == pytest.approx(losses[0], rel=0.01) and losses[0] != losses[1]


def test_error_for_a_non_finite_loss_names_the_chains(tmp_path):
    # 8 long enough chains come first: the faulty one is after the first checkpoint.
    order = Batches(TinyTask().costs, token_budget=60, max_batch_size=800, seed=3).window(0)
    culprit = int(order[-1][0])
    settings = {"steps": 20, "save_every": 2}
    with pytest.raises(DPLM2Error) as caught:
        train(tmp_path, settings, task=SpoiltTask(chain=culprit))
    message, mates = str(caught.value), [f"chain-{chain}" for chain in order[-1]]
    assert "the loss is nan" in message and f"at step {len(order)};" in message
    assert ", ".join(mates) in message
    last_good = (len(order) - 1) // 2 * 2
    assert f"checkpoint of step {last_good} is kept" in message
    assert json.loads((tmp_path / "state/f00d/not_finite.json").read_text())["chains"] == mates
    saved = json.loads((tmp_path / "state/f00d/latest.json").read_text())
    assert saved["step"] == last_good
    with safe_open(tmp_path / "state/f00d" / saved["file"], "pt") as stream:
        assert all(torch.isfinite(stream.get_tensor(name)).all() for name in stream.keys())  # noqa: SIM118


def damage_bytes(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        damage_bytes,
        lambda file: file.write_bytes(file.read_bytes()[:-100]),
        lambda file: file.unlink(),
        lambda file: file.with_suffix(".json").write_text("{"),
        lambda file: file.with_suffix(".json").write_text("[]"),
    ],
    ids=["flipped bit", "cut short", "gone", "record torn", "record foreign"],
)
def test_damaged_checkpoint_falls_back_to_the_previous_one(straight, tmp_path, capsys, damage):
    with pytest.raises(Preempted):
        train(tmp_path, SETTINGS, trouble={"kill_at": 11, "signal": "SIGTERM"})
    damage(tmp_path / "state/f00d/step-00000012.safetensors")
    assert train(tmp_path, SETTINGS).resumed_from == 10
    said = capsys.readouterr().err
    assert "step-00000012.safetensors is damaged" in said and "falling back to the one before" in said
    assert same(weights(tmp_path), weights(straight))
    assert rows(tmp_path, "seconds") == rows(straight, "seconds")


def test_partial_files_of_a_killed_run_are_removed(tmp_path):
    folder = tmp_path / "state/f00d"
    folder.mkdir(parents=True)
    (folder / "step-00000003.safetensors").write_bytes(b"renamed, but killed before its record was written")
    (folder / ".step-00000004.safetensors.abc.tmp").write_bytes(b"killed while it was written")
    (folder / "metrics.csv").write_text("step,epoch,loss,learning_rate,gradient_norm,tokens,seconds\n4,0.5,2.0,0.")
    assert train(tmp_path, {**SETTINGS, "steps": 5}).resumed_from == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {"step-00000005.safetensors", "step-00000005.json", "latest.json", "lock", "metrics.csv"}
    assert [row["step"] for row in rows(tmp_path)] == ["4", "5"]


def test_training_restarts_if_all_checkpoints_are_damaged(straight, tmp_path, capsys):
    with pytest.raises(Preempted):
        train(tmp_path, SETTINGS, trouble={"kill_at": 11, "signal": "SIGTERM"})
    for file in (tmp_path / "state/f00d").glob("*.safetensors"):
        damage_bytes(file)
    assert train(tmp_path, SETTINGS).resumed_from == 0
    assert "training starts from the beginning" in capsys.readouterr().err
    assert same(weights(tmp_path), weights(straight))


def test_number_of_kept_checkpoints_is_limited(tmp_path):
    train(tmp_path, {**SETTINGS, "keep": 3})
    names = {path.name for path in (tmp_path / "state/f00d").iterdir()}
    steps = {f"step-000000{step}.{kind}" for step in (10, 15, 20) for kind in ("json", "safetensors")}
    assert names == steps | {"latest.json", "lock", "metrics.csv"}


def test_checkpoint_is_valid_at_every_moment(tmp_path, monkeypatch):
    """The record is written after the tensors and removed before them; the pointer to the latest is written last."""
    events, replace, unlink = [], os.replace, os.unlink

    def noted_replace(source, target):
        events.append(f"+{Path(target).name}")
        replace(source, target)

    def noted_unlink(path, *others, **more):
        if Path(path).name.startswith("step-"):
            events.append(f"-{Path(path).name}")
        unlink(path, *others, **more)

    monkeypatch.setattr(os, "replace", noted_replace)
    monkeypatch.setattr(os, "unlink", noted_unlink)
    folder = state.StateFolder(tmp_path, "f00d", "x")
    for step in (1, 2):
        folder.save(step, {"a": torch.zeros(3)}, {}, keep=1)
    written = [[f"+step-0000000{step}.safetensors", f"+step-0000000{step}.json", "+latest.json"] for step in (1, 2)]
    assert events == [*written[0], *written[1], "-step-00000001.json", "-step-00000001.safetensors"]


def test_an_old_checkpoint_whose_weights_were_deleted_is_removed(tmp_path):
    folder = state.StateFolder(tmp_path, "f00d", "x")
    folder.save(1, {"a": torch.zeros(3)}, {}, keep=1).unlink()
    folder.save(2, {"a": torch.zeros(3)}, {}, keep=1)
    assert {path.name for path in folder.folder.glob("step-*")} == {"step-00000002.json", "step-00000002.safetensors"}


def test_second_writer_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "LOCK_PATIENCE_SECONDS", 0.3)
    monkeypatch.delenv(state.IN_A_JOB, raising=False)
    with (
        state.StateFolder(tmp_path / "state", "f00d", "first").locked(),
        pytest.raises(DPLM2Error, match=f"process {os.getpid()} on .* is already running this training"),
    ):
        train(tmp_path, SETTINGS)
    train(tmp_path, {**SETTINGS, "steps": 5})


def test_job_of_slurm_waits_for_a_process_on_a_lost_node(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(state, "LOCK_PATIENCE_SECONDS", 0.3)
    monkeypatch.setenv(state.IN_A_JOB, "7")
    with contextlib.ExitStack() as held:
        held.enter_context(state.StateFolder(tmp_path / "state", "f00d", "first").locked())
        threading.Timer(1.5, held.close).start()
        assert train(tmp_path, SETTINGS).steps == SETTINGS["steps"]
    assert "is already running this training" in capsys.readouterr().err


def test_request_to_stop_ends_the_wait_for_a_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "LOCK_PATIENCE_SECONDS", 0.3)
    monkeypatch.setenv(state.IN_A_JOB, "7")
    began = time.monotonic()
    with state.StateFolder(tmp_path / "state", "f00d", "first").locked():
        timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        with pytest.raises(DPLM2Error, match="is already running this training"):
            train(tmp_path, SETTINGS)
    assert time.monotonic() - began < 0.5 * state.PATIENCE_IN_A_JOB_SECONDS


def test_state_of_incompatible_code_is_refused(tmp_path):
    with pytest.raises(Preempted):
        train(tmp_path, SETTINGS, trouble={"kill_at": 7, "signal": "SIGTERM"})
    task = TinyTask()
    task.module = Network(width=8)
    with pytest.raises(DPLM2Error, match="remove the state folder"):
        train(tmp_path, SETTINGS, task=task)


def test_summary_before_the_first_step(tmp_path, capsys):
    task = TinyTask()
    task.describe = lambda batch: {"example": f"{tuple(batch['noised'].shape)}"}
    task.module.unused = torch.nn.Linear(3, 3)
    train(tmp_path, SETTINGS, task=task, freeze=["embedding"])
    said = capsys.readouterr().err
    # 2 x (32 norm + 272 linear) + 340 head + 12 unused; the embedding's 320 are frozen.
    assert "parameters: 1,280 in total, 960 trained" in said
    assert "tokens per batch" in said and "padding, 2 batches per step" in said
    assert "GB of memory" in said and "s per step" in said
    assert "device: cpu (1 threads); precision: fp32" in said and "example: (" in said
    assert "2 trained parameters have no gradient from that batch: unused.weight, unused.bias" in said


@pytest.mark.parametrize("optimizer, each", [("adamw", {"": 8}), ("muon", {"": 8, "matrix": 4})])
def test_moments_exist_before_the_trial(tmp_path, monkeypatch, optimizer, each):
    """Two moments of four bytes per weight, one for Muon's matrices: the estimate of memory includes them."""
    found = []

    def trial(run):
        found.extend(state for state in run.optimizer.state.values())
        raise Preempted("enough")

    monkeypatch.setattr(Run, "_prepare", trial)
    with pytest.raises(Preempted):
        train(tmp_path, {**SETTINGS, "optimizer": optimizer, "decay_all": optimizer != "muon"})
    # Matrices of linear layers: two of 16 x 16; 1,268 weights in total.
    matrices = 2 * 256
    expected = (1_268 - matrices) * each[""] + matrices * each.get("matrix", each[""])
    assert sum(t.nbytes for state in found for name, t in state.items() if name != "step") == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(45, "45 s"), (99, "99 s"), (100, "2 min"), (720, "12 min"), (3599, "1 h 0 min"), (11_100, "3 h 5 min")]
    + [(47 * 3600, "47 h 0 min"), (52 * 3600, "2 d 4 h")],
)
def test_durations_are_in_their_largest_units(seconds, text):
    assert log.duration(seconds) == text


def test_job_without_terminal_reports_progress(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(log, "SECONDS_BETWEEN_LINES", 0.0)
    train(tmp_path, SETTINGS)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tiny: step ")]
    assert len(lines) == 20 and "step 10 of 20 (50 %), loss " in lines[9] and "tokens/s" in lines[9]


def test_tensorboard_receives_the_metrics(straight, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, {**SETTINGS, "loggers": ["tensorboard"]})
    events = EventAccumulator(str(tmp_path / "state/f00d/tensorboard")).Reload()
    points = [(event.step, event.value) for event in events.Scalars("loss")]
    assert points == [(int(row["step"]), pytest.approx(float(row["loss"]), rel=1e-5)) for row in rows(straight)]


def test_missing_logger_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        train(tmp_path, {**SETTINGS, "loggers": ["wandb"]})


@pytest.mark.parametrize(
    "options, key",
    [({"sample_by": "cluster"}, "sample_by"), ({"strategy": "ddp"}, "strategy"), ({"strategy": "fsdp"}, "strategy")],
)
def test_settings_without_effect_here_are_refused(tmp_path, options, key):
    with pytest.raises(ConfigError, match=rf"training\.{key}"):
        train(tmp_path, {**SETTINGS, **options})


def test_features_missing_in_older_torch_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "COMPILES_ON_CPU", "99")
    with pytest.raises(ConfigError, match=r"training\.compile on a CPU needs torch 99 or newer \(here"):
        train(tmp_path, {**SETTINGS, "compile": True})


def test_full_disk_at_a_checkpoint_is_a_one_line_error(straight, tmp_path):
    import resource

    with pytest.raises(Preempted):
        train(tmp_path, SETTINGS, trouble={"kill_at": 7, "signal": "SIGTERM"})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, before[1]))
    try:
        with pytest.raises(DPLM2Error, match="cannot save step 10 .* no space left"):
            train(tmp_path, SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "state/f00d").glob(".*.tmp"))
    assert train(tmp_path, SETTINGS).resumed_from == 8
    assert same(weights(tmp_path), weights(straight))

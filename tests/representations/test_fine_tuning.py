"""Fine-tuning learns what a probe cannot read, changes what it shall, and is the same however rows share batches."""

import numpy as np
import pandas as pd
import pytest
import torch

from dplm2.cli import main
from dplm2.core.errors import DPLM2Error
from dplm2.generation.task import Target
from dplm2.representations.embedding import Embedding, embed
from dplm2.representations.features import features_of
from dplm2.representations.fine_tuning import FineTuning, _Run, fine_tune
from dplm2.representations.probe import items_of, labelled_items
from dplm2.representations.tasks import SPLITS, read_task

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
ROWS = 90


@pytest.fixture
def sequences():
    random = np.random.default_rng(0)
    return ["".join(random.choice(list(LETTERS), random.integers(6, 12))) for _ in range(ROWS)]


def table(folder, rows):
    pd.DataFrame(rows).to_csv(folder / "task.csv", index=False)
    return folder / "task.csv"


def of_proteins(sequences, labels):
    return [
        {"id": f"s{n}", "sequence": s, "label": label, "split": SPLITS[0 if n % 5 < 3 else n % 5 - 2]}
        for n, (s, label) in enumerate(zip(sequences, labels, strict=True))
    ]


def targets_of(sequences):
    return [Target(f"s{n}", sequence, None) for n, sequence in enumerate(sequences)]


@pytest.mark.parametrize("trained", ["lora", "full"])
def test_classes_are_learned_and_the_model_is_unchanged(model, tmp_path, trained):
    random = np.random.default_rng(1)
    labels = ["first" if n % 2 else "second" for n in range(ROWS)]
    halves = {"first": LETTERS[:12], "second": LETTERS[8:]}
    sequences = ["".join(random.choice(list(halves[label]), 12)) for label in labels]
    task = read_task(table(tmp_path, of_proteins(sequences, labels)), "classification")
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    settings = FineTuning(trained, learning_rate=3e-3, epochs=10, patience=10, dropout=0.0)
    items, probe = fine_tune(model, task, targets_of(sequences), 0, settings)
    after = model.network.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    assert probe.scores["accuracy"]["test"] > 0.8 and probe.outputs.shape == (ROWS, 2)
    np.testing.assert_allclose(probe.outputs.sum(1), 1, atol=1e-6)


def test_only_low_rank_updates_and_the_head_are_trained(model, sequences, tmp_path):
    task = read_task(table(tmp_path, of_proteins(sequences, range(ROWS))), "regression")
    items = labelled_items(task, [len(s) for s in sequences])
    run = _Run(model, task, targets_of(sequences), items, FineTuning("lora"), 0)
    trained = {name for name, parameter in run.network.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    plain = _Run(model, task, targets_of(sequences), items, FineTuning("full"), 0)
    assert all(parameter.requires_grad for parameter in plain.network.parameters())
    rows = np.arange(4)
    run.network.eval(), plain.network.eval(), run.head.eval()
    plain.head = run.head  # updates are zero at the start
    torch.testing.assert_close(run._forward(rows), plain._forward(rows), atol=1e-5, rtol=1e-5)


def test_outputs_do_not_depend_on_batches_and_seeds_decide(model, sequences, tmp_path):
    task = read_task(table(tmp_path, of_proteins(sequences, [s.count("A") for s in sequences])), "regression")
    targets = targets_of(sequences)
    one, again, other = (fine_tune(model, task, targets, seed, FineTuning("full", epochs=1))[1] for seed in (0, 0, 1))
    assert np.array_equal(one.outputs, again.outputs) and not np.array_equal(one.outputs, other.outputs)
    items = labelled_items(task, [len(s) for s in sequences])
    runs = [_Run(model, task, targets, items, FineTuning(token_budget=budget), 0) for budget in (8192, 30)]
    runs[1].head.load_state_dict(runs[0].head.state_dict())
    a, b = (run._outputs(np.arange(ROWS)) for run in runs)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def untrained_outputs(model, task, targets):
    """What a head gives before training, and what it gives for the features that a probe reads."""
    features = features_of(task, embed(model, targets, Embedding("none" if task.is_of_residues else "mean")))
    items, features_MF = items_of(task, features)
    run = _Run(model, task, targets, items, FineTuning("lora", token_budget=60), 0)
    found = run._outputs(np.arange(len(task.labels)))
    with torch.no_grad():
        return found, run.head(torch.tensor(features_MF, dtype=torch.float32))


@pytest.mark.parametrize("kind", ["residue-classification", "regression", "pairs"])
def test_the_head_reads_what_a_probe_reads(any_model, proteins, tmp_path, kind):
    rows = [{"id": p.name, "split": SPLITS[n % 3], "label": n, "sequence": p.sequence} for n, p in enumerate(proteins)]
    if kind == "pairs":
        kind, rows = "regression", [{**row, "id_2": proteins[n - 1].name} for n, row in enumerate(rows)]
    elif kind != "regression":
        rows = [{**row, "label": "?" + "HE" * 7} for row in rows]
        rows = [{**row, "label": row["label"][: len(row["sequence"])]} for row in rows]
    found, expected = untrained_outputs(any_model, read_task(table(tmp_path, rows), kind), proteins)
    assert len(found) == (len(proteins) if kind == "regression" else sum(p.length - 1 for p in proteins))
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def test_several_labels_and_unusable_tasks(model, sequences, tmp_path):
    labels = [";".join(letter for letter in "AC" if letter in s) for s in sequences]
    task = read_task(table(tmp_path, of_proteins(sequences, labels)), "multi-label")
    items, probe = fine_tune(model, task, targets_of(sequences), 0, FineTuning("full", epochs=1))
    assert set(probe.scores) == {"fmax", "auc"} and probe.outputs.shape == (ROWS, 2) and probe.chosen == 1
    mixed = [Target("s0", None, np.array([1, 2, 3])), *targets_of(sequences)[1:]]
    with pytest.raises(DPLM2Error, match="no track is there for all proteins"):
        fine_tune(model, task, mixed, 0)


def test_command(folders, sequences, tmp_path, capsys):
    path = table(tmp_path, of_proteins(sequences, [s.count("A") for s in sequences]))
    given = ["probe", str(path), "--task", "regression", "--out", str(tmp_path / "out"), "--probe", "lora"]
    on_model = ["--model", str(folders / "model"), "--device", "cpu"]
    assert main([*given, *on_model, "--seeds", "0", "1", "--epochs", "2", "--learning-rate", "0.001"]) == 0
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert (summary["seeds"] == 2).all() and (summary["backend"] == "lora").all() and (summary["spread"] > 0).all()
    assert main([*given, "--one-hot"]) == 2
    assert "--probe lora: trains a model; give one with --model" in capsys.readouterr().err
    assert main([*given, *on_model, "--layer", "1"]) == 2

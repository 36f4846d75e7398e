"""Probes find what is there and nothing where there is nothing; each kind of task, from tables and from the model."""

import json
import sys

import numpy as np
import pandas as pd
import pytest

from dplm2.cli import main
from dplm2.core.errors import DPLM2Error
from dplm2.generation.proteins import read_proteins
from dplm2.representations.embedding import Embedding, embed
from dplm2.representations.features import features_of
from dplm2.representations.probe import Network, fit_linear, fit_network, items_of
from dplm2.representations.tasks import SPLITS, read_task

ROWS, WIDTH = 360, 12
NAMES = [f"p{number}" for number in range(ROWS)]


@pytest.fixture(autouse=True)
def _with_scikit_learn():
    pytest.importorskip("sklearn")


@pytest.fixture
def data():
    """Features, a number that is linear in them, and splits."""
    random = np.random.default_rng(0)
    features = random.normal(size=(ROWS, WIDTH))
    return features, features @ random.normal(size=WIDTH), np.array(SPLITS)[np.arange(ROWS) % 3], random


def table(folder, labels, splits, **columns):
    rows = pd.DataFrame({"id": NAMES[: len(labels)], "label": labels, "split": splits[: len(labels)], **columns})
    rows.to_csv(folder / "task.csv", index=False)
    return folder / "task.csv"


def items(path, kind, features):
    return items_of(read_task(path, kind), list(features))


def both(features, task_items):
    yield fit_linear(features, task_items)
    yield fit_network(features, task_items, 0)


def test_regression_equals_least_squares_where_there_is_no_noise(tmp_path, data):
    features, values, splits, _ = data
    found, stacked = items(table(tmp_path, values, splits), "regression", features)
    probe = fit_linear(stacked, found)
    train, test = splits == "train", splits == "test"
    design = np.c_[features, np.ones(ROWS)]
    expected = design @ np.linalg.lstsq(design[train], values[train], rcond=None)[0]
    np.testing.assert_allclose(probe.outputs[test, 0], expected[test], atol=1e-2)
    assert probe.scores["spearman"]["test"] > 0.999
    assert fit_network(stacked, found, 0).scores["spearman"]["test"] > 0.95


def test_a_network_finds_what_a_linear_probe_cannot(tmp_path, data):
    features, _, splits, _ = data
    labels = np.where(features[:, 0] * features[:, 1] > 0, "same", "other")
    found, stacked = items(table(tmp_path, labels, splits), "classification", features[:, :3])
    linear, network = both(stacked, found)
    assert linear.scores["accuracy"]["test"] < 0.7 < 0.85 < network.scores["accuracy"]["test"]


def test_classification_finds_separable_classes_and_guesses_on_noise(tmp_path, data):
    features, values, splits, random = data
    classes = np.array(["a", "b", "c"])[np.digitize(values, np.quantile(values, [1 / 3, 2 / 3]))]
    found, stacked = items(table(tmp_path, classes, splits), "classification", features)
    assert min(probe.scores["accuracy"]["test"] for probe in both(stacked, found)) > 0.8
    found, stacked = items(table(tmp_path, random.integers(0, 3, ROWS), splits), "classification", features)
    assert all(probe.scores["accuracy"]["test"] < 0.5 for probe in both(stacked, found))
    found, stacked = items(table(tmp_path, values > 0, splits), "classification", features)
    assert all(probe.scores["auc"]["test"] > 0.97 for probe in both(stacked, found))


def test_several_labels(tmp_path, data):
    features, values, splits, _ = data
    labels = [
        ";".join(n for n, own in (("x", v > 0), ("y", f > 0.3)) if own)
        for v, f in zip(values, features[:, 0], strict=True)
    ]
    labels[splits.tolist().index("test")] = "never trained"
    found, stacked = items(table(tmp_path, labels, splits), "multi-label", features)
    assert found.names == ["never trained", "x", "y"]
    linear, network = both(stacked, found)
    assert (linear.outputs[:, 0] == 0).all()
    assert min(p.scores["fmax"]["test"] for p in (linear, network)) > 0.85 and linear.scores["auc"]["test"] > 0.8


def test_residues_are_split_by_protein_and_unlabelled_ones_left_out(tmp_path, data):
    _, _, splits, random = data
    lengths = random.integers(3, 9, 60)
    features = [random.normal(size=(length, 4)) for length in lengths]
    letters = ["".join("H" if own[0] > 0 else "E" for own in one) for one in features]
    letters[4] = "?" + letters[4][1:]
    found, stacked = items(table(tmp_path, letters, splits), "residue-classification", features)
    assert len(found.rows) == lengths.sum() - 1 and found.positions[found.rows == 4].tolist()[0] == 2
    for split in SPLITS:
        assert set(found.rows[found.splits == split]) == set(np.flatnonzero(splits[:60] == split))
    assert all(probe.scores["accuracy"]["test"] > 0.9 for probe in both(stacked, found))
    numbers = [" ".join(f"{own[1]:.4f}" for own in one) for one in features]
    numbers[7] = "? " + numbers[7].split(" ", 1)[1]
    found, stacked = items(table(tmp_path, numbers, splits), "residue-regression", features)
    assert len(found.rows) == lengths.sum() - 1
    assert fit_linear(stacked, found).scores["spearman"]["test"] > 0.999
    letters[2] += "H"
    path = table(tmp_path, letters, splits)
    with pytest.raises(DPLM2Error, match=f"row 3: {lengths[2] + 1} labels for the {lengths[2]} residues of p2"):
        items(path, "residue-classification", features)


def test_seeds_decide_the_network_and_training_stops_early(tmp_path, data):
    features, values, splits, _ = data
    found, stacked = items(table(tmp_path, values > 0, splits), "classification", features)
    one, again, other = (fit_network(stacked, found, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.outputs, again.outputs) and not np.array_equal(one.outputs, other.outputs)
    short = fit_network(stacked, found, 1, Network(epochs=int(one.chosen)))
    assert np.array_equal(short.outputs, one.outputs)  # the weights of the best epoch, not of the last


def test_outputs_of_the_network_are_without_dropout(tmp_path, data):
    features, values, splits, _ = data
    found, stacked = items(table(tmp_path, values, splits), "regression", features)
    still = {"learning_rate": 0.0, "epochs": 1}  # the initial weights, which do not depend on dropout
    with_dropout, without = (fit_network(stacked, found, 1, Network(dropout=rate, **still)) for rate in (0.5, 0.0))
    np.testing.assert_array_equal(with_dropout.outputs, without.outputs)


def test_labels_of_the_test_split_do_not_decide(tmp_path, data):
    features, values, splits, _ = data
    changed = np.where(splits == "test", 7 * values**2, values)
    first, second = (items(table(tmp_path, own, splits), "regression", features) for own in (values, changed))
    assert np.array_equal(fit_linear(first[1], first[0]).outputs, fit_linear(second[1], second[0]).outputs)


def test_features_of_pairs_do_not_depend_on_their_order(model, tmp_path, proteins):
    embeddings = embed(model, proteins)
    rows = pd.DataFrame({"id": ["p0", "p1", "p2"], "id_2": ["p1", "p3", "p0"], "label": [0.5, 1, 2], "split": SPLITS})
    rows.to_csv(tmp_path / "a.csv", index=False)
    rows.rename(columns={"id": "id_2", "id_2": "id"}).to_csv(tmp_path / "b.csv", index=False)
    a, b = (features_of(read_task(tmp_path / name, "regression"), embeddings) for name in ("a.csv", "b.csv"))
    for one, two in zip(a, b, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)
    frame = embeddings.to_pandas().set_index("chain_id")
    x, y = (np.concatenate([frame["sequence_embedding"][n], frame["structure_embedding"][n]]) for n in ("p0", "p1"))
    np.testing.assert_allclose(a[0], np.concatenate([x + y, abs(x - y), x * y]), atol=1e-6)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("id,split\na,train\n", "regression", "no column label"),
        ("id,label,split\na,x,train\nb,1,validation\nc,1,test\n", "regression", "row 1: the label 'x' is not a number"),
        ("id,label,split\na,inf,train\nb,1,validation\nc,1,test\n", "regression", "row 1: the label 'inf' is not a"),
        ("id,label,split\na,1,train\nb,1,test\n", "regression", "no row of the split validation"),
        ("id,label,split\na,1,train\nb,1,dev\n", "regression", "the split 'dev' is none of train, validation, test"),
        ("id,label,split\na,1,train\na,1,valid\nb,1,test\n", "regression", "'a' occurs twice"),
        ("id,label,split\na,,train\nb,1,valid\nc,1,test\n", "classification", "row 1: an empty cell in column label"),
        ("id,label,split\n,1,train\n", "regression", "row 1: an empty cell in column id"),
        ("id,id_2,label,split\na,b,H,train\nb,c,H,valid\nc,d,H,test\n", "residue-classification", "residues of pairs"),
        ("id,label,split\n", "regression", "no rows"),
    ],
)
def test_unusable_tables_are_refused_with_one_line(tmp_path, text, kind, message):
    (tmp_path / "task.csv").write_text(text)
    with pytest.raises(DPLM2Error) as error:
        read_task(tmp_path / "task.csv", kind)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_one_class_and_unlabelled_splits_are_refused(tmp_path, data):
    features, _, splits, _ = data
    found, stacked = items(table(tmp_path, np.where(splits == "test", "b", "a"), splits), "classification", features)
    with pytest.raises(DPLM2Error, match="the training rows have one class only"):
        fit_linear(stacked, found)


def test_a_missing_scikit_learn_is_one_clear_line(tmp_path, data, monkeypatch):
    features, values, splits, _ = data
    found, stacked = items(table(tmp_path, values, splits), "regression", features)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DPLM2Error, match=r"linear probes need scikit-learn: pip install 'dplm2\[probe\]'"):
        fit_linear(stacked, found)
    assert fit_network(stacked, found, 0, Network(epochs=1)).chosen == 1


def run(path, out, *arguments):
    return main([str(word) for word in ("probe", path, "--out", out, *arguments)])


def test_command_on_embeddings(tmp_path, data, capsys):
    features, values, splits, _ = data
    columns = {"chain_id": NAMES, "length": 5, "width": WIDTH, "sequence_embedding": list(features)}
    pd.DataFrame({**columns, "structure_embedding": None}).to_parquet(tmp_path / "embeddings.parquet")
    path = table(tmp_path, values, splits)
    given = ["--task", "regression", "--embeddings", tmp_path / "embeddings.parquet"]
    assert run(path, tmp_path / "out", *given) == 0
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert list(summary)[:7] == ["model", "task", "dataset", "metric", "value", "n", "backend"]
    assert summary["n"].tolist() == [ROWS // 3] * 3 and summary["value"][2] > 0.99
    predictions = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert (
        predictions["id"].tolist() == NAMES
        and np.corrcoef(predictions["label"], predictions["prediction"])[0, 1] > 0.99
    )
    assert run(path, tmp_path / "seeds", *given, "--probe", "network", "--seeds", 0, 1, 2) == 0
    summary = pd.read_csv(tmp_path / "seeds" / "summary.csv")
    assert (summary["seeds"] == 3).all() and (summary["spread"] > 0).all()
    assert len(json.loads((tmp_path / "seeds" / "run.json").read_text())["chosen"]) == 3
    assert run(path, tmp_path / "no", *given, "--seeds", 1) == 2
    assert run(path, tmp_path / "no", *given, "--tracks", "structure") == 1
    assert "not all proteins have a representation of the structure track" in capsys.readouterr().err
    path.write_text(path.read_text().replace("p5,", "absent,"))
    assert run(path, tmp_path / "no", *given) == 1
    assert "no representation of 'absent' (1 missing)" in capsys.readouterr().err


def test_command_embeds_the_proteins_of_a_table(folders, model, ubiquitin, tmp_path, capsys):
    (structure,) = read_proteins(model, [ubiquitin])
    letters = "ACDEFGHIKLMNPQRSTVWY"
    random = np.random.default_rng(0)
    rows = [
        {
            "id": f"s{n}",
            "sequence": "".join(random.choice(list(letters), 10)),
            "label": f"{n}.5",
            "split": SPLITS[n % 3],
        }
        for n in range(9)
    ]
    rows += [{"id": "u", "structure": str(ubiquitin), "label": "3", "split": "train"}]
    rows += [{"id": "t", "structure_tokens": "1 2 3 4", "sequence": "ACDE", "label": "2", "split": "train"}]
    pd.DataFrame(rows).to_csv(tmp_path / "task.csv", index=False)
    given = ["--task", "regression", "--model", folders / "model", "--device", "cpu"]
    assert run(tmp_path / "task.csv", tmp_path / "out", *given, "--tracks", "sequence") == 0
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 11
    assert run(tmp_path / "task.csv", tmp_path / "no", *given, "--tracks", "structure") == 1
    assert "row 1: no structure of 's0'" in capsys.readouterr().err
    rows[-1]["structure_tokens"] = "1 2 3"
    pd.DataFrame(rows).to_csv(tmp_path / "task.csv", index=False)
    assert run(tmp_path / "task.csv", tmp_path / "no", *given) == 1
    assert "row 11: 4 residues but 3 structure tokens" in capsys.readouterr().err
    # Residues: the amino acid itself is in the representation.
    rows = [{**row, "label": row["sequence"]} for row in rows[:9]]
    pd.DataFrame(rows).to_csv(tmp_path / "task.csv", index=False)
    given[1] = "residue-classification"
    assert run(tmp_path / "task.csv", tmp_path / "residues", *given, "--layer", 0) == 0
    summary = pd.read_csv(tmp_path / "residues" / "summary.csv").set_index("dataset")
    assert summary["n"]["task/train"] == 30 and summary["value"]["task/train"] == 1.0
    table = embed(model, [structure], Embedding("none"))
    assert len(table["sequence_embedding"][0].as_py()) == 76 * 16

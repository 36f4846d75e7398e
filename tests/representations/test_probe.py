"""Linear probes find linear relations, and none in noise."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from dplm2.cli import main
from dplm2.core.errors import DPLM2Error
from dplm2.representations.probe import fit_probe


def data(rows: int = 300, width: int = 12):
    random = np.random.default_rng(0)
    features = random.normal(size=(rows, width))
    direction = random.normal(size=width)
    splits = np.array(["train", "validation", "test"])[np.arange(rows) % 3]
    return features, features @ direction, splits, random


def test_regression_without_noise_equals_least_squares():
    features, values, splits, _ = data()
    probe = fit_probe(features, values, splits)
    train = splits == "train"
    design = np.c_[features[train], np.ones(train.sum())]
    solution = np.linalg.lstsq(design, values[train], rcond=None)[0]
    expected = np.c_[features, np.ones(len(features))] @ solution
    assert probe.metric == "spearman"
    assert probe.scores["test"] == pytest.approx(
        spearmanr(expected[splits == "test"], values[splits == "test"]).statistic, abs=1e-3
    )
    assert probe.scores["test"] > 0.999


def test_classification_finds_separable_classes_and_guesses_on_noise():
    features, values, splits, random = data()
    classes = np.digitize(values, np.quantile(values, [1 / 3, 2 / 3]))
    assert fit_probe(features, np.array(["a", "b", "c"])[classes], splits).scores["test"] > 0.85
    noise = random.integers(0, 3, len(values))
    assert fit_probe(features, noise, splits).scores["test"] < 0.5


def test_missing_split_is_named():
    features, values, splits, _ = data()
    with pytest.raises(DPLM2Error, match="validation"):
        fit_probe(features, values, np.where(splits == "validation", "train", splits))


def test_command_writes_predictions_and_a_summary(tmp_path, capsys):
    features, values, splits, _ = data(60)
    names = [f"p{number}" for number in range(60)]
    pd.DataFrame(
        {"chain_id": names, "length": 5, "width": 12, "sequence_embedding": list(features), "structure_embedding": None}
    ).to_parquet(tmp_path / "embeddings.parquet")
    pd.DataFrame({"chain_id": names, "label": values, "split": splits}).to_csv(tmp_path / "labels.csv", index=False)
    arguments = ["probe", str(tmp_path / "embeddings.parquet"), "--labels", str(tmp_path / "labels.csv")]
    assert main([*arguments, "--out", str(tmp_path / "probe")]) == 0
    summary = pd.read_csv(tmp_path / "probe" / "summary.csv")
    assert list(summary) == ["model", "task", "dataset", "metric", "value", "n", "backend"]
    assert summary["n"].tolist() == [20, 20, 20]
    pd.DataFrame({"chain_id": ["absent"], "label": [1.5], "split": ["train"]}).to_csv(
        tmp_path / "labels.csv", index=False
    )
    assert main([*arguments, "--out", str(tmp_path / "probe")]) == 1
    assert "no embedding of absent" in capsys.readouterr().err

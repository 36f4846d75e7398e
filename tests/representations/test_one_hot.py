"""One-hot features: closed forms, and through the command."""

import numpy as np
import pandas as pd
import pytest

from dplm2.cli import main
from dplm2.core.errors import DPLM2Error
from dplm2.generation.task import Target
from dplm2.language.vocabulary import AMINO_ACIDS
from dplm2.representations.one_hot import one_hot, one_hot_table
from dplm2.representations.tasks import SPLITS


def test_each_residue_and_its_neighbours_are_where_they_belong():
    own = one_hot("AXW")
    assert own.shape == (3, 20) and own.sum() == 2
    assert own[0, AMINO_ACIDS.index("A")] == own[2, AMINO_ACIDS.index("W")] == 1
    wide = one_hot("AXW", 2).reshape(3, 5, 20)
    for place in range(3):
        for offset in range(-2, 3):
            other = place + offset
            expected = own[other] if 0 <= other < 3 else np.zeros(20)
            assert np.array_equal(wide[place, offset + 2], expected)


def test_the_mean_is_the_composition():
    table = one_hot_table([Target("p", "AACX?", None)], of_residues=False).to_pylist()
    found = dict(zip(AMINO_ACIDS, table[0]["sequence_embedding"], strict=True))
    assert found["A"] == pytest.approx(2 / 3) and found["C"] == pytest.approx(1 / 3) and table[0]["width"] == 20
    assert sum(found.values()) == pytest.approx(1)
    for target, message in ((Target("p", None, np.array([1])), "no sequence"), (Target("p", "XX", None), "no known")):
        with pytest.raises(DPLM2Error, match=message):
            one_hot_table([target], of_residues=False)


def test_command_on_one_hot_features(tmp_path, capsys):
    pytest.importorskip("sklearn")
    random = np.random.default_rng(0)
    sequences = ["".join(random.choice(list(AMINO_ACIDS), 20)) for _ in range(150)]
    rows = {"id": [f"p{n}" for n in range(150)], "sequence": sequences, "split": [SPLITS[n % 3] for n in range(150)]}
    labels = [3 * s.count("A") - s.count("W") for s in sequences]
    pd.DataFrame({**rows, "label": labels}).to_csv(tmp_path / "task.csv", index=False)
    given = ["probe", str(tmp_path / "task.csv"), "--one-hot", "--out"]
    assert main([*given, str(tmp_path / "out"), "--task", "regression"]) == 0
    assert pd.read_csv(tmp_path / "out" / "summary.csv")["value"].min() > 0.95
    previous = ["?" + "".join("H" if letter in "AILMF" else "E" for letter in s[:-1]) for s in sequences]
    pd.DataFrame({**rows, "label": previous}).to_csv(tmp_path / "task.csv", index=False)
    scores = []
    for window in ("0", "1"):  # the label is that of the residue before
        out = str(tmp_path / window)
        assert main([*given, out, "--task", "residue-classification", "--window", window]) == 0
        scores.append(pd.read_csv(tmp_path / window / "summary.csv")["value"].min())
    assert scores[0] < 0.85 < scores[1] == 1.0
    assert main([*given, out, "--task", "regression", "--layer", "1"]) == 2
    assert "--layer: has no effect without --model" in capsys.readouterr().err

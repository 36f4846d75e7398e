"""A synthetic assay in ProteinGym's layout: read, checked, scored, correlated."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from dplm2.cli import main
from dplm2.core.errors import DPLM2Error
from dplm2.generation.inputs import chains_of
from dplm2.generation.proteins import read_proteins
from dplm2.scoring import proteingym_run
from dplm2.scoring.proteingym import average, read_assay, read_reference
from dplm2.structures.writing import write_structure
from tests.scoring.plain import effect

TARGET = "MKTAYIAKQRQISFVKSHFS"


def assay_table(model, target, noise):
    """An assay of which half follows the model's scores (from plain calls) and the rest is noise."""
    random = np.random.default_rng(3)
    rows = []
    for position in range(0, 12):
        for letter in "AGW":
            if letter != target[position]:
                score = effect(model.network, target, position, letter) + noise * random.normal()
                mutant = f"{target[position]}{position + 1}{letter}"
                sequence = target[:position] + letter + target[position + 1 :]
                rows.append((mutant, sequence, score, int(score > 0)))
    return pd.DataFrame(rows, columns=["mutant", "mutated_sequence", "DMS_score", "DMS_score_bin"])


@pytest.fixture
def gym(model, tmp_path):
    (tmp_path / "DMS").mkdir()
    for name, noise in (("A_1", 0.0), ("A_2", 1.0), ("B_1", 0.5)):
        assay_table(model, TARGET, noise).to_csv(tmp_path / "DMS" / f"{name}.csv", index=False)
    reference = pd.DataFrame({"DMS_id": ["A_1", "A_2", "B_1"], "UniProt_ID": ["A", "A", "B"]})
    reference["DMS_filename"], reference["target_seq"] = reference["DMS_id"] + ".csv", TARGET
    reference["coarse_selection_type"] = ["Stability", "Stability", "Binding"]
    reference.to_csv(tmp_path / "DMS_substitutions.csv", index=False)
    return tmp_path


def run(folders, gym, *arguments, out="out"):
    words = ["score", "proteingym", "--reference", gym / "DMS_substitutions.csv", "--assays-folder", gym / "DMS"]
    words += ["--model", folders / "model", "--device", "cpu", "--out", gym / out, *arguments]
    return main([str(word) for word in words])


def test_spearman_of_each_assay_and_the_average(folders, gym, capsys):
    assert run(folders, gym) == 0
    summary = pd.read_csv(gym / "out" / "summary.csv").set_index("DMS_id")
    assert summary["spearman"]["A_1"] == pytest.approx(1.0) and summary["auc"]["A_1"] == 1.0
    for name in summary.index:
        measured = pd.read_csv(gym / "DMS" / f"{name}.csv")
        scores = pd.read_csv(gym / "out" / "scores" / f"{name}.csv")
        assert scores["mutant"].tolist() == measured["mutant"].tolist()
        assert summary["spearman"][name] == pytest.approx(spearmanr(scores["score"], measured["DMS_score"]).statistic)
    expected = (summary["spearman"][["A_1", "A_2"]].mean() + summary["spearman"]["B_1"]) / 2
    note = json.loads((gym / "out" / "run.json").read_text())
    assert note["average_spearman"] == pytest.approx(expected) and note["assays"] == 3
    assert f"3 assays, Spearman {expected:.3f}" in capsys.readouterr().out


def test_only_changed_assays_are_scored_again(folders, gym, monkeypatch, capsys):
    assert run(folders, gym, "--assays", "A_1", "A_2") == 0
    first = (gym / "out" / "summary.csv").read_text()
    scored, plain = [], proteingym_run.mutant_scores

    def counted(model, target, *others):
        scored.append(target.name)
        return plain(model, target, *others)

    monkeypatch.setattr(proteingym_run, "mutant_scores", counted)
    assert run(folders, gym, "--assays", "A_1", "A_2") == 0
    assert scored == [] and (gym / "out" / "summary.csv").read_text() == first
    table = pd.read_csv(gym / "DMS" / "A_2.csv")
    table.iloc[1:].to_csv(gym / "DMS" / "A_2.csv", index=False)
    (gym / "out" / "scores" / "A_1.csv").write_text("mutant,DMS_score,score\n")  # damaged
    assert run(folders, gym) == 0
    assert scored == ["A_1", "A_2", "B_1"]
    for changed in (["--window", "5"], ["--window", "5", "--marginals", "wild-type"]):
        scored.clear()
        assert run(folders, gym, *changed) == 0
        assert scored == ["A_1", "A_2", "B_1"]


def test_structures_of_the_reference_are_given_to_the_model(folders, model, gym, ubiquitin):
    (chain,) = chains_of(ubiquitin)
    (gym / "pdb").mkdir()
    write_structure(gym / "pdb" / "u.pdb", chain.sequence, chain.backbone)
    target = f"GG{chain.sequence}"
    table = pd.DataFrame({"mutant": ["M3A", "K8A", "G1A"], "DMS_score": [0.5, 0.1, 0.3]})
    table.to_csv(gym / "DMS" / "u.csv", index=False)
    reference = {"DMS_id": ["u"], "DMS_filename": ["u.csv"], "target_seq": [target], "pdb_file": ["u.pdb"]}
    pd.DataFrame({**reference, "pdb_range": ["3-78"]}).to_csv(gym / "DMS_substitutions.csv", index=False)
    assert run(folders, gym, "--structures", gym / "pdb") == 0
    scores = pd.read_csv(gym / "out" / "scores" / "u.csv")["score"]
    tokens = np.concatenate([[-1, -1], read_proteins(model, [gym / "pdb" / "u.pdb"])[0].structure_tokens])
    expected = [effect(model.network, target, i, "A", tokens) for i in (2, 7, 0)]
    np.testing.assert_allclose(scores, expected, atol=5e-5)
    assert run(folders, gym, out="alone") == 0
    assert not np.allclose(pd.read_csv(gym / "alone" / "scores" / "u.csv")["score"], expected, atol=1e-3)
    pd.DataFrame({**reference, "pdb_range": ["2-77"]}).to_csv(gym / "DMS_substitutions.csv", index=False)
    assert run(folders, gym, "--structures", gym / "pdb", out="wrong") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mutant": "A1G"}, "A_1.csv, row 1: A1G: residue 1 of A_1 is M, not A"),
        ({"DMS_score": "nan"}, "A_1.csv, row 1: DMS_score is 'nan', not a number"),
        ({"DMS_score": "high"}, "A_1.csv, row 1: DMS_score is 'high', not a number"),
        ({"mutated_sequence": TARGET}, "A_1.csv, row 1: M1A: mutated_sequence is not target_seq with these mutations"),
    ],
)
def test_errors_are_found_before_scoring(folders, gym, capsys, change, message):
    table = pd.read_csv(gym / "DMS" / "A_1.csv", dtype=str)
    for column, value in change.items():
        table.loc[0, column] = value
    table.to_csv(gym / "DMS" / "A_1.csv", index=False)
    assert run(folders, gym) == 1
    assert message in capsys.readouterr().err
    assert not (gym / "out" / "scores").exists()


def test_missing_column_or_assay_is_named(gym):
    with pytest.raises(DPLM2Error, match="no assay 'C_1'; there: A_1, A_2, B_1"):
        read_reference(gym / "DMS_substitutions.csv", ["C_1"])
    (gym / "DMS" / "A_1.csv").write_text("mutant,fitness\nM1A,2\n")
    with pytest.raises(DPLM2Error, match="A_1.csv: no column DMS_score"):
        read_assay(read_reference(gym / "DMS_substitutions.csv")[0], gym / "DMS")


def test_average_is_over_assays_then_proteins_then_selection_types():
    rows = pd.DataFrame({"UniProt_ID": ["a", "a", "b", "c"], "coarse_selection_type": ["s", "s", "s", "t"]})
    assert average(rows.assign(x=[0.2, 0.4, 0.5, 0.8]), "x") == pytest.approx(((0.3 + 0.5) / 2 + 0.8) / 2)
    assert average(rows.assign(x=[0.2, 0.4, 0.5, np.nan]), "x") == pytest.approx(0.4)
    assert average(rows.assign(x=[0.2, 0.4, 0.5, 0.8], UniProt_ID=""), "x") == pytest.approx(0.475)

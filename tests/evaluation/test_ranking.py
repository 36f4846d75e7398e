"""The ranking of designs, against orders worked out by hand; the filters before it; the files that hold them."""

import json
import math
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from biotite.sequence.io.fasta import FastaFile
from biotite.structure import filter_amino_acids, rmsd
from biotite.structure.io import pdb, pdbx

from dplm2.cli import main
from dplm2.core.artifacts import write_json
from dplm2.core.errors import DPLM2Error
from dplm2.evaluation.designs import rank_designs
from dplm2.evaluation.filters import counts, filtered, longest_run
from dplm2.evaluation.metrics.registry import declared
from dplm2.evaluation.ranking import better_than, rank
from dplm2.evaluation.samples import EvaluatedSample
from dplm2.generation.samples import write_rows
from dplm2.settings.designs import RANKINGS, FilterSettings, RankedMetric, RankingSettings

FOUR = pd.DataFrame(
    {
        "id": list("abcd"),
        "sc_tm": [0.9, 0.5, 0.7, 0.5],
        "sc_rmsd": [3.0, 1.0, 2.0, 4.0],
        "helix": [0.1, 0.2, 0.3, 0.4],
        "failed": False,
    }
)


def order(settings: dict, metrics: pd.DataFrame = FOUR, task: str = "co-generation") -> str:
    return "".join(rank(metrics, RankingSettings.make(**settings), task).table["id"])


@pytest.mark.parametrize(
    ("settings", "expected", "scores"),
    [
        # Of the others, scTM of a is above 3, c 2, b and d half of the one that equals them.
        ({"weights": {"sc_tm": 1}}, "acbd", [1, 2 / 3, 1 / 6, 1 / 6]),
        # A low RMSD is better: b 3/3, c 2/3, a 1/3, d 0.
        ({"weights": {"sc_rmsd": 2}}, "bcad", [1, 2 / 3, 1 / 3, 0]),
        # (1 + 1/3)/2 = a, (2/3 + 2/3)/2 = c, (1/6 + 1)/2 = b, (1/6 + 0)/2 = d.
        ({"weights": {"sc_tm": 1, "sc_rmsd": 1}}, "acbd", [2 / 3, 2 / 3, 7 / 12, 1 / 12]),
        # (1 + 3 * 1/3)/4 = a, (2/3 * 4)/4 = c, (1/6 + 3)/4 = b, (1/6)/4 = d.
        ({"weights": {"sc_tm": 1, "sc_rmsd": 3}}, "bcad", [19 / 24, 2 / 3, 1 / 2, 1 / 24]),
        ({"weights": {"helix": 1}}, "dcba", [1, 2 / 3, 1 / 3, 0]),
        ({"weights": {"helix": -1}}, "abcd", [1, 2 / 3, 1 / 3, 0]),
        # Those that pass come first, however good the others are.
        ({"weights": {"sc_tm": 1}, "at_most": {"sc_rmsd": 2}}, "cbad", [2 / 3, 1 / 6, 1, 1 / 6]),
        ({"weights": {"sc_tm": 1}, "at_least": {"helix": 0.2}, "at_most": {"sc_rmsd": 2}}, "cbad", None),
        # The defaults of the task, without what was not measured (pLDDT).
        ({}, "acbd", [2 / 3, 2 / 3, 7 / 12, 1 / 12]),
    ],
)
def test_the_order_is_the_one_worked_out_by_hand(settings, expected, scores):
    assert order(settings) == expected
    if scores is not None:
        table = rank(FOUR, RankingSettings.make(**settings), "co-generation").table
        np.testing.assert_allclose(table["score"], scores)


def test_equal_designs_keep_their_order():
    assert order({"weights": {"sc_tm": 1}}) == "acbd" and order({"weights": {"sc_tm": 1}}, FOUR[::-1]) == "acdb"
    both = {"weights": {"sc_tm": 1, "sc_rmsd": 1}}  # a and c are equal
    assert order(both) == "acbd" and order(both, FOUR[::-1]) == "cabd"
    assert order({"weights": {"plddt": 1}}, FOUR[::-1]) == "dcba"  # not measured


def test_a_threshold_is_passed_by_the_value_itself():
    table = rank(FOUR, RankingSettings.make(at_least={"sc_tm": 0.7}, at_most={"sc_rmsd": 3.0}), "co-generation").table
    assert set(table["id"][table["passes"]]) == {"a", "c"}


def test_the_score_does_not_depend_on_units_or_order():
    settings = RankingSettings.make(weights={"sc_tm": 1, "sc_rmsd": 2, "helix": -0.5})
    expected = rank(FOUR, settings, "co-generation").table.set_index("id")["score"]
    stretched = FOUR.assign(sc_rmsd=np.exp(FOUR["sc_rmsd"]), sc_tm=100 * FOUR["sc_tm"] - 7).sample(
        frac=1, random_state=1
    )
    pd.testing.assert_series_equal(
        rank(stretched, settings, "co-generation").table.set_index("id")["score"].sort_index(), expected.sort_index()
    )


def test_failed_designs_come_last_without_rank_and_others_are_not_compared_with_them():
    metrics = FOUR.assign(failed=[True, False, False, False])
    table = rank(metrics, RankingSettings.make(weights={"sc_tm": 1}), "co-generation").table
    assert table["id"].tolist() == ["c", "b", "d", "a"]
    assert table["rank"].tolist()[:3] == [1, 2, 3] and pd.isna(table["rank"].iloc[3])
    np.testing.assert_allclose(table["score"][:3], [1, 1 / 4, 1 / 4])
    assert table["passes"].tolist() == [True, True, True, False]


def test_a_design_without_a_metric_is_below_all_that_have_it():
    metrics = FOUR.assign(sc_tm=[0.9, np.nan, 0.1, np.nan])
    table = rank(metrics, RankingSettings.make(weights={"sc_tm": 1}, at_least={"sc_tm": 0}), "co-generation").table
    assert table["id"].tolist() == ["a", "c", "b", "d"]
    assert table["passes"].tolist() == [True, True, False, False]


def test_what_no_design_has_is_told_and_left_out():
    ranking = rank(FOUR, RankingSettings.make(weights={"plddt": 1}, at_least={"recovery": 0.9}), "co-generation")
    assert ranking.missing == ("plddt", "recovery") and ranking.weights == {}
    assert ranking.table["id"].tolist() == list("abcd")
    assert ranking.table["rank"].isna().all() and ranking.table["score"].isna().all()


def test_better_than_counts_pairs():
    random = np.random.default_rng(3)
    values = random.integers(0, 6, 40).astype(float)
    for higher in (True, False):
        wins = [
            sum((v > w if higher else v < w) + (v == w) / 2 for j, w in enumerate(values) if i != j) / 39
            for i, v in enumerate(values)
        ]
        np.testing.assert_allclose(better_than(values, higher), wins)
    assert better_than(np.array([5.0]), True).tolist() == [1.0]


def test_every_metric_to_rank_by_is_declared_and_the_defaults_are_among_them():
    names = get_args(RankedMetric)
    assert all(declared(name) is not None for name in names)
    assert {name for weights in RANKINGS.values() for name in weights} <= set(names)


def test_longest_run():
    assert [longest_run(text) for text in ("", "A", "AAB", "ABBBA", "ABAB")] == [0, 1, 2, 3, 1]


def sample(name: str, sequence: str = "ACDEFGHIKL", task: str = "co-generation", **more) -> EvaluatedSample:
    return EvaluatedSample(name, "m", task, sequence, **more)


def chain(length: int) -> np.ndarray:
    """A straight chain: nothing clashes, no bond is broken."""
    step = np.array([[0, 0, 0], [1.46, 0, 0], [2.98, 0, 0], [2.98, 1.23, 0]])
    return (step + np.arange(length)[:, None, None] * np.array([2.98 + 1.329, 0, 0])).astype(np.float32)


def test_filters_leave_out_what_they_say_and_count_it():
    broken = chain(10)
    broken[5:] += 3.0
    clashing = np.concatenate([chain(5), chain(5)])
    samples = [
        sample("good", backbone=chain(10)),
        sample("repeats", "AAAAACDEFG", backbone=chain(10)),
        sample("poor", "ACACACACAC", backbone=chain(10)),
        sample("clashing", backbone=clashing),
        sample("broken", backbone=broken),
    ]
    limits = {
        "max_repeat": 4,
        "min_sequence_entropy": 1.0,
        "max_clashes_per_100_residues": 0,
        "max_broken_bonds": 0.1,
    }
    left_out = filtered(samples, FilterSettings.make(**limits))
    # Entropy of two letters in equal shares: log 2. One bond of nine is broken.
    assert left_out["poor"] == f"min_sequence_entropy: {math.log(2):.4g} (at least 1)"
    assert left_out["repeats"] == "max_repeat: 5 (at most 4)"
    assert left_out["broken"] == f"max_broken_bonds: {1 / 9:.4g} (at most 0.1)"
    assert left_out["clashing"].startswith("max_clashes_per_100_residues: ")
    assert set(left_out) == {"repeats", "poor", "clashing", "broken"}
    told = counts({**left_out, "x": "9 residues", "y": "max_repeat: 7 (at most 4)"})
    assert told.startswith("max_repeat: 2, min_sequence_entropy: 1, max_clashes_per_100_residues: 1, ")
    assert told.endswith("max_broken_bonds: 1, name or length: 1")
    assert filtered(samples, FilterSettings.make()) == {}
    assert filtered([samples[1]], FilterSettings.make(max_repeat=5)) == {}


def test_filters_of_sequences_leave_backbones_alone_and_a_missing_likelihood_is_an_error():
    limits = FilterSettings.make(max_repeat=1, min_sequence_entropy=3.0)
    assert filtered([sample("b", "", task="backbone", backbone=chain(9))], limits) == {}
    likely = FilterSettings.make(min_log_likelihood=-2)
    found = filtered([sample("a", log_likelihood=-2.0), sample("b", log_likelihood=-2.1)], likely)
    assert found == {"b": "min_log_likelihood: -2.1 (at least -2)"}
    with pytest.raises(DPLM2Error, match="sample c has no log_likelihood; generate with likelihood: true"):
        filtered([sample("c")], likely)


def turned(backbone: np.ndarray) -> np.ndarray:
    angle = 0.7
    rotation = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    return (backbone @ rotation + np.array([20.0, -3.0, 8.0])).astype(np.float32)


@pytest.fixture
def evaluated(tmp_path):
    """Four samples, the last of them filtered, and their evaluation as the stages leave them."""
    random = np.random.default_rng(0)
    rows, folded = [], []
    for number, name in enumerate(["d_0", "d_1", "d_2", "d_3"]):
        backbone = random.normal(0, 8, (12, 4, 3)).astype(np.float32)
        rows.append(
            {
                "sample_id": name, "model": "m", "task": "co-generation", "problem": "length-12", "seed": 0,
                "length": 12, "sequence": "ACDEFGHIKLMN"[number:] + "ACD"[:number],
                "backbone": backbone.ravel().tolist(), "tokenizer_plddt": [50.0 + number] * 12,
                "log_likelihood": -2.0 - number, "steps": 1, "settings": "{}",
            }
        )  # fmt: skip
        prediction = {"backbone": turned(backbone).ravel().tolist(), "plddt": [float(number)] * 12}
        folded.append({"sample_id": name, "sequence": rows[-1]["sequence"], **prediction})
    write_rows(tmp_path / "samples" / "samples.parquet", rows)
    (tmp_path / "samples" / "structures").mkdir()
    for row in rows:
        (tmp_path / "samples" / "structures" / f"{row['sample_id']}.pdb").touch()
    (tmp_path / "evaluation").mkdir()
    metrics = pd.DataFrame(
        {"sample_id": ["d_0", "d_1", "d_2"], "model": "m", "task": "co-generation", "problem": "length-12",
         "length": 12, "backend": "command", "failed": [False, False, True], "failure": [None, None, "too odd"],
         "sc_tm": [0.4, 0.8, np.nan], "sc_rmsd": [5.0, 1.5, np.nan]}
    )  # fmt: skip
    metrics.to_parquet(tmp_path / "evaluation" / "metrics.parquet")
    pd.DataFrame(folded[:2]).to_parquet(tmp_path / "evaluation" / "folded.parquet")
    write_json(tmp_path / "evaluation" / "run.json", {"left_out": {"d_3": "max_repeat: 9 (at most 4)"}})
    return tmp_path, rows


def test_the_table_holds_every_sample_with_all_that_is_known(evaluated):
    folder, rows = evaluated
    rank_designs(folder / "samples", folder / "evaluation", folder / "out", RankingSettings.make(best=1))
    table = pd.read_csv(folder / "out" / "designs.csv")
    assert table["id"].tolist() == ["d_1", "d_0", "d_2", "d_3"]
    assert table["rank"].tolist()[:2] == [1, 2] and table["rank"].isna().tolist() == [False, False, True, True]
    assert table["failure"].fillna("").tolist() == ["", "", "too odd", "max_repeat: 9 (at most 4)"]
    assert table["sc_tm"].tolist()[:2] == [0.8, 0.4]
    assert table["tokenizer_plddt"].tolist() == [51, 50, 52, 53]
    assert table["log_likelihood"].tolist() == [-3, -2, -4, -5]
    by_id = {row["sample_id"]: row["sequence"] for row in rows}
    assert table["sequence"].tolist() == [by_id[name] for name in table["id"]]
    for path in table["file"]:
        assert (folder / "out" / path).is_file()
    assert table["file"][0] == "best/001_d_1.pdb" and table["prediction"][0] == "best/001_d_1_folded.pdb"
    assert table["prediction"].isna().tolist() == [False, True, True, True]
    fasta = FastaFile.read(folder / "out" / "designs.fasta")
    assert {header.split()[0]: text for header, text in fasta.items()} == by_id
    assert [header.split()[0] for header in fasta] == table["id"].tolist()
    best = list(FastaFile.read(folder / "out" / "best" / "best.fasta"))
    assert best == ["d_1 rank=1 score=1 problem=length-12 length=12 sc_tm=0.8 sc_rmsd=1.5"]
    record = json.loads((folder / "out" / "run.json").read_text())
    assert record["best"] == ["d_1"] and record["passing"] == 2 and record["missing"] == ["plddt"]


@pytest.mark.parametrize("structure_format", ["pdb", "mmcif", "bcif"])
def test_the_best_are_read_back_with_their_predictions_superimposed(evaluated, structure_format):
    folder, rows = evaluated
    settings = RankingSettings.make(format=structure_format)
    rank_designs(folder / "samples", folder / "evaluation", folder / "out", settings)
    ending = {"mmcif": "cif"}.get(structure_format, structure_format)

    def read(name: str):
        path = folder / "out" / "best" / f"{name}.{ending}"
        if structure_format == "pdb":
            return pdb.PDBFile.read(path).get_structure(model=1, extra_fields=["b_factor"])
        kind = pdbx.CIFFile if structure_format == "mmcif" else pdbx.BinaryCIFFile
        return pdbx.get_structure(kind.read(path), model=1, extra_fields=["b_factor"])

    design, prediction = read("001_d_1"), read("001_d_1_folded")
    assert filter_amino_acids(design).all()
    np.testing.assert_allclose(design.coord.ravel(), rows[1]["backbone"], atol=2e-3)
    # The prediction is the design, turned: superimposed it is the design again.
    assert rmsd(design, prediction) < 2e-3
    assert set(prediction.b_factor) == {1.0} and set(design.b_factor) == {51.0}


def test_a_second_ranking_leaves_no_structure_of_the_first(evaluated):
    folder, _ = evaluated
    for weights in ({"sc_tm": 1}, {"sc_rmsd": -1}):
        settings = RankingSettings.make(weights=weights, best=1)
        rank_designs(folder / "samples", folder / "evaluation", folder / "out", settings)
        (folder / "out" / "best" / "notes.txt").write_text("mine")
    names = {path.name for path in (folder / "out" / "best").iterdir()}
    assert names == {"001_d_0.pdb", "001_d_0_folded.pdb", "best.fasta", "notes.txt"}


def test_the_command_says_what_it_did(evaluated, capsys):
    folder, _ = evaluated
    words = ["rank", "--samples", folder / "samples", "--evaluation", folder / "evaluation", "--out", folder / "out"]
    assert main([*map(str, words), "--set", "ranking.at_least={sc_tm: 0.5}", "ranking.best=5"]) == 0
    said = capsys.readouterr().out
    assert "not measured here, left out of the ranking: plddt" in said
    assert "designs.csv (2 ranked, 1 within the thresholds, 2 without metrics, see the column failure)" in said
    assert f"best: {folder / 'out' / 'best'} (1)" in said
    assert main([*map(str, words), "--set", "ranking.weights={sctm: 1}"]) == 2
    assert "unknown key 'sctm' (did you mean 'sc_tm'?)" in capsys.readouterr().err


def test_an_evaluation_of_other_samples_is_refused(evaluated):
    folder, rows = evaluated
    write_rows(folder / "samples" / "samples.parquet", rows[:2] + [{**rows[2], "sample_id": "x"}])
    with pytest.raises(DPLM2Error, match="evaluated other samples than these"):
        rank_designs(folder / "samples", folder / "evaluation", folder / "out", RankingSettings.make())
    write_rows(folder / "samples" / "samples.parquet", [*rows, {**rows[2], "sample_id": "x"}])
    with pytest.raises(DPLM2Error, match=r"lacks 1 of the samples \(x, ...\); evaluate them again"):
        rank_designs(folder / "samples", folder / "evaluation", folder / "out", RankingSettings.make())

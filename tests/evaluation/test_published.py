"""Comparison with published values."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dplm2.evaluation.published import (
    COUNTERPARTS,
    beside_published,
    compare_summaries,
    compare_with_published,
    published,
)
from dplm2.evaluation.results import Source, describe, rule_note, summary_row
from dplm2.settings import load


def rows(task: str, dataset: str, *figures: tuple, group: str = "") -> pd.DataFrame:
    source = Source("mine", task, dataset, "esmfold")
    return pd.DataFrame(
        [
            summary_row(source, metric, value, 100, 0, median, low, high) | {"group": group}
            for metric, value, median, low, high in figures
        ]
    )


def test_every_counterpart_is_in_the_published_table():
    there = {(row["task"], row["metric"]) for row in published()}
    assert len(published()) == 1692
    for counterpart in COUNTERPARTS:
        assert (counterpart.published_task, counterpart.published_metric) in there


def test_differences_intervals_and_missing_values():
    summary = rows("inverse-folding", "cameo2022", ("recovery", 0.5, 0.51, 0.48, 0.52))
    table = compare_with_published(summary, "DPLM-2 650M")
    # DPLM-2 v1, table 5, CAMEO 2022, 650M: recovery 49.01 mean and 50.10 median, scTM 0.88 and 0.93.
    recovery = table[table["metric"] == "recovery"].set_index("statistic")
    assert recovery.loc["mean", "published"] == pytest.approx(0.4901)
    assert recovery.loc["mean", "difference"] == pytest.approx(0.0099)
    assert recovery.loc["mean", "in_interval"] == "yes"
    assert recovery.loc["median", "published"] == pytest.approx(0.501)
    assert recovery.loc["median", "difference"] == pytest.approx(0.009)
    consistency = table[table["metric"] == "sc_tm"]
    assert sorted(consistency["published"]) == [0.88, 0.93]
    assert set(consistency["ours"]) == {"missing"}


def test_published_value_outside_the_interval_is_marked():
    table = compare_with_published(
        rows("co-generation", "unconditional", ("sc_tm", 0.5, 0.5, 0.45, 0.55)), "DPLM-2 650M"
    )
    line = table[table["metric"] == "sc_tm"].iloc[0]
    assert (line["published"], line["in_interval"]) == (0.925, "no")


def test_each_ablation_is_compared_with_its_own_value():
    """DPLM-2, table 3: without sequence pre-training and on PDB alone scTM at length 100 is 0.9241, with it 0.9610."""
    ours = rows("co-generation", "unconditional", ("sc_tm", 0.9, 0.9, 0.8, 1.0), group="length=100")
    names = {"plain": "DPLM-2 650M no seq-pretrain, no synthetic", "warm": "DPLM-2 650M seq-pretrain, no synthetic"}
    table = compare_with_published(pd.concat([ours.assign(model=name) for name in (*names, "unnamed")]), names)
    table = table[(table["metric"] == "sc_tm") & (table["group"] == "length=100")].set_index("model")
    assert table["published"].to_dict() == {"plain": 0.9241, "warm": 0.961}
    ablations = load(Path(__file__).parents[2] / "config" / "ablations.yaml")
    named = ablations.report.published_model
    assert set(named) == set(ablations.models)
    assert set(named.values()) <= {row["model"] for row in published() if row["task"] == "ablation_cogen"}


DESIGNABLE = "max_cluster_foldseek_0.5_designable_sc_tm_0.5"
WITHOUT = "DPLM-2 650M no seq-pretrain, no synthetic"


@pytest.mark.parametrize(
    ("task", "metric", "group", "model", "published_figure"),
    [
        # DPLM-2, table 2: MaxCluster and inner-TM, by task.
        ("co-generation", DESIGNABLE, "", "DPLM-2 650M", 0.545),
        ("backbone", DESIGNABLE, "", "DPLM-2 650M", 0.575),
        ("sequence", "max_cluster_foldseek_0.5", "", "DPLM-2 650M", 0.7),
        ("co-generation", "inner_tm_foldseek", "", "DPLM-2 650M", 0.703),
        ("co-generation", "inner_tm_tm_align", "", "DPLM-2 650M", 0.703),
        # Tables 3 and 8: clusters of 100 at a length.
        ("co-generation", DESIGNABLE, "length=100", WITHOUT, 0.20),
        ("co-generation", DESIGNABLE, "length=500", "DPLM-2 650M self-mixup on", 0.38),
        # The released checkpoint's values, from the authors' notebook.
        ("co-generation", DESIGNABLE, "length=100", "DPLM-2 650M", 0.68),
        ("co-generation", DESIGNABLE, "length=500", "DPLM-2 650M", 0.53),
    ],
)
def test_diversity_is_compared_with_the_published_value(task, metric, group, model, published_figure):
    ours = rows(task, "unconditional", (metric, 0.5, np.nan, np.nan, np.nan), group=group)
    table = compare_with_published(ours, model)
    line = table[(table["metric"] == metric) & (table["group"] == group)]
    assert line["published"].tolist() == pytest.approx([published_figure])
    assert line["difference"].tolist() == pytest.approx([0.5 - published_figure])


@pytest.mark.parametrize(("model", "published_figure"), [("DPLM-2 650M", 18), ("DPLM-2 3B", "missing")])
def test_motif_results_are_compared_with_the_same_model(model, published_figure):
    ours = rows("scaffolding", "motif problems", ("problems_solved", 20, np.nan, np.nan, np.nan))
    table = compare_with_published(ours, model)
    assert table.loc[table["metric"] == "problems_solved", "published"].tolist() == [published_figure]


def test_motif_problems_are_compared_one_by_one():
    summary = pd.concat(
        [
            rows("scaffolding", "motif problems", ("success_motif_rmsd_1", 0.9, 1, 0.8, 1), group="problem=1PRW"),
            rows("scaffolding", "motif problems", ("problems_solved", 20, np.nan, np.nan, np.nan)),
        ]
    )
    table = compare_with_published(summary, "DPLM-2 650M")
    prw = table[table["group"] == "problem=1PRW"].iloc[0]
    assert (prw["published"], prw["ours"]) == (0.84, 0.9)
    solved = table[table["metric"] == "problems_solved"].iloc[0]
    assert (solved["published"], solved["difference"], solved["in_interval"]) == (18, 2, "no interval")
    assert (table["group"].str.startswith("problem=")).sum() == 24


def test_metric_without_published_value_is_reported():
    table = compare_with_published(rows("folding", "my proteins", ("tm_score", 0.5, 0.5, 0.4, 0.6)), "DPLM-2 650M")
    assert table["published"].tolist() == ["missing"]


def test_tables_are_written(tmp_path):
    rows("folding", "CAMEO2022", ("tm_score", 0.8, 0.86, 0.75, 0.84)).drop(columns="group").to_csv(
        tmp_path / "summary.csv", index=False
    )
    assert compare_summaries([tmp_path], "DPLM-2 650M", tmp_path / "out") == 0
    written = pd.read_parquet(tmp_path / "out" / "comparison.parquet")
    assert written["published"].dtype == float
    assert 0.79 in written["published"].tolist()
    assert set(written.loc[written["ours"].notna(), "failed_rule"]) == {"left out"}
    text = (tmp_path / "out" / "folding.tex").read_text()
    assert r"tm\_score" in text
    assert text.count(r"\\") == 1 + len(written)


def test_reconstruction_is_printed_with_the_published_value(tmp_path):
    """DPLM-2, figure 2A: the tokenizer with 8,192 codes reconstructs CAMEO 2022 at an RMSD of 2.58."""
    for dataset, expected in (("cameo2022", "LFQ-8k"), ("mine", "no published values")):
        summary = rows("reconstruction", dataset, ("ca_rmsd_trained", 4.25, 4.0, 4.0, 4.5))
        summary.to_csv(tmp_path / "summary.csv", index=False)
        text = beside_published(tmp_path)
        assert expected in text
        line = "mean 4.25 4 4.5 2.58 1.67 no 100 0"
        assert (line in " ".join(text.split())) == (dataset == "cameo2022")


@pytest.mark.parametrize(
    ("table", "line"),
    [
        # DPLM-2, table 4: TM-score 0.79 on CAMEO 2022.
        ("compared", "0.8 0.75 0.84 0.79 0.01 yes 97 3"),
        ("latex", r"mean & 0.8 & 0.75 & 0.84 & 0.79 & 0.01 & yes & 97 & 3 \\"),
        ("summed up", "tm_score 0.8 0.75 0.84 0.86 97 3 esmfold"),
    ],
)
def test_tables_have_intervals_and_the_rule_for_failed_samples(tmp_path, capsys, table, line):
    source = Source("mine", "folding", "CAMEO2022", "esmfold")
    summary = [summary_row(source, "tm_score", 0.8, 97, 3, 0.86, 0.75, 0.84)]
    pd.DataFrame(summary).to_csv(tmp_path / "summary.csv", index=False)
    compare_summaries([tmp_path], "DPLM-2 650M", tmp_path / "out")
    texts = {
        "compared": capsys.readouterr().out,
        "latex": (tmp_path / "out" / "folding.tex").read_text(),
        "summed up": describe(summary),
    }
    text = " ".join(texts[table].split())
    assert line in text
    assert "failed samples are left out of quantities" in text
    assert "misses" not in text  # no fractions in these tables


def test_table_with_both_rules_states_both():
    note = rule_note(["counted as a miss", "left out", "left out", "missing"])
    assert note.startswith("failed samples are left out of quantities; failed samples count as misses in shares")

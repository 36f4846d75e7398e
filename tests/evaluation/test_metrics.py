"""Metrics are declared once, with the direction that is usual in the field."""

import pkgutil
import re

import pandas as pd
import pytest

from dplm2.evaluation.benchmarks.diversity import ALL_PAIRS
from dplm2.evaluation.benchmarks.scaffolding import success_column
from dplm2.evaluation.benchmarks.self_consistency import designable_columns
from dplm2.evaluation.metrics.metric import CONFIDENCE, SHARE
from dplm2.evaluation.metrics.registry import HEADLINES, METRICS, declared, metric_of, threshold_columns
from dplm2.evaluation.published import published
from dplm2.language.likelihood import MEASURED_TASKS
from dplm2.language.vocabulary import TRACKS
from dplm2.report.figures import training
from dplm2.report.labels import TASKS as EVALUATED
from dplm2.report.results import Curve
from dplm2.settings.evaluation import EvaluationSettings
from tests.evaluation.conftest import undeclared
from tests.report.tree import make_results

# Written by hand. Novelty and diversity: low TM-scores to known structures and between samples, and many clusters, are
# better.
HIGHER = """
    secondary_structure secondary_structure_trained baseline_secondary_structure
    tm_score tm_score_released lddt_ca plddt tokenizer_plddt match_tm_score_0.8
    tm_score_trained tm_score_released_trained lddt_ca_trained codebook_use_trained codebook_perplexity_trained
    baseline_tm_score baseline_tm_score_released baseline_lddt_ca baseline_plddt
    sc_tm sc_tm_released sc_lddt_ca log_likelihood designable_sc_tm_0.5 designable_sc_rmsd_2 recovery recovery_released
    success_motif_rmsd_1 passes_motif_rmsd_1 problems_solved
    clusters_foldseek_0.5 max_cluster_foldseek_0.5
    clusters_foldseek_0.5_designable_sc_tm_0.5 clusters_foldseek_0.5_designable_sc_rmsd_2
    max_cluster_foldseek_0.5_designable_sc_tm_0.5 max_cluster_foldseek_0.5_designable_sc_rmsd_2
    codebook_use codebook_perplexity spearman accuracy fmax auc codebook_entropy codes_used code_perplexity
"""
LOWER = """
    ca_rmsd bb_rmsd ca_rmsd_trained bb_rmsd_untrained baseline_ca_rmsd baseline_bb_rmsd
    sc_rmsd sc_ca_rmsd motif_rmsd motif_rmsd_generated inner_tm_foldseek pdb_tm
    clashes_per_100_residues broken_bonds bond_deviation
    sequence_cross_entropy_trained structure_cross_entropy_untrained_folding sequence_perplexity_trained
    loss loss_sequence cross_entropy cross_entropy_structure cross_entropy_joint cross_entropy_sequence_folding
    fape local_fape distogram violation sequence confidence distance chain chain_outliers commitment sample_entropy
    rmsd rmsd_median
"""
NEITHER = """
    secondary_structure_all_coil recovery_all_leucine length motif_residues sequence_entropy helix strand coil
    native_helix native_strand native_coil
"""
DIRECTIONS = {
    column: better
    for better, columns in (("higher", HIGHER), ("lower", LOWER), (None, NEITHER))
    for column in columns.split()
}


@pytest.mark.parametrize(("column", "better"), DIRECTIONS.items())
def test_directions_are_the_usual_ones(column, better):
    assert declared(column).better == better


def test_list_of_directions_covers_every_declared_metric():
    assert {declared(column).declaration for column in DIRECTIONS} == set(METRICS)


def test_each_metric_is_declared_once_with_a_description():
    names = [name for metric in METRICS for name in (metric.name, *metric.aliases)]
    assert len(names) == len(set(names))
    for metric in METRICS:
        assert metric.title
        assert metric.source
        assert bool(metric.of) or metric.unit != "share"
        assert re.findall("{.*?}", metric.name) == re.findall("{.*?}", metric.title)


def test_source_functions_exist():
    named = {path for metric in METRICS for path in re.findall(r"dplm2(?:\.\w+)+", metric.source)}
    assert len(named) > 10
    for path in named:
        pkgutil.resolve_name(path)


def test_every_metric_of_a_complete_run_is_declared(run_folder):
    assert undeclared(run_folder) == set()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("run") / "results")


def test_all_columns_in_the_code_are_declared():
    settings = EvaluationSettings.make(designable_sc_tm=[0.5, 0.85], designable_sc_rmsd=[2, 1.25], motif_rmsd=0.75)
    columns = designable_columns(settings)
    assert threshold_columns(columns, "sc_tm") == {"designable_sc_tm_0.5": 0.5, "designable_sc_tm_0.85": 0.85}
    assert threshold_columns(columns, "sc_rmsd") == {"designable_sc_rmsd_2": 2, "designable_sc_rmsd_1.25": 1.25}
    assert threshold_columns([success_column(settings)], "motif_rmsd") == {"success_motif_rmsd_0.75": 0.75}
    assert all(declared(f"inner_tm_{program}") for program in ("foldseek", *ALL_PAIRS))
    assert all(declared(f"{track}_cross_entropy_trained_{task}") for track in TRACKS for task in MEASURED_TASKS)


def test_columns_belong_to_one_metric():
    for column in DIRECTIONS:
        assert sum(metric.match(column) is not None for metric in METRICS) == 1


def test_aliases_and_unknown_columns_are_handled():
    assert declared("self_consistency_TM").name == "sc_tm"
    assert declared("my_score") is None
    assert (metric_of("my_score").title, metric_of("my_score").better) == ("my score", None)


def test_published_names_are_in_the_published_table():
    there = {row["metric"] for row in published()}
    assert {spelling for metric in METRICS for spelling in metric.published} <= there


def test_published_percentages_become_shares():
    for metric in METRICS:
        for name, factor in metric.published.items():
            texts = [row["value"].split("-")[0] for row in published() if row["metric"] == name]
            values = [float(text) for text in texts if text]
            in_percent = metric.unit == SHARE and max(values) > 1.5
            assert factor == (0.01 if in_percent else 1.0), (metric.name, name)


def test_axes_show_the_full_range_of_a_score():
    for metric in METRICS:
        if metric.limits is not None:
            assert metric.limits == ((0, 100) if metric.unit == CONFIDENCE else (0, 1)), metric.name


def test_every_task_has_headlines():
    assert set(HEADLINES) == set(EVALUATED)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("code_perplexity", "Higher is better"),
        ("codes_used", "Higher is better"),
        ("loss", "Lower is better"),
        ("fape", "Lower is better"),
    ],
)
def test_training_captions_follow_the_direction(column, words):
    (figure,) = training(Curve("tokenizers/x", pd.DataFrame({"step": [1.0, 2.0], column: [3.0, 2.0]})), 1)
    assert words in figure.caption

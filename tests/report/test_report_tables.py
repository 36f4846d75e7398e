"""Tables from a results folder are complete, unchanged and readable."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from dplm2.cli import main
from dplm2.core.errors import DPLM2Error
from dplm2.evaluation.metrics.registry import metric_of, threshold_columns
from dplm2.report import scale, tables
from dplm2.report.labels import number, percent, task_kind
from dplm2.report.results import TokenUsage, read_results
from dplm2.report.scale import count_parameters, scales, warning
from tests.report.tree import make_results


@pytest.fixture(scope="module")
def results(run_folder):
    return read_results(run_folder)


def test_summary_contains_all_evaluation_rows_unchanged(run_folder, results):
    parts = [pd.read_csv(path, dtype=str) for path in sorted((run_folder / "evaluation").rglob("summary.csv"))]
    expected = sorted(tuple(row) for part in parts for row in part[list(part)[:7]].itertuples(index=False))
    table = tables.summary(results)
    assert list(table)[:7] == ["model", "task", "dataset", "metric", "value", "n", "backend"]
    assert sorted(table[list(table)[:7]].itertuples(index=False, name=None)) == expected


def test_numeric_names_remain_text(tmp_path):
    folder = tmp_path / "evaluation" / "007" / "folding"
    folder.mkdir(parents=True)
    (folder / "summary.csv").write_text(
        "model,task,dataset,metric,value,n,backend\n007,folding,NA,tm_score,0.50,4,none\n"
    )
    row = tables.summary(read_results(tmp_path)).iloc[0]
    assert (row["model"], row["dataset"], row["value"]) == ("007", "NA", "0.50")


def test_evaluations_are_distinguished_by_path_and_table(results):
    found = {(e.model, e.kind, e.variant) for e in results.evaluations}
    assert ("demo", "reconstruction", "untrained") in found
    assert ("demo", "reconstruction", "trained") in found
    assert ("demo", "inverse-folding", "") in found
    reconstruction = results.of_kind("reconstruction")[0]
    assert {"ca_rmsd", "lddt_ca", "tm_score"} <= set(reconstruction.metrics)


@pytest.mark.parametrize(
    ("hint", "kind"),
    [
        ("inverse-folding", "inverse-folding"),
        ("my_inverse_folding_fast", "inverse-folding"),
        ("evaluate folding", "folding"),
        ("cogeneration", "co-generation"),
        ("something", None),
    ],
)
def test_task_kinds(hint, kind):
    assert task_kind(hint) == kind


def test_failed_samples_are_excluded_from_values(results):
    evaluation = results.of_kind("co-generation")[0]
    assert len(evaluation.metrics) == 48
    assert len(evaluation.values("sc_tm")) == 47


def test_token_usage_counts_observed_residues_only(results):
    usage = {u.dataset: u for u in results.token_usage}
    assert usage["demo"].counts.sum() == 4000 - 2
    assert usage["test"].codebook_size == 512


def test_perplexity_of_uniform_use_is_the_number_of_tokens():
    assert math.isclose(TokenUsage("t", "d", np.array([5, 5, 0, 5, 5]), 8).perplexity, 4)
    assert TokenUsage("t", "d", np.zeros(3, dtype=int), 3).perplexity == 0


def test_parameter_count_equals_the_state_dicts(tmp_path):
    network = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.LayerNorm(5), torch.nn.Embedding(3, 2))
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    expected = sum(parameter.numel() for parameter in network.parameters())
    assert count_parameters(tmp_path / "model.safetensors") == expected


def test_damaged_weights_file_is_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not json........")
    with pytest.raises(DPLM2Error, match="model.safetensors"):
        count_parameters(tmp_path / "model.safetensors")


def test_tiny_models_are_marked(results):
    text = warning(scales(results))
    assert "tiny" in text
    assert "90,000 parameters" in text
    assert "500 training steps" in text


def test_large_models_are_not_marked_as_tiny(results):
    large = [type(s)(s.place, 650_000_000, 100_000, 1e6) for s in scales(results)]
    assert warning(large) is None


def test_terminal_table_is_aligned_and_has_the_main_metrics(results):
    *lines, note = tables.as_text(tables.summary(results)).splitlines()
    assert note == "failed samples are left out of quantities"
    assert {"median", "failed", "n"} <= set(lines[0].split())
    row = next(line for line in lines if " sc_rmsd (" in line)
    assert row.split()[-3:] == ["47", "1", "self"]
    start = lines[0].index("metric")
    metrics = [line[start:].split()[0] for line in lines[2:]]
    expected = {"ca_rmsd_trained", "ca_rmsd_untrained", "sc_tm", "recovery", "problems_solved"}
    assert expected | {"sequence_cross_entropy_unigram"} <= set(metrics)
    assert all(line[start - 2 : start] == "  " for line in lines)


def test_headlines_follow_the_workflow_in_any_input_order(results):
    """All rows reversed, and the summaries of several models and datasets in any order."""
    table = tables.summary(results)
    several = pd.concat([table.assign(model=model) for model in ("b", "a")], ignore_index=True)
    order = [(h.task, h.model, h.dataset, h.rows["metric"].tolist()) for h in tables.headlines(several)]
    tasks = list(dict.fromkeys(task for task, *_ in order))
    expected = ["reconstruction", "likelihood", "co-generation", "folding", "inverse-folding", "scaffolding"]
    assert [task_kind(task) for task in tasks] == expected
    assert [model for task, model, *_ in order if task == "folding"] == ["a", "b"]
    for seed in range(3):
        shuffled = several.sample(frac=1, random_state=seed, ignore_index=True)
        assert [(h.task, h.model, h.dataset, h.rows["metric"].tolist()) for h in tables.headlines(shuffled)] == order


def test_memory_is_shown_in_megabytes(results):
    assert tables.run_row("models/demo", {"peak_memory_bytes": 1_234_567_890})["peak_memory_megabytes"] == 1235
    assert tables.run_row("models/demo", {})["peak_memory_megabytes"] is None
    runs = tables.further_tables(results, None)["runs"].set_index("place")["peak_memory_megabytes"]
    for run in results.runs:
        # Written in bytes, shown in millions of bytes.
        assert abs(runs[run.place] * 1_000_000 - run.record["peak_memory_bytes"]) <= 500_000


def test_terminal_table_has_no_control_characters():
    row = ["\x1b[31mred", "folding", "x", "tm_score", "1", "2", "none"]
    assert "\x1b" not in tables.as_text(pd.DataFrame([row], columns=list(tables.REQUIRED_COLUMNS)))


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("passes_motif_rmsd_1", "designs that pass (motif RMSD < 1 \u00c5)"),
        ("clusters_foldseek_0.5", "clusters (foldseek, TM-score \u2265 0.5)"),
        (
            "max_cluster_foldseek_0.5_designable_sc_rmsd_2",
            "clusters per sample (foldseek, TM-score \u2265 0.5, designable (scRMSD \u2264 2 \u00c5)) (share)",
        ),
        ("sequence_perplexity_trained", "sequence perplexity, trained"),
    ],
)
def test_axis_labels_have_the_right_unit(metric, name):
    assert metric_of(metric).axis == name


def test_thresholds_are_parsed_from_column_names():
    columns = ["designable_sc_tm_0.5", "designable_sc_rmsd_2", "success_motif_rmsd_1", "sc_tm"]
    assert threshold_columns(columns, "sc_tm") == {"designable_sc_tm_0.5": 0.5}
    assert metric_of("designable_sc_rmsd_2").title == "designable (scRMSD \u2264 2 \u00c5)"
    assert metric_of("ca_rmsd_untrained").axis == "C\u03b1 RMSD, untrained (\u00c5)"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.92549, "0.925"), (12.3456, "12.3"), (0.0, "0"), (1e-5, "1.00e-05"), (None, ""), (12345, "12,345")],
)
def test_numbers_are_rounded_for_reading(value, text):
    assert number(value) == text


def test_counts_and_shares_are_in_words():
    counts = {999_999: "999,999", 1_000_000: "1 million", 148_000_000: "148 million", 2_500_000_000: "2.5 billion"}
    assert {count: scale.in_words(count) for count in counts} == counts
    assert [percent(share) for share in (0.0, 0.123, 1.0)] == ["0 %", "12 %", "100 %"]


def test_print_shows_metrics_and_reuses_the_page(tmp_path, capsys):
    folder = make_results(tmp_path / "results", stages=("tokenizers", "evaluation"), tasks=("reconstruction",))
    out = tmp_path / "report"
    arguments = ["report", "--results", str(folder), "--out", str(out), "--print"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "ca_rmsd_trained" in printed
    assert "tiny" in printed
    assert printed.rstrip().endswith(str(out / "report.html"))
    written = (out / "report.html").stat().st_mtime_ns
    assert main(arguments) == 0
    assert (out / "report.html").stat().st_mtime_ns == written
    noted = [*arguments, "--config", '{"report": {"note": "a remark"}}']
    assert main(noted) == 0
    assert "a remark" in capsys.readouterr().out
    assert "a remark" in (out / "report.html").read_text()


def test_outdated_report_is_rebuilt(tmp_path, capsys):
    folder = make_results(tmp_path / "results", stages=("evaluation",), tasks=("folding",))
    arguments = ["report", "--results", str(folder), "--out", str(tmp_path / "out"), "--print"]
    assert main(arguments) == 0
    path = folder / "evaluation" / "demo" / "folding" / "summary.csv"
    path.write_text(path.read_text().replace("tm_score", "tm_score_new"))
    assert main(arguments) == 0
    assert "tm_score_new" in (tmp_path / "out" / "tables" / "summary.csv").read_text()


def test_only_files_of_earlier_reports_are_removed(tmp_path):
    out = tmp_path / "out"
    whole = make_results(tmp_path / "whole", stages=("evaluation",), tasks=("folding",))
    part = make_results(tmp_path / "part", stages=("tokens",))
    assert main(["report", "--results", str(whole), "--out", str(out)]) == 0
    (out / "figures" / "mine.svg").write_text("mine")
    assert main(["report", "--results", str(part), "--out", str(out)]) == 0
    assert sorted(path.name for path in (out / "figures").iterdir()) == ["mine.svg", "token-usage-demo.svg"]


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "contains no results of a run"),
        (lambda folder: _write(folder / "evaluation/m/folding/summary.csv", "model,task\n"), "no column dataset"),
        (lambda folder: _write(folder / "evaluation/m/folding/metrics.parquet", "x"), "not a readable Parquet"),
        (lambda folder: _write(folder / "models/m/run.json", "[]"), "not a record of a run"),
    ],
)
def test_unreadable_input_is_a_one_line_error(tmp_path, capsys, prepare, words):
    prepare(tmp_path / "results")
    assert main(["report", "--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def _write(path, text):
    path.parent.mkdir(parents=True)
    path.write_text(text)

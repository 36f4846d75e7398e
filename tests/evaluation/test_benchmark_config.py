"""The benchmark configuration and the presets: valid, with the published settings, and the published values."""

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from dplm2.evaluation.published import MISSING, compare_with_published
from dplm2.settings import load
from dplm2.settings.roles import plain

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
TEST_SETS = ("cameo2022", "pdb_date")
# DPLM-2, tables 4 (zero-shot) and 5, means on CAMEO 2022 and the PDB date split.
PUBLISHED = {
    "paper_150m": {"folding": (0.75, 0.76), "inverse-folding": (0.4522, 0.4883)},
    "paper_650m": {"folding": (0.79, 0.83), "inverse-folding": (0.4901, 0.5480)},
    "paper_3b": {"folding": (0.83, 0.86), "inverse-folding": (0.5236, 0.6167)},
}
PUBLISHED["benchmark"] = PUBLISHED["paper_650m"]
METRICS = {"folding": "tm_score", "inverse-folding": "recovery"}


def test_benchmark_configuration_has_the_published_settings():
    whole = load(CONFIG / "benchmark.yaml")
    tasks, settings = whole.generation, whole.evaluation
    assert tasks["co-generation"].lengths == (100, 200, 300, 400, 500)
    assert (tasks["co-generation"].steps, tasks["co-generation"].samples) == (500, 100)
    assert (tasks["folding-cameo2022"].steps, tasks["folding-cameo2022"].strategy) == (100, "argmax")
    assert (settings.proteinmpnn.temperature, settings.proteinmpnn.seed) == (0.1, 38)
    assert (settings.motif_rmsd, settings.motif_sc_tm, settings.motif_plddt) == (1.0, 0.8, 70)


@pytest.mark.parametrize("name", [*PUBLISHED, "ablations"])
def test_designs_are_folded_by_the_papers_program(name):
    assert load(CONFIG / f"{name}.yaml").evaluation.folding_backend == "esmfold"


def without_figures(task: str, dataset: str) -> pd.DataFrame:
    return pd.DataFrame({"task": [task], "dataset": [dataset], "metric": [""], "group": [""]})


@pytest.mark.parametrize("name", PUBLISHED)
def test_test_sets_have_published_values_of_the_model_size(name):
    whole = load(CONFIG / f"{name}.yaml")
    tasks = {(section.task, section.dataset) for section in whole.generation.values() if section.dataset}
    assert tasks == {(task, dataset) for task in METRICS for dataset in TEST_SETS}
    for task, metric in METRICS.items():
        for dataset, expected in zip(TEST_SETS, PUBLISHED[name][task], strict=True):
            table = compare_with_published(without_figures(task, dataset), whole.report.published_model)
            table = table[(table["metric"] == metric) & (table["statistic"] == "mean")]
            assert pytest.approx(expected) in table["published"].tolist()


@pytest.mark.parametrize("name", [*PUBLISHED, "ablations"])
def test_reconstructions_are_compared_with_the_published_tokenizer(name):
    whole = load(CONFIG / f"{name}.yaml")
    assert set(TEST_SETS) <= set(whole.datasets) and "cameo2022" in whole.evaluation.reconstruction
    table = compare_with_published(without_figures("reconstruction", "cameo2022"), "")
    assert len(table) and MISSING not in table["published"].tolist()


def packages(environment: str) -> set[str]:
    listed = yaml.safe_load((ROOT / "envs" / f"{environment}.yaml").read_text(encoding="utf-8"))["dependencies"]
    listed += [package for entry in listed if isinstance(entry, dict) for package in entry["pip"]]
    return {entry.split()[0] for entry in listed if isinstance(entry, str)}


def test_evaluation_environment_has_all_programs_of_the_benchmark():
    evaluation = load(CONFIG / "benchmark.yaml").evaluation
    assert evaluation.diversity == evaluation.novelty == "foldseek" and evaluation.released_tm_score
    rule = (ROOT / "rules" / "evaluation.smk").read_text(encoding="utf-8").split("rule evaluate_samples:")[1]
    there = packages(re.search(r'conda:\s+"\.\./envs/(.+)\.yaml"', rule)[1])
    assert packages("foldseek") | {"tmtools"} <= there
    assert packages("dplm2") <= there
    assert packages("dplm2") - {"pytorch"} <= packages("esmfold")


def test_lists_of_test_sets_are_complete():
    lists = {path.stem: path.read_text().splitlines() for path in (CONFIG / "test_sets").glob("*.txt")}
    names = {name: [line for line in lines if not line.startswith("#")] for name, lines in lists.items()}
    assert {name: len(set(entries)) for name, entries in names.items()} == {"cameo2022": 183, "pdb_date": 449}
    assert "7w2p" in names["pdb_date"]  # the released evaluator scores it as RMSD 100 whatever the prediction


def test_cameo_list_equals_the_corpus(corpus_folder):
    lines = (CONFIG / "test_sets" / "cameo2022.txt").read_text().splitlines()
    names = {line for line in lines if not line.startswith("#")}
    assert names == {path.name.split(".")[0] for path in (corpus_folder / "cameo2022").iterdir()}


def test_the_two_small_models_have_the_same_budget():
    whole = load(CONFIG / "warmup.yaml")
    scratch, warmed = whole.models["scratch"], whole.models["warmed-up"]
    before = warmed.warmup.sequence_training
    assert scratch.warmup.sequence_stage == "never"
    assert before.steps + warmed.training.steps == scratch.training.steps
    for part in ("network", "diffusion", "tokenizer", "datasets"):
        assert getattr(scratch, part) == getattr(warmed, part)
    for training in (before, warmed.training):
        assert plain(training) | {"steps": 0} == plain(scratch.training) | {"steps": 0}
    assert "cameo2022" in whole.evaluation.reconstruction
    assert {task.task for task in whole.generation.values()} == {"folding", "inverse-folding"}

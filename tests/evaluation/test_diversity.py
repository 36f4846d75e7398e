"""Diversity of sets: clustered structures, denominators, and the programs that compare pairs."""

import itertools
import sys

import numpy as np
import pandas as pd
import pytest

from dplm2.evaluation.benchmarks import diversity
from dplm2.evaluation.results import Source
from dplm2.evaluation.samples import EvaluatedSample
from dplm2.settings.evaluation import EvaluationSettings

SOURCE = Source("model", "co-generation", "unconditional", "none")


def rows_by_group(metrics, structures, names, **section) -> dict[tuple[str, str], dict]:
    samples = [
        EvaluatedSample(name, "model", "co-generation", "A" * (50 if name == "alone" else 40), backbone=structure)
        for name, structure in zip(names, structures, strict=True)
    ]
    settings = EvaluationSettings.make(designable_sc_tm=[0.5], designable_sc_rmsd=[], **section)
    rows = diversity.diversity_rows(metrics, structures, samples, settings, SOURCE)
    return {(row.get("group", ""), row["metric"]): row for row in rows}


def test_only_designable_structures_are_clustered(monkeypatch):
    """One structure joins two others into a cluster; it is not designable, and without it they are two clusters."""
    scores = np.array([[1, 0.7, 0.7], [0.7, 1, 0.2], [0.7, 0.2, 1]])
    monkeypatch.setitem(diversity.ALL_PAIRS, "tm_score", lambda traces: scores[: len(traces), : len(traces)])
    names = ["hub", "one", "other", "failed", "alone"]
    structures = [np.zeros((50 if name == "alone" else 40, 4, 3), np.float32) for name in names]
    metrics = pd.DataFrame(
        {"failed": [False, False, False, True, False], "designable_sc_tm_0.5": [False, True, True, False, False]}
    )
    rows = rows_by_group(metrics, structures, names, diversity="tm_score")

    def told(metric: str, group: str = "") -> tuple:
        row = rows[group, metric]
        return pytest.approx(row["value"]), row["n"], row["n_failed"], row["failed_rule"]

    assert told("clusters_tm_score_0.5") == (2, 4, 1, "left out")
    assert told("max_cluster_tm_score_0.5") == (2 / 5, 5, 1, "counted as a miss")
    assert told("clusters_tm_score_0.5_designable_sc_tm_0.5") == (2, 2, 1, "left out")
    assert told("max_cluster_tm_score_0.5_designable_sc_tm_0.5") == (2 / 5, 5, 1, "counted as a miss")
    assert told("max_cluster_tm_score_0.5_designable_sc_tm_0.5", "length=40") == (2 / 4, 4, 1, "counted as a miss")
    assert told("max_cluster_tm_score_0.5_designable_sc_tm_0.5", "length=50") == (0, 1, 0, "counted as a miss")
    assert told("inner_tm_tm_score") == ((0.7 + 0.7 + 0.2) / 3, 3, 1, "left out")
    assert rows["", "inner_tm_tm_score"]["median"] == 0.7


def test_interval_over_pairs_resamples_structures():
    """As by an explicit bootstrap of structures; structures unlike all others widen the interval."""
    random, n = np.random.default_rng(1), 12
    own = random.normal(0.5, 0.1, n)
    scores = np.where(np.triu(np.ones((n, n)), 1) > 0, (own[:, None] + own) / 2, np.nan)
    both = np.where(np.isnan(scores), scores.T, scores)
    means = []
    for _ in range(4000):
        drawn = random.integers(0, n, n)
        means.append(np.nanmean(both[np.ix_(drawn, drawn)]))
    found = diversity.mean_of_pairs_interval([scores, np.empty((0, 0))], 4000)
    assert found == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.005)
    pairs = scores[np.isfinite(scores)]
    assert found[1] - found[0] > 1.3 * 2 * 1.96 * pairs.std() / len(pairs) ** 0.5
    assert np.isnan(diversity.mean_of_pairs_interval([np.empty((0, 0))], 100)).all()


# Every structure is its own cluster; searches return what the real program returned for these chains.
STAND_IN = """\
#!{python}
import shutil, sys
from pathlib import Path
words = sys.argv[1:]
names = sorted(path.stem for path in Path(words[1]).glob("*.pdb"))
with (Path(__file__).parent / "calls.txt").open("a") as stream:
    print(words[0], len(names), words[1] == words[2], file=stream)
if words[0] == "easy-cluster":
    Path(words[2] + "_cluster.tsv").write_text("".join(f"{{name}}\\t{{name}}\\n" for name in names))
else:
    shutil.copy({recorded!r} + "/search.tsv", words[3])
"""


def test_inner_tm_of_foldseek_is_from_its_self_search(tmp_path, recorded):
    folder = recorded("foldseek")
    program = tmp_path / "foldseek"
    program.write_text(STAND_IN.format(python=sys.executable, recorded=str(folder)))
    program.chmod(0o755)
    names = (folder / "chains.txt").read_text().split()
    structures = [np.arange(480, dtype=np.float32).reshape(40, 4, 3)] * len(names)
    metrics = pd.DataFrame({"failed": False, "designable_sc_tm_0.5": np.arange(len(names)) < 7})
    rows = rows_by_group(metrics, structures, names, diversity="foldseek", foldseek={"program": str(program)})
    lines = [line.split("\t") for line in (folder / "search.tsv").read_text().splitlines()]
    listed = {(line[0], line[1]): float(line[3]) for line in lines}
    expected = np.mean([listed[pair] for pair in itertools.combinations(names, 2)])
    assert rows["", "inner_tm_foldseek"]["value"] == pytest.approx(expected)
    assert rows["", "inner_tm_foldseek"]["n"] == 60 * 59 / 2
    assert rows["", "max_cluster_foldseek_0.5_designable_sc_tm_0.5"]["value"] == pytest.approx(7 / 60)
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    assert calls == ["easy-cluster 60 False", "easy-cluster 7 False", "easy-search 60 True"]

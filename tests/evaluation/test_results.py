"""Summary tables: intervals, failed samples, codebook, recovery, clusters."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from dplm2.core.artifacts import RunRecord
from dplm2.core.errors import DPLM2Error
from dplm2.evaluation.backends.folding import Folded
from dplm2.evaluation.benchmarks import reconstruction, scaffolding
from dplm2.evaluation.benchmarks import self_consistency as module
from dplm2.evaluation.benchmarks.diversity import linked_clusters
from dplm2.evaluation.benchmarks.self_consistency import self_consistency
from dplm2.evaluation.recovery import recovery, recovery_released, sequence_entropy
from dplm2.evaluation.results import SUMMARY_COLUMNS, Source, bootstrap_interval, summarize, write_results
from dplm2.evaluation.samples import EvaluatedSample, kept
from dplm2.settings.evaluation import EvaluationSettings
from dplm2.tokenizer.codebook import codebook_use

SOURCE = Source("model", "folding", "test", "none")


def test_interval_is_that_of_the_normal_distribution_for_many_values():
    values = np.random.default_rng(0).normal(loc=3, scale=2, size=400)
    low, high = bootstrap_interval(values, 2000)
    half_width = 1.96 * values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half_width, abs=0.03)
    assert high == pytest.approx(values.mean() + half_width, abs=0.03)


def test_interval_covers_the_true_mean_about_95_times_in_100():
    random = np.random.default_rng(1)
    intervals = [bootstrap_interval(random.exponential(size=60), 400, seed) for seed in range(200)]
    covered = np.mean([low <= 1 <= high for low, high in intervals])
    assert 0.88 <= covered <= 0.98


def test_failed_samples_count_only_in_fractions():
    metrics = pd.DataFrame(
        {
            "failed": [False, False, True],
            "rmsd": [1.0, 3.0, np.nan],
            "designable": [True, False, False],
            "empty": [None] * 3,
        }
    )
    rmsd, share = summarize(metrics, ["rmsd", "designable", "empty", "absent"], SOURCE, 100)
    assert (rmsd["value"], rmsd["median"], rmsd["n"], rmsd["n_failed"]) == (2, 2, 2, 1)
    assert rmsd["failed_rule"] == "left out"
    assert (share["value"], share["n"], share["n_failed"]) == (pytest.approx(1 / 3), 3, 1)
    assert share["failed_rule"] == "counted as a miss"


def test_summary_has_the_documented_columns(tmp_path):
    metrics = pd.DataFrame({"failed": [False, False], "rmsd": [1.0, 2.0], "sc_tm": [1 / 3, 1 / 3]})
    rows = summarize(metrics, ["rmsd", "sc_tm"], SOURCE, 0)
    write_results(tmp_path, metrics, rows, RunRecord("evaluate", {}, {}))
    both = pd.read_csv(tmp_path / "summary.csv", dtype=str)
    assert both["value"].tolist() == ["1.5", "0.333333"]
    table = pd.read_csv(tmp_path / "summary.csv").head(1)
    assert list(table)[:7] == ["model", "task", "dataset", "metric", "value", "n", "backend"]
    assert list(table) == SUMMARY_COLUMNS
    assert table["value"].item() == 1.5
    assert (tmp_path / "run.json").exists()


def test_codebook_use_of_known_frequencies():
    assert codebook_use([np.array([0, 0, 1]), np.array([1], dtype=np.uint16)], 8) == (0.25, pytest.approx(2))
    assert codebook_use([np.arange(64)], 64) == (1, pytest.approx(64))


def test_recovery_counts_known_observed_positions():
    assert recovery("ACDE", "ACDE") == 1
    assert recovery("ACDX", "AADX") == pytest.approx(2 / 3)
    assert recovery("ACDE", "AADE", np.array([True, True, False, False])) == 0.5
    assert recovery_released("AXDE", "AADX") == 0.75
    with pytest.raises(ValueError, match="4 residues"):
        recovery("ACDE", "ACD")


def test_sequence_entropy():
    assert sequence_entropy("AAAA") == 0
    assert sequence_entropy("ACDEFGHIKLMNPQRSTVWY") == pytest.approx(math.log(20))


def test_clusters_of_a_known_matrix():
    # 0, 1, 2 are close to each other, 3 only to 2, 4 to none: 2 has most neighbours and clusters with 0, 1 and 3.
    scores = np.eye(5)
    for i, j in [(0, 1), (0, 2), (1, 2), (2, 3)]:
        scores[i, j] = scores[j, i] = 0.7
    assert linked_clusters(scores, 0.5).tolist() == [2, 2, 2, 2, 4]
    assert len(set(linked_clusters(scores, 0.9))) == 5


def test_clusters_include_the_threshold():
    scores = np.array([[1.0, 0.5], [0.5, 1.0]])
    assert len(set(linked_clusters(scores, 0.5))) == 1
    assert len(set(linked_clusters(scores, 0.5 + 1e-9))) == 2


@pytest.mark.parametrize(
    ("sc_tm", "rmsd", "expected"),
    [(0.5, 2.0, (True, True)), (np.nextafter(0.5, 0), np.nextafter(2.0, 3), (False, False)), (0.6, 1.9, (True, True))],
)
def test_designable_thresholds_are_inclusive(monkeypatch, sc_tm, rmsd, expected):
    """As in the released evaluator (scTM >= 0.5) and in the field (scRMSD <= 2)."""
    values = {"tm_score": [sc_tm], "bb_rmsd": [rmsd], "ca_rmsd": [rmsd], "lddt_ca": [0.5]}
    monkeypatch.setattr(module, "compare", lambda *_: {name: np.array(value) for name, value in values.items()})
    backbone = np.zeros((5, 4, 3))
    (row,) = self_consistency([backbone], [Folded(backbone, None)], EvaluationSettings.make())
    assert (row["designable_sc_tm_0.5"], row["designable_sc_rmsd_2"]) == expected


@pytest.mark.parametrize(
    ("rmsd", "confidence", "succeeds"),
    [(0.999, 0.81, True), (1.0, 0.81, False), (0.999, 0.8, False), (0.5, 0.79, False), (np.nan, 0.9, False)],
)
def test_motif_thresholds_are_exclusive(rmsd, confidence, succeeds):
    settings = EvaluationSettings.make(motif_sc_tm=0.8, motif_plddt=80.0)
    for name, value in (("sc_tm", confidence), ("plddt", 100 * confidence)):
        metrics = pd.DataFrame({"motif_rmsd": [rmsd], name: [value], "failed": [False]})
        assert scaffolding.successes(metrics, settings).tolist() == [succeeds]
        assert not scaffolding.successes(metrics.assign(failed=True), settings).any()


def test_length_limits_are_inclusive():
    settings = EvaluationSettings.make(min_length=10, max_length=20)
    lengths = (9, 10, 20, 21)
    samples = [SimpleNamespace(sample_id=str(length), problem="", length=length) for length in lengths]
    remaining, left_out = kept(samples, settings)
    assert [sample.length for sample in remaining] == [10, 20]
    assert left_out == {"9": "9 residues", "21": "21 residues"}
    chosen = reconstruction._chosen(list(map(str, lengths)), [np.zeros((length, 4, 3)) for length in lengths], settings)
    assert chosen == ([1, 2], left_out)


def test_foldseek_output_is_parsed(recorded):
    from dplm2.evaluation.backends.foldseek import count_clusters, highest_tm_scores, read_clusters, read_search

    clusters = read_clusters(recorded("foldseek/cluster_cluster.tsv"))
    chains = recorded("foldseek/chains.txt").read_text().split()
    assert count_clusters(clusters, chains) == 38
    search = read_search(recorded("foldseek/search.tsv"))
    assert len(search) == 3600
    assert set(highest_tm_scores(search)) == set(chains)
    others = search[search["query"] != search["target"]]
    row = others[(others["query"] == "1en2_A") & (others["target"] == "4eba_G")].iloc[0]
    assert (row["qtmscore"], row["rmsd"]) == (0.3591, 4.325)
    with pytest.raises(DPLM2Error, match="12 columns"):
        read_search(recorded("foldseek/search_default.tsv"))


def test_clusters_are_close_to_foldseeks(recorded):
    from dplm2.evaluation.backends.foldseek import read_clusters, read_search

    search = read_search(recorded("foldseek/search.tsv"))
    theirs = read_clusters(recorded("foldseek/cluster_cluster.tsv"))
    scores = search.pivot_table(index="query", columns="target", values="qtmscore").fillna(0)
    ours = dict(zip(scores.index, linked_clusters(scores.to_numpy(), 0.5), strict=True))
    # Foldseek's prefilter misses a few of the pairs that the exhaustive search finds, and adds none.
    assert len(set(theirs.values())) - 4 <= len(set(ours.values())) <= len(set(theirs.values()))
    for member, representative in theirs.items():
        assert ours[member] == ours[representative]


def test_error_for_missing_foldseek_says_how_to_install_it(tmp_path):
    from dplm2.evaluation.backends.foldseek import cluster
    from dplm2.settings.evaluation import FoldseekSettings

    settings = FoldseekSettings.make(program="foldseek-that-is-not-there", threads=1)
    with pytest.raises(DPLM2Error, match=r"envs/foldseek\.yaml"):
        cluster({"a": np.zeros((5, 4, 3))}, settings, 0.5)


RECORDER = """\
#!{python}
import shutil, sys
from pathlib import Path
here, words = Path(__file__).parent, sys.argv[1:]
with (here / "calls.txt").open("a") as stream:
    print(*words, sep="\\t", file=stream)
assert len(list(Path(words[1]).glob("*.pdb"))) == 60
if words[0] == "easy-cluster":
    shutil.copy({recorded!r} + "/cluster_cluster.tsv", words[2] + "_cluster.tsv")
else:
    shutil.copy({recorded!r} + "/search.tsv", words[3])
"""


def test_foldseek_is_called_with_the_papers_options(tmp_path, recorded):
    """With a mock that records its arguments and returns what the real program returned."""
    from dplm2.evaluation.backends.foldseek import cluster, novelty
    from dplm2.settings.evaluation import FoldseekSettings

    program = tmp_path / "foldseek"
    program.write_text(RECORDER.format(python=sys.executable, recorded=str(recorded("foldseek"))))
    program.chmod(0o755)
    chains = recorded("foldseek/chains.txt").read_text().split()
    structures = {name: np.arange(60, dtype=np.float32).reshape(5, 4, 3) for name in chains}
    settings = FoldseekSettings.make(program=str(program), database="known", threads=3)
    assert len(set(cluster(structures, settings, 0.5).values())) == 38
    # Each of them is in the searched set.
    assert set(novelty(structures, settings).values()) == {1.0}
    clustered, searched = ((tmp_path / "calls.txt").read_text().splitlines()[i] for i in (0, 1))
    words = "--alignment-type 1 --cov-mode 0 --min-seq-id 0 --tmscore-threshold 0.5 --threads 3"
    assert words.replace(" ", "\t") in clustered
    words = "--exhaustive-search --alignment-type 1 --tmscore-threshold 0 -e inf --format-output"
    assert words.replace(" ", "\t") in searched
    assert "\tknown\t" in searched


def test_samples_excluded_by_name_or_length_are_reported():
    samples = [EvaluatedSample(name, "m", "folding", "A" * length, problem) for name, length, problem in (
        ("a", 30, "7w2p"), ("b", 30, "1abc"), ("c", 9, "1abc"), ("d", 90, "1abc"), ("e", 30, None),
    )]  # fmt: skip
    chosen = EvaluationSettings.make(excluded=["7w2p", "e"], min_length=10, max_length=80)
    remaining, left_out = kept(samples, chosen)
    assert [sample.sample_id for sample in remaining] == ["b"]
    assert left_out == {"a": "excluded by name", "c": "9 residues", "d": "90 residues", "e": "excluded by name"}
    # No name is excluded unless configured.
    assert len(kept(samples, EvaluationSettings.make())[0]) == 5

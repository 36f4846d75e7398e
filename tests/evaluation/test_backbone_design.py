"""Sequence design for backbones with a mock of ProteinMPNN: caching, resumption, failures."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dplm2.core.errors import DPLM2Error
from dplm2.evaluation.backends import sequence_design
from dplm2.evaluation.backends.folding import Failure, Folded
from dplm2.evaluation.backends.sequence_design import best_designs, proteinmpnn
from dplm2.evaluation.benchmarks import unconditional
from dplm2.evaluation.benchmarks.job import FOLDED_FILE, Job
from dplm2.evaluation.samples import EvaluatedSample
from dplm2.generation.samples import write_rows
from dplm2.settings.evaluation import EvaluationSettings, ProteinMpnnSettings

# Design k consists of the k-th letter. The program fails for backbones of 13 residues, omits one design for 17, and
# writes nothing for 19.
STAND_IN = """\
import sys
from pathlib import Path

pdb, out, count, temperature, seed = sys.argv[1:]
length = sum(line[12:16] == " CA " for line in Path(pdb).read_text().splitlines())
with Path(__file__).with_suffix(".log").open("a") as log:
    log.write(f"{length} {count} {temperature} {seed}\\n")
if length == 13:
    sys.exit("13 is too much")
designed = length - (length == 17)
text = f">backbone, score=2.1, seed={seed}\\n{'A' * length}\\n"
for number in range(1, int(count) + 1):
    text += f">T={temperature}, sample={number}, score=1.0\\n{'ACDEFGHIKL'[number] * designed}\\n"
if length != 19:
    (Path(out) / "seqs").mkdir()
    (Path(out) / "seqs" / "backbone.fa").write_text(text)
"""


@pytest.fixture
def program(tmp_path, monkeypatch) -> Path:
    """The mock as `mpnn` on PATH; it records its runs in its folder."""
    path = tmp_path / "bin" / "mpnn"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\n{STAND_IN}")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent), prepend=":")
    return path


def runs(program: Path) -> list[str]:
    log = program.with_suffix(".log")
    return log.read_text().splitlines() if log.exists() else []


def mpnn(**replaced) -> ProteinMpnnSettings:
    settings = ProteinMpnnSettings.make(template="mpnn {pdb} {out} {sequences} {temperature} {seed}", sequences=2)
    return settings.replaced(**replaced)


def backbone(length: int) -> np.ndarray:
    """A random walk."""
    steps = np.random.default_rng(length).normal(size=(length, 4, 3))
    return steps.cumsum(0).astype(np.float32)


def sample(length: int) -> EvaluatedSample:
    return EvaluatedSample(f"s{length}", "model", "backbone", "", backbone=backbone(length))


def test_designs_are_parsed_and_cached(program, tmp_path):
    samples, cache = [sample(10), sample(12), sample(10)], tmp_path / "kept"
    expected = [["C" * 10, "D" * 10], ["C" * 12, "D" * 12], ["C" * 10, "D" * 10]]
    assert proteinmpnn(samples, mpnn(), cache) == expected
    assert runs(program) == ["10 2 0.1 38", "12 2 0.1 38"]
    program.unlink()
    assert proteinmpnn(samples, mpnn(), cache) == expected
    [folder] = cache.iterdir()
    assert folder.name.startswith("proteinmpnn-")
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    "changed", [{"sequences": 3}, {"temperature": 0.2}, {"seed": 1}, {"template": "mpnn {pdb} {out} 1 1 1"}]
)
def test_other_settings_are_designed_again(program, changed, tmp_path):
    proteinmpnn([sample(10)], mpnn(), tmp_path / "kept")
    proteinmpnn([sample(10)], mpnn(**changed), tmp_path / "kept")
    assert len(runs(program)) == 2


def test_backbone_is_identified_by_its_written_coordinates(program, tmp_path):
    on_grid = sample(10).backbone.round(3)
    for shift, started in [(0, 1), (0.0002, 1), (0.002, 2)]:
        proteinmpnn([replace(sample(10), backbone=on_grid + np.float32(shift))], mpnn(), tmp_path / "kept")
        assert len(runs(program)) == started


def test_killed_run_resumes(program, tmp_path, monkeypatch):
    samples = [sample(length) for length in (10, 11, 12)]
    with monkeypatch.context() as patched:
        run_command, started = sequence_design.run_command, []

        def killed(*given):
            started.append(given)
            if len(started) == 3:
                raise KeyboardInterrupt
            return run_command(*given)

        patched.setattr(sequence_design, "run_command", killed)
        with pytest.raises(KeyboardInterrupt):
            proteinmpnn(samples, mpnn(), tmp_path / "kept")
    assert len(proteinmpnn(samples, mpnn(), tmp_path / "kept")) == 3
    assert [line.split()[0] for line in runs(program)] == ["10", "11", "12"]


def test_failures_are_named_and_do_not_stop_the_others(program, tmp_path):
    samples = [sample(length) for length in (13, 10, 17, 19)]
    broken, designed, short, nothing = proteinmpnn(samples, mpnn(), tmp_path / "kept")
    assert designed == ["C" * 10, "D" * 10]
    assert broken == Failure("evaluation.proteinmpnn.template: mpnn failed with exit status 1: 13 is too much")
    assert short == Failure("s17: ProteinMPNN gave no sequence of 17 residues")
    assert nothing == Failure("s19: ProteinMPNN gave no sequence of 19 residues")
    proteinmpnn(samples, mpnn(), tmp_path / "kept")
    assert sorted(line.split()[0] for line in runs(program)) == ["10", *["13"] * 2, *["17"] * 2, *["19"] * 2]


def test_failure_for_all_backbones_is_an_error(program, tmp_path):
    with pytest.raises(DPLM2Error, match="no sequence could be designed for any backbone .*13 is too much"):
        proteinmpnn([sample(13), sample(17)], mpnn(), tmp_path / "kept")


def test_missing_program_is_an_error_despite_cached_designs(program, tmp_path):
    proteinmpnn([sample(10)], mpnn(), tmp_path / "kept")
    program.unlink()
    with pytest.raises(DPLM2Error, match=r"evaluation\.proteinmpnn\.template: the program 'mpnn' is not on PATH"):
        proteinmpnn([sample(10), sample(11), sample(12)], mpnn(), tmp_path / "kept")


@dataclass(frozen=True)
class JobWithFolds(Job):
    """A job whose folding program can fold only these sequences."""

    folds: dict[str, np.ndarray] = field(default_factory=dict)

    def fold(self, sequences):
        known = [self.folds.get(sequence) for sequence in sequences]
        return [Failure("unknown") if fold is None else Folded(fold, None) for fold in known], "stand-in"


def job(tmp_path: Path, folds: dict[str, np.ndarray]) -> JobWithFolds:
    settings = EvaluationSettings.make(
        inverse_folding_backend="proteinmpnn", proteinmpnn=vars(mpnn()), bootstrap_samples=0
    )
    places = tmp_path / "samples", tmp_path / "out"
    return JobWithFolds("backbone", *places, settings, state=tmp_path / "state", folds=folds)


# The second design of the first backbone folds correctly, the first of the second; of the third only one is foldable.
FOLDS = {
    "C" * 10: backbone(10)[::-1].copy(), "D" * 10: backbone(10),
    "C" * 12: backbone(12), "D" * 12: backbone(12)[::-1].copy(),
    "D" * 14: backbone(14),
}  # fmt: skip


def test_best_folding_design_is_evaluated(program, tmp_path):
    samples = [sample(length) for length in (10, 13, 12, 14)]
    sequences, folded, name = best_designs(job(tmp_path, FOLDS), samples)
    assert sequences == ["D" * 10, "", "C" * 12, "D" * 14]
    assert name == "proteinmpnn+stand-in"
    assert isinstance(folded[1], Failure)
    for place in (0, 2, 3):
        np.testing.assert_array_equal(folded[place].backbone, samples[place].backbone)
    assert len(list((tmp_path / "state" / "folding").glob("proteinmpnn-*/*.json"))) == 3


def test_backbone_without_a_design_is_a_failed_sample(program, tmp_path):
    rows = [
        {
            "sample_id": f"s{length}", "model": "model", "task": "backbone", "problem": "", "seed": 0, "length": length,
            "sequence": "", "backbone": backbone(length).ravel().tolist(), "steps": 1, "settings": "{}",
        }
        for length in (10, 13, 12, 14)
    ]  # fmt: skip
    write_rows(tmp_path / "samples" / "samples.parquet", rows)
    assert unconditional.run(job(tmp_path, FOLDS)) == 0
    metrics = pd.read_parquet(tmp_path / "out" / "metrics.parquet").set_index("sample_id")
    assert metrics["failed"].to_dict() == {"s10": False, "s13": True, "s12": False, "s14": False}
    assert "13 is too much" in metrics.loc["s13", "failure"]
    assert metrics["sequence_entropy"].isna().to_dict() == metrics["failed"].to_dict()
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("metric")
    assert set(summary["n_failed"]) == {1}
    # Fractions count the failed sample as a miss, other metrics exclude it.
    assert summary.loc["designable_sc_rmsd_2", ["value", "n"]].to_list() == [0.75, 4]
    assert summary.loc["sc_rmsd", ["value", "n"]].to_list() == [pytest.approx(0, abs=1e-4), 3]
    assert summary.loc["sequence_entropy", "n"] == 3
    assert sorted(pd.read_parquet(tmp_path / "out" / FOLDED_FILE)["sample_id"]) == ["s10", "s12", "s14"]

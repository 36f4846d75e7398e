"""Benchmarks from the command line: natives as predictions have perfect scores; failed samples keep their rows."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dplm2.cli import main
from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.evaluation.backends.command import read_backbone
from dplm2.evaluation.benchmarks import folding, reconstruction
from dplm2.generation.samples import write_rows
from dplm2.settings import load
from dplm2.settings.evaluation import EvaluationSettings
from dplm2.structures import store
from dplm2.structures.writing import write_structure
from dplm2.tokenizer import tokens
from dplm2.tokenizer.model import Decoded
from dplm2.training import log

DEMO = Path(__file__).parents[2] / "data" / "demo" / "test"
LETTERS = "ACDEFGHIKLMNPQRSTVWY"

# "Folds" known sequences by looking up their structures; refuses others.
LOOK_UP = """\
import shutil, sys
from pathlib import Path
fasta, out, natives = map(Path, sys.argv[1:4])
known = dict(line.split() for line in (natives / "index.txt").read_text().splitlines())
for entry in fasta.read_text().split(">")[1:]:
    name, sequence = entry.split()
    if sequence in known:
        shutil.copy(natives / known[sequence], out / f"{name}.pdb")
"""


@pytest.fixture(scope="module")
def natives() -> dict[str, tuple[str, np.ndarray]]:
    """Synthetic, distinct sequence and backbone of each of the demo's test chains."""
    random = np.random.default_rng(0)
    found = {path.name.split(".")[0]: read_backbone(path)[0] for path in sorted(DEMO.glob("*.bcif.gz"))}
    return {name: ("".join(random.choice(list(LETTERS), size=len(b))), b) for name, b in found.items()}


@pytest.fixture
def workplace(tmp_path, natives) -> Path:
    """A folder with chains, the look-up program, and its configuration."""
    rows = [
        {
            "chain_id": name, "dataset": "test", "source_file": name, "source_sha256": "", "source_id": name,
            "author_chain": "A", "sequence": sequence, "length": len(sequence), "observed": len(sequence),
            "residue_index": list(range(len(sequence))), "backbone": backbone.ravel().tolist(), "split": "test",
        }
        for name, (sequence, backbone) in natives.items()
    ]  # fmt: skip
    (tmp_path / "test").mkdir()
    store.write_chains(tmp_path / "test" / "part-00000.parquet", [pa.RecordBatch.from_pylist(rows, store.CHAINS)])
    structures = tmp_path / "natives"
    for name, (sequence, backbone) in natives.items():
        write_structure(structures / f"{name}.pdb", sequence, backbone, np.full(len(sequence), 90.0))
    (structures / "index.txt").write_text("".join(f"{s} {name}.pdb\n" for name, (s, _) in natives.items()))
    (tmp_path / "look_up.py").write_text(LOOK_UP)
    template = f"{sys.executable} {tmp_path / 'look_up.py'} {{fasta}} {{out}} {structures}"
    section = {"folding_backend": "command", "command": {"template": template, "structures": "*.pdb"}}
    (tmp_path / "config.json").write_text(json.dumps({"evaluation": section | {"bootstrap_samples": 50}}))
    return tmp_path


def write_samples(folder: Path, task: str, natives: dict, **changed) -> None:
    """Write the natives as samples."""
    rows = []
    for name, (sequence, backbone) in natives.items():
        row = {
            "sample_id": f"{name}_0000", "model": "perfect", "task": task, "problem": name, "seed": 0,
            "length": len(sequence), "sequence": sequence, "backbone": backbone.ravel().tolist(), "steps": 1,
            "settings": "{}",
        }  # fmt: skip
        rows.append(row | {key: value(name, row) for key, value in changed.items()})
    write_rows(folder / "samples.parquet", rows)


def evaluate(workplace: Path, task: str, *more: str) -> tuple[pd.DataFrame, dict[str, float]]:
    samples, out = workplace / "samples", workplace / "out"
    words = ["evaluate", task, "--samples", str(samples), "--out", str(out), "--state", str(workplace / "state")]
    assert main([*words, "--config", str(workplace / "config.json"), *more]) == 0
    summary = pd.read_csv(out / "summary.csv")
    assert set(summary["model"]) == {"perfect"}
    assert set(summary["task"]) == {task}
    return pd.read_parquet(out / "metrics.parquet"), summary.set_index("metric")["value"].to_dict()


def test_folding_of_natives_is_perfect(workplace, natives):
    write_samples(workplace / "samples", "folding", natives)
    metrics, summary = evaluate(workplace, "folding", "--chains", str(workplace / "test"))
    assert len(metrics) == len(natives)
    assert summary["ca_rmsd"] == pytest.approx(0, abs=1e-4)
    assert summary["bb_rmsd"] == pytest.approx(0, abs=1e-4)
    assert (summary["tm_score"], summary["lddt_ca"]) == (pytest.approx(1), pytest.approx(1))
    assert summary["match_tm_score_0.8"] == 1


def test_fold_matches_at_or_above_the_threshold(workplace, natives, monkeypatch):
    def compared(predictions, *_):
        scores = np.resize([0.8, np.nextafter(0.8, 0)], len(predictions))
        return {name: scores if name == "tm_score" else np.ones(len(scores)) for name in folding.COLUMNS}

    monkeypatch.setattr(folding, "compare", compared)
    write_samples(workplace / "samples", "folding", natives)
    metrics, _ = evaluate(workplace, "folding", "--chains", str(workplace / "test"))
    assert metrics["match_tm_score_0.8"].tolist() == (metrics["tm_score"] == 0.8).tolist()
    assert metrics["match_tm_score_0.8"].any() and not metrics["match_tm_score_0.8"].all()


def test_native_with_three_residues_is_compared():
    prediction, native = np.zeros((2, 5, 4, 3))
    native[3:] = np.nan
    assert folding._failure(prediction, native) is None
    native[2] = np.nan
    assert folding._failure(prediction, native) == "the native has fewer than three observed residues"


def test_baseline_folds_the_same_sequences(workplace, natives):
    write_samples(
        workplace / "samples", "folding", natives,
        backbone=lambda _, row: (np.array(row["backbone"]) * 1.2).tolist(),
    )  # fmt: skip
    section = json.loads((workplace / "config.json").read_text())
    section["evaluation"]["folding_baseline"] = True
    (workplace / "config.json").write_text(json.dumps(section))
    _, summary = evaluate(workplace, "folding", "--chains", str(workplace / "test"))
    assert summary["ca_rmsd"] > 1
    assert summary["baseline_ca_rmsd"] < 0.01
    assert summary["baseline_plddt"] == pytest.approx(90)


def test_inverse_folding_to_the_native_sequence_is_perfect(workplace, natives):
    write_samples(workplace / "samples", "inverse-folding", natives)
    metrics, summary = evaluate(workplace, "inverse-folding", "--chains", str(workplace / "test"))
    assert summary["recovery"] == summary["recovery_released"] == 1
    assert summary["sc_tm"] == pytest.approx(1, abs=1e-4)
    assert summary["sc_rmsd"] < 0.01  # PDB files have three digits
    assert summary["plddt"] == pytest.approx(90)
    assert set(metrics["backend"]) == {"command"}


def test_unfoldable_sequence_is_a_failed_sample(workplace, natives):
    bad = next(iter(natives))
    write_samples(
        workplace / "samples", "co-generation", natives,
        sequence=lambda name, row: row["sequence"][::-1] if name == bad else row["sequence"],
    )  # fmt: skip
    metrics, summary = evaluate(workplace, "co-generation")
    assert metrics.set_index("problem")["failed"].to_dict() == {name: name == bad for name in natives}
    assert "wrote no structure" in metrics.set_index("problem").loc[bad, "failure"]
    assert summary["designable_sc_rmsd_2"] == pytest.approx(1 - 1 / len(natives))
    assert summary["sc_tm"] == pytest.approx(1, abs=1e-4)
    table = pd.read_csv(workplace / "out" / "summary.csv").set_index("metric")
    assert table.loc["sc_tm", "n"] == len(natives) - 1
    assert table.loc["sc_tm", "n_failed"] == 1
    assert summary["clashes_per_100_residues"] == 0


def test_diversity_is_reported_by_length(workplace, natives):
    bad = next(iter(natives))
    write_samples(
        workplace / "samples", "co-generation", natives,
        sequence=lambda name, row: row["sequence"][::-1] if name == bad else row["sequence"],
    )  # fmt: skip
    section = json.loads((workplace / "config.json").read_text())
    section["evaluation"] |= {"diversity": "tm_score", "cluster_tm_score": 1.0}
    (workplace / "config.json").write_text(json.dumps(section))
    metrics, summary = evaluate(workplace, "co-generation")
    name = "max_cluster_tm_score_1_designable_sc_rmsd_2"
    assert summary[name] == pytest.approx(1 - 1 / len(natives))
    row = pd.read_csv(workplace / "out" / "summary.csv").set_index("metric").loc[name]
    assert (row["n"], row["n_failed"], row["failed_rule"]) == (len(natives), 1, "counted as a miss")
    groups = pd.read_csv(workplace / "out" / "groups.csv")
    shares = groups[groups["metric"] == name].set_index("group")["value"].to_dict()
    succeeded = (~metrics.set_index("length")["failed"]).groupby("length").mean()
    assert shares == {f"length={length}": pytest.approx(share) for length, share in succeeded.items()}


def test_scaffolding_succeeds_if_the_motif_is_kept(workplace, natives):
    positions = [4, 5, 6, 7, 20, 21, 22]
    broken = list(natives)[1]

    def motif(name: str, row: dict) -> list[float]:
        atoms = natives[name][1][positions].copy()
        if name == broken:
            atoms[4:] += 20
        return (atoms @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1.0]]) + 40).ravel().tolist()

    write_samples(
        workplace / "samples", "scaffolding", natives, motif_positions=lambda *_: positions, motif_backbone=motif
    )
    metrics, summary = evaluate(workplace, "scaffolding")
    rmsds = metrics.set_index("problem")["motif_rmsd"]
    assert rmsds.drop(broken).max() < 0.01
    assert rmsds[broken] > 5
    assert summary["success_motif_rmsd_1"] == pytest.approx(1 - 1 / len(natives))
    assert summary["problems_solved"] == len(natives) - 1
    assert summary["passes_motif_rmsd_1"] == len(natives) - 1
    groups = pd.read_csv(workplace / "out" / "groups.csv")
    assert set(groups["group"]) == {f"problem={name}" for name in natives}
    passes = groups[groups["metric"] == "passes_motif_rmsd_1"].set_index("group")
    assert passes["value"].to_dict() == {f"problem={name}": int(name != broken) for name in natives}
    assert set(passes["failed_rule"]) == {"counted as a miss"}
    whole = pd.read_csv(workplace / "out" / "summary.csv").set_index("metric")
    assert whole.loc["problems_solved", "failed_rule"] == "counted as a miss"


def test_second_run_reuses_all_folds(workplace, natives):
    write_samples(workplace / "samples", "sequence", natives, backbone=lambda *_: None)
    _, first = evaluate(workplace, "sequence")
    (workplace / "look_up.py").write_text("raise SystemExit('folds again')")
    _, second = evaluate(workplace, "sequence")
    assert first == second
    assert first["plddt"] == pytest.approx(90)


def test_target_of_another_length_is_refused(workplace, natives, capsys):
    write_samples(
        workplace / "samples", "inverse-folding", natives, sequence=lambda _, row: row["sequence"][:-1],
        backbone=lambda *_: None,
    )  # fmt: skip
    words = [
        "--samples",
        str(workplace / "samples"),
        "--chains",
        str(workplace / "test"),
        "--out",
        str(workplace / "out"),
    ]
    assert main(["evaluate", "inverse-folding", *words]) == 1
    assert "were the chains cleaned again" in capsys.readouterr().err


class Identity:
    """A lossless tokenizer: its tokens are indices into a list of encoded residues."""

    codebook_size, fingerprint, codes_fingerprint = 512, "identity", "identity"

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def encode(self, backbones: list[np.ndarray]) -> list[np.ndarray]:
        tokens = []
        for backbone in backbones:
            tokens.append(np.arange(len(self.seen), len(self.seen) + len(backbone)))
            self.seen += list(np.nan_to_num(backbone))
        return tokens

    def decode(self, tokens: list[np.ndarray]) -> list[Decoded]:
        return [Decoded(np.stack([self.seen[t] for t in row]), None) for row in tokens]


def test_lossless_reconstruction_is_perfect_despite_missing_residues(natives):
    backbones = [backbone.copy() for _, backbone in natives.values()]
    backbones[0][10:14] = np.nan
    codes, decoded, metrics = reconstruction.reconstruct(Identity(), backbones, EvaluationSettings.make(batch_size=2))
    assert [len(row) for row in codes] == [len(backbone) for backbone in backbones]
    assert metrics["ca_rmsd"].max() < 1e-4
    assert metrics[["tm_score", "lddt_ca"]].min().min() == pytest.approx(1)
    assert not metrics["failed"].any()


def test_a_structure_that_is_not_finite_is_a_failed_one(natives):
    class Diverging(Identity):
        def decode(self, tokens: list[np.ndarray]) -> list[Decoded]:
            return [Decoded(made.backbone * np.nan, None) for made in super().decode(tokens)]

    backbones = [backbone for _, backbone in natives.values()][:1]
    _, _, metrics = reconstruction.reconstruct(Diverging(), backbones, EvaluationSettings.make(batch_size=2))
    assert metrics["failed"].all() and metrics["failure"].tolist() == ["the decoded structure is not finite"]


def test_reconstructions_are_kept_from_the_best_to_the_worst(tmp_path, natives):
    """lDDT of residues against its definition: their mean, weighted by the distances counted, is that of the chain."""
    originals = [backbone for _, backbone in natives.values()] * 4
    noise = np.random.default_rng(0)
    decoded = [b + noise.normal(0, 0.2 * i, b.shape).astype(np.float32) for i, b in enumerate(originals)]
    values = reconstruction.compare(decoded, originals)
    metrics = pd.DataFrame({"sample_id": [f"c{i}" for i in range(len(originals))], "failed": False} | values)
    reconstruction.write_kept(tmp_path, metrics, ["A" * len(b) for b in originals], originals, decoded)
    kept = pd.read_parquet(tmp_path / reconstruction.RECONSTRUCTED_FILE)
    scores = metrics.set_index("sample_id")["lddt_ca"]
    assert scores[kept["sample_id"]].is_monotonic_decreasing
    assert (kept["sample_id"].iloc[0], kept["sample_id"].iloc[-1]) == (scores.idxmax(), scores.idxmin())
    assert len(kept) <= reconstruction.MOST_KEPT
    for row in kept.to_dict("records"):
        alpha = row["native_backbone"].reshape(-1, 4, 3)[:, 1]
        counted = (np.linalg.norm(alpha[:, None] - alpha, axis=-1) < 15).sum(1) - 1
        assert np.average(row["lddt"], weights=counted) == pytest.approx(scores[row["sample_id"]], abs=0.01)


def test_existing_tokens_are_decoded_without_encoding(tmp_path, natives):
    backbones = [backbone for _, backbone in natives.values()]
    tokenizer = Identity()
    codes = tokenizer.encode(backbones)
    rows = [
        {
            "chain_id": name, "sequence": sequence, "length": len(sequence), "structure_tokens": code.tolist(),
            "observed": [True] * len(sequence),
        }
        for (name, (sequence, _)), code in zip(natives.items(), codes, strict=True)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows[::-1], tokens.SCHEMA)
    metadata = {"tokenizer_fingerprint": Identity.codes_fingerprint, "codebook_size": "512"}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "part-00000.parquet")
    job = reconstruction.ReconstructionJob("", (), tmp_path, EvaluationSettings.make(), tokens=(tmp_path,))
    made = reconstruction._tokens_of(job, list(natives), tokenizer)
    tokenizer.encode = None
    _, _, metrics = reconstruction.reconstruct(tokenizer, backbones, EvaluationSettings.make(), made=made)
    assert metrics["ca_rmsd"].max() < 1e-4
    with pytest.raises(DPLM2Error, match="no tokens for .* of the chains, for example 9abc_A"):
        reconstruction._tokens_of(job, ["9abc_A"], tokenizer)
    tokenizer.codes_fingerprint = "another"
    with pytest.raises(DPLM2Error, match="tokens of identity, the tokenizer given is another"):
        reconstruction._tokens_of(job, list(natives), tokenizer)


def test_zero_head_has_the_entropy_of_uniform_classes(tmp_path, monkeypatch, capsys):

    from dplm2.language.esm import Esm2, Esm2Config
    from dplm2.language.network import MultimodalEsm
    from dplm2.language.vocabulary import Vocabulary

    vocabulary, random = Vocabulary(64), np.random.default_rng(0)
    network = MultimodalEsm(Esm2(Esm2Config(vocabulary.size, 16, 1, 2, 16)), vocabulary)
    with torch.no_grad():
        network.model.lm_head.decoder.weight.zero_()
        network.model.lm_head.bias.zero_()
    network.save_pretrained(tmp_path / "demo")
    rows = [
        {
            "chain_id": f"c{i}", "sequence": "".join(random.choice(list("ACDE"), 40)), "length": 40, "split": "train",
            "structure_tokens": random.integers(0, 2, 40).tolist(), "observed": [True] * 40,
        }
        for i in range(6)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, tokens.SCHEMA)
    table = table.replace_schema_metadata({"tokenizer_fingerprint": "0", "codebook_size": "64"})
    (tmp_path / "tokens").mkdir()
    pq.write_table(table, tmp_path / "tokens" / "part-00000.parquet")
    words = ["--model", str(tmp_path / "demo"), "--tokens", str(tmp_path / "tokens"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(log, "SECONDS_BETWEEN_LINES", 0.0)
    assert main(["evaluate", "likelihood", "--name", "nothing", *words]) == 0
    assert "likelihood of tokens (trained): batch 4 of 4 (100 %), " in capsys.readouterr().err
    table = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert set(table["model"]) == {"nothing"}
    summary = table.set_index("metric")["value"]
    classes = {track: len(vocabulary.classes(track)) for track in ("sequence", "structure")}
    for track, count in classes.items():
        assert summary[f"{track}_cross_entropy_trained"] == pytest.approx(np.log(count), rel=1e-4)
        assert summary[f"{track}_perplexity_trained"] == pytest.approx(count, rel=1e-3)
    sequences = [row["sequence"] for row in rows]
    each = [
        np.log(("".join(sequences[:i] + sequences[i + 1 :]).count(letter) + 1) / (200 + 20))
        for i in range(6)
        for letter in sequences[i]
    ]
    assert summary["sequence_cross_entropy_unigram"] == pytest.approx(-np.mean(each), rel=1e-4)
    assert summary["sequence_perplexity_unigram"] == pytest.approx(np.exp(-np.mean(each)), rel=1e-4)


@pytest.mark.parametrize(
    "section",
    [
        {"esmfold": {"precision": "bfloat16"}},
        {"folding_backend": "command"},
        {"folding_backend": "esmfold", "command": {"template": "x"}},
        {"novelty": "foldseek"},
        {"inverse_folding_backend": "proteinmpnn"},
        {"designable_sc_tm": [0]},
        {"folding_baseline": True},
        {"unknown": 1},
    ],
)
def test_impossible_settings_and_settings_without_effect_are_refused(section):
    with pytest.raises(ConfigError, match="evaluation"):
        load({"evaluation": section})


def test_command_templates_allow_spaces_in_paths(tmp_path):
    from dplm2.evaluation.backends.command import run_command

    folder = tmp_path / "with space"
    folder.mkdir()
    (folder / "a").write_text("b")
    assert run_command("key", "cat {fasta}", {"fasta": folder / "a"}) == "b"

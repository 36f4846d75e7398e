"""Work that survives an interruption: structure tokens of ``dplm2 embed``, values of ``dplm2 score likelihood``."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from dplm2.cli import main
from dplm2.generation import kept_tokens
from dplm2.generation.kept_tokens import KeptTokens
from dplm2.generation.task import Target
from dplm2.scoring import likelihood
from dplm2.scoring.queries import Reading
from dplm2.tokenizer.model import StructureTokenizer


@pytest.fixture
def backbones():
    random = np.random.default_rng(0)
    return [np.cumsum(random.normal(size=(length, 4, 3)), 0).astype(np.float32) for length in (9, 7, 9, 12)]


class Counted:
    """A tokenizer that counts backbones, and stops after some."""

    def __init__(self, tokenizer, stop_after=99):
        self.tokenizer, self.left, self.codes_fingerprint = tokenizer, stop_after, tokenizer.codes_fingerprint

    def encode(self, backbones):
        self.left -= len(backbones)
        if self.left < 0:
            raise KeyboardInterrupt
        return self.tokenizer.encode(backbones)


def test_tokens_are_made_once(folders, backbones, tmp_path, monkeypatch):
    monkeypatch.setattr(kept_tokens, "BACKBONES_PER_FILE", 1)
    tokenizer = StructureTokenizer.from_pretrained(folders / "tokenizer")
    with pytest.raises(KeyboardInterrupt):
        KeptTokens(Counted(tokenizer, 2), tmp_path)(backbones)
    counted = Counted(tokenizer)
    found = KeptTokens(counted, tmp_path)([*backbones, backbones[0]])
    assert counted.left == 97
    for own, expected in zip(found, tokenizer.encode([*backbones, backbones[0]]), strict=True):
        assert own.dtype == expected.dtype and np.array_equal(own, expected)
    counted = Counted(tokenizer)
    moved = [backbone + np.float32(1) for backbone in backbones]
    KeptTokens(counted, tmp_path)(moved)
    assert counted.left == 95  # other coordinates
    counted.codes_fingerprint = "other"
    KeptTokens(counted, tmp_path)(backbones)
    assert counted.left == 91
    first = sorted(tmp_path.iterdir())[0]
    first.write_bytes(first.read_bytes()[:-20])
    KeptTokens(Counted(tokenizer), tmp_path)(backbones)


def test_embed_keeps_tokens_of_structures(folders, ubiquitin, tmp_path, monkeypatch):
    given = ["embed", str(ubiquitin), "--model", str(folders / "model"), "--device", "cpu", "--out", str(tmp_path)]
    assert main(given) == 0
    before = pd.read_parquet(tmp_path / "part-00000.parquet")
    monkeypatch.setattr(StructureTokenizer, "encode", None)  # is not called again
    (tmp_path / "part-00000.parquet").unlink()
    assert main(given) == 0
    after = pd.read_parquet(tmp_path / "part-00000.parquet")
    assert np.array_equal(after["structure_embedding"][0], before["structure_embedding"][0])


def test_likelihoods_are_kept_by_all_that_decides_them(tmp_path, monkeypatch):
    made, targets = [], [Target("a", "ACD", None)]

    def some(model, targets, chosen, *_):
        made.append(targets)
        return [{name: np.zeros(3) for name in own} for own in chosen]

    def score(weights="w", proteins=targets, **changed):
        before, model = len(made), SimpleNamespace(fingerprint=weights)
        list(likelihood.residue_likelihoods(model, proteins, reading=Reading(**changed), kept=tmp_path))
        return len(made) > before

    monkeypatch.setattr(likelihood, "_some_likelihoods", some)
    assert score() and not score() and not score(token_budget=9)
    assert score("other weights") and score()
    for changed in ({"marginals": "wild-type"}, {"parts": 2}, {"window": 5}, {"seed": 1}):
        assert score(**changed) and not score(**changed) and score()
    assert score(proteins=[Target("a", "ACE", None)])


def test_likelihoods_resume(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(likelihood, "_PROTEINS_AT_ONCE", 2)
    (tmp_path / "p.fasta").write_text("".join(f">p{n}\n{'ACDEFGHIK'[n:]}\n" for n in range(5)))
    given = ["score", "likelihood", str(tmp_path / "p.fasta"), "--model", str(folders / "model"), "--device", "cpu"]
    assert main([*given, "--out", str(tmp_path / "whole")]) == 0
    plain, calls = likelihood._some_likelihoods, []

    def interrupted(model, targets, *others):
        calls.append([target.name for target in targets])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(model, targets, *others)

    monkeypatch.setattr(likelihood, "_some_likelihoods", interrupted)
    out = tmp_path / "out"
    assert main([*given, "--out", str(out)]) == 130
    shutil.copytree(out, tmp_path / "other")
    assert main([*given, "--out", str(out)]) == 0
    assert calls == [["p0", "p1"], ["p2", "p3"], ["p2", "p3"], ["p4"]]
    pd.testing.assert_frame_equal(pd.read_csv(out / "scores.csv"), pd.read_csv(tmp_path / "whole" / "scores.csv"))
    assert not (out / "unfinished").exists() and (tmp_path / "other" / "unfinished").exists()
    assert main([*given, "--out", str(tmp_path / "other"), "--marginals", "wild-type"]) == 0
    assert calls[4:] == [["p0", "p1"], ["p2", "p3"], ["p4"]]  # other settings

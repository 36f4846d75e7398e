"""The small model that comes with the package does what its card says."""

import re

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from dplm2.cli import main
from dplm2.core.released import BUNDLED
from dplm2.generation.model import DPLM2
from dplm2.geometry.backbone import observed_residues
from dplm2.tokenizer.model import StructureTokenizer

HELD_OUT = "data/demo/test"
ROW = re.compile(r"\| (?P<measure>[a-z][^|]*?) \| (?P<model>[\d.]+) \| (?P<baseline>[\d.]+) \|", re.MULTILINE)


def run(*words) -> None:
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def card() -> dict[str, tuple[float, float]]:
    """The card's table of the bundled held-out chains: the model's figure and the baseline's by measure."""
    text = (BUNDLED["model"]["small"] / "README.md").read_text()
    section = text[text.index("## The demo's held-out chains") :].split("\n## ")[0]
    return {row["measure"]: (float(row["model"]), float(row["baseline"])) for row in ROW.finditer(section)}


@pytest.fixture(scope="module")
def chains(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("held_out")
    run("structures", "clean", request.config.rootpath / HELD_OUT, "--out", folder / "chains")
    run("tokens", "encode", folder / "chains", "--tokenizer", "small", "--out", folder / "tokens")
    return folder


def test_cross_entropies_are_those_of_the_card(card, chains):
    run("evaluate", "likelihood", "--model", "small", "--tokens", chains / "tokens", "--out", chains / "likelihood")
    found = pd.read_csv(chains / "likelihood/summary.csv").set_index("metric")["value"]
    for measure, column in (
        ("structure cross-entropy", "structure_cross_entropy_trained"),
        ("structure cross-entropy, sequence given", "structure_cross_entropy_trained_folding"),
        ("sequence cross-entropy", "sequence_cross_entropy_trained"),
        ("sequence cross-entropy, structure given", "sequence_cross_entropy_trained_inverse_folding"),
    ):
        track = measure.split()[0]
        model, baseline = card[measure]
        assert found[column] == pytest.approx(model, abs=0.01)
        assert found[f"{track}_cross_entropy_unigram"] == pytest.approx(baseline, abs=0.01)


def test_predictions_are_as_good_as_the_card_says(card, chains):
    for task, measure, column in (
        ("folding", "secondary structure right", "secondary_structure"),
        ("inverse-folding", "residues recovered", "recovery"),
    ):
        samples = chains / f"samples-{task}"
        run("generate", task, "--model", "small", "--chains", chains / "chains", "--set", "steps=20", "--out", samples)
        run(
            "evaluate", task, "--samples", samples, "--chains", chains / "chains", "--model", "small",
            "--set", "self.steps=4", "--out", chains / f"evaluation-{task}",
        )  # fmt: skip
        metrics = pd.read_parquet(chains / f"evaluation-{task}/metrics.parquet")
        assert metrics[column].mean() == pytest.approx(
            card[measure][0], abs=0.03
        )  # arg max: near ties may fall either way


def test_the_model_has_learned_the_codes_of_the_small_tokenizer(chains):
    model, tokenizer = DPLM2.from_pretrained("small"), StructureTokenizer.from_pretrained("small")
    assert model.network.tokenizer_fingerprint == tokenizer.codes_fingerprint
    row = pq.read_table(chains / "chains/part-00000.parquet").to_pylist()[0]
    backbone = np.array(row["backbone"], np.float32).reshape(-1, 4, 3)
    folded = model.generate("folding", sequences=[row["sequence"]], steps=4)[0]
    assert folded.backbone.shape == backbone.shape and observed_residues(folded.backbone).all()

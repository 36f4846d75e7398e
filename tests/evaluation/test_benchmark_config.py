"""The benchmark configuration: valid, and with the published settings."""

from pathlib import Path

from dplm2 import config
from dplm2.evaluation.settings import EvaluationSettings
from dplm2.generation.settings import resolve

CONFIG = Path(__file__).parents[2] / "config"


def test_benchmark_configuration_is_valid_and_as_published():
    whole = config.load(CONFIG / "benchmark.yaml")
    tasks = {name: resolve(section) for name, section in whole["generation"].items()}
    settings = config.build(EvaluationSettings, whole["evaluation"])
    assert tasks["co-generation"].lengths == (100, 200, 300, 400, 500)
    assert (tasks["co-generation"].steps, tasks["co-generation"].samples) == (500, 100)
    assert (tasks["folding-cameo2022"].steps, tasks["folding-cameo2022"].strategy) == (100, "argmax")
    assert (settings.proteinmpnn.temperature, settings.proteinmpnn.seed) == (0.1, 38)
    assert (settings.motif_rmsd, settings.motif_sc_tm, settings.motif_plddt) == (1.0, 0.8, 70)


def test_lists_of_test_sets_are_whole():
    lists = {path.stem: path.read_text().splitlines() for path in (CONFIG / "test_sets").glob("*.txt")}
    names = {name: [line for line in lines if not line.startswith("#")] for name, lines in lists.items()}
    assert {name: len(set(entries)) for name, entries in names.items()} == {"cameo2022": 183, "pdb_date": 449}
    assert "7w2p" in names["pdb_date"]  # the released evaluator scores it as RMSD 100 whatever the prediction


def test_cameo_list_is_that_of_the_corpus(corpus_folder):
    lines = (CONFIG / "test_sets" / "cameo2022.txt").read_text().splitlines()
    names = {line for line in lines if not line.startswith("#")}
    assert names == {path.name.split(".")[0] for path in (corpus_folder / "cameo2022").iterdir()}


def test_the_two_small_models_have_the_same_budget():
    whole = config.load(CONFIG / "small.yaml")
    scratch, warmed = whole["models"]["scratch"], whole["models"]["warmed-up"]
    before = warmed["warmup"]["sequence_training"]
    assert scratch["warmup"]["sequence_stage"] == "never"
    assert before["steps"] + warmed["training"]["steps"] == scratch["training"]["steps"]
    for part in ("network", "diffusion", "tokenizer", "datasets"):
        assert scratch[part] == warmed[part]
    for training in (before, warmed["training"]):
        assert training | {"steps": 0} == scratch["training"] | {"steps": 0}
    settings = config.build(EvaluationSettings, whole["evaluation"])
    assert "cameo2022" in settings.reconstruction
    assert {task["task"] for task in whole["generation"].values()} == {"folding", "inverse-folding"}

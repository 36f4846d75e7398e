"""All tasks and options with each structure head that has its own weights, from a saved folder."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dplm2.cli import main
from dplm2.core.errors import DPLM2Error
from dplm2.generation.model import DPLM2
from dplm2.generation.samples import read_samples
from dplm2.generation.task import Target
from dplm2.language import heads
from dplm2.language.esm import Esm2, Esm2Config
from dplm2.language.guidance import token_bias
from dplm2.language.network import MultimodalEsm
from dplm2.language.vocabulary import Vocabulary
from dplm2.representations.embedding import embed
from dplm2.tokenizer import tokens
from dplm2.tokenizer.model import StructureTokenizer

AMINO_ACIDS = set("ACDEFGHIKLMNPQRSTVWY")
MOTIF = "name: helix\nreference: {reference}\ncontig: 3-9,A23-34,4-8\n"


@pytest.fixture(scope="module", params=[name for name in heads.HEADS if name != heads.DEFAULT])
def folder(request, folders, tmp_path_factory):
    """A model of random weights beside the tokenizer of the other tests."""
    torch.manual_seed(0)
    tokenizer = StructureTokenizer.from_pretrained(folders / "tokenizer")
    vocabulary = Vocabulary(tokenizer.codebook_size)
    head = heads.make(request.param, vocabulary, 16, tokenizer.settings.quantizer.layout)
    named = {"tokenizer": str(folders / "tokenizer"), "tokenizer_fingerprint": tokenizer.codes_fingerprint}
    network = MultimodalEsm(Esm2(Esm2Config(head.table_rows, 16, 2, 2, 32)), vocabulary, head=head, **named)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp(request.param) / "model"
    network.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return DPLM2.from_pretrained(folder)


@pytest.fixture
def helix(ubiquitin, tmp_path):
    (tmp_path / "helix.yaml").write_text(MOTIF.format(reference=ubiquitin))
    return tmp_path / "helix.yaml"


def test_co_generation_and_single_track_generation(model):
    samples = model.generate("co-generation", lengths=[5, 9], samples=2, steps=3)
    assert [sample.length for sample in samples] == [5, 5, 9, 9]
    for sample in samples:
        assert set(sample.sequence) <= AMINO_ACIDS and np.isfinite(sample.backbone).all()
        assert sample.settings["strategy"] == model.network.head.sampling.strategy
    (sequence,) = model.generate("sequence", lengths=[6], samples=1, steps=3)
    (backbone,) = model.generate("backbone", lengths=[6], samples=1, steps=3)
    assert sequence.backbone is None and len(sequence.sequence) == 6
    assert backbone.sequence is None and backbone.backbone.shape == (6, 4, 3)


def test_given_tokens_are_kept(model, ubiquitin):
    (designed,) = model.generate("inverse-folding", chains=[ubiquitin], fixed="1-10", steps=3)
    codes = designed.structure_tokens
    assert designed.given["structure"].all() and set(designed.sequence) <= AMINO_ACIDS
    # With bits, the authors' program writes code 0 as the structure of inverse-folding samples.
    decoded = model.tokenizer.decode(codes)
    np.testing.assert_allclose(designed.backbone, decoded.backbone, atol=1e-3)
    (folded,) = model.generate("folding", sequences={"p": designed.sequence}, steps=3, guidance=1.5)
    assert folded.sequence == designed.sequence and np.isfinite(folded.backbone).all()
    (filled,) = model.generate("infilling", chains=[ubiquitin], mask_sequence="8-11", mask_structure="9,70-76", steps=4)
    assert np.array_equal(filled.structure_tokens[9:69], codes[9:69])
    (variant,) = model.generate("infilling", chains=[ubiquitin], renoise=0.3, samples=1, steps=10)
    assert (variant.structure_tokens == codes).mean() > 0.3


def test_scaffolding_with_guidance_and_best_of_keeps_the_motif(model, helix):
    for sample in model.generate("scaffolding", problems=[helix], samples=2, steps=3, best_of=2, guidance=2.0):
        assert sample.given["structure"].sum() == 12 and sample.log_likelihood < 0
        assert np.isfinite(sample.backbone).all()


def test_callbacks_strategies_and_trajectories_work(model):
    bias = np.where(np.arange(16) == 3, 50.0, 0.0)
    adjust = token_bias("structure", bias, model.vocabulary)
    for strategy in ("argmax", "gumbel_argmax", "temperature@0.5"):
        options = {
            "strategy": strategy,
            "remasking": "kept",
            "trajectory": 2,
            "lengths": [12],
            "samples": 1,
            "steps": 4,
        }
        (sample,) = model.generate("co-generation", adjust=adjust, **options)
        assert (sample.structure_tokens == 3).all() and [step for step, _, _ in sample.trajectory] == [2, 4]


def test_samples_depend_only_on_seed_and_id(model):
    few = model.generate("co-generation", lengths=[7, 20], samples=2, steps=4, seed=3)
    many = model.generate("co-generation", lengths=[20, 7, 31], samples=5, steps=4, seed=3, token_budget=60)
    of_many = {sample.sample_id: sample for sample in many}
    for sample in few:
        assert of_many[sample.sample_id].sequence == sample.sequence
        assert np.array_equal(of_many[sample.sample_id].structure_tokens, sample.structure_tokens)


def test_half_precision_generates_valid_samples(model):
    (sample,) = model.generate("co-generation", lengths=[20], samples=1, steps=4, precision="bfloat16")
    assert set(sample.sequence) <= AMINO_ACIDS and np.isfinite(sample.backbone).all()


def test_embeddings_have_vectors_of_each_track(model):
    both = Target("both", "ACDEF", np.array([0, 5, -1, 15, 3]))
    targets = [both, Target("sequence", "ACD?", None), Target("structure", None, np.array([1, 2, 3]))]
    table = embed(model, targets)
    columns = [[value is not None for value in table[f"{t}_embedding"].to_pylist()] for t in ("sequence", "structure")]
    assert columns == [[True, True, False], [True, False, True]] and table["width"].to_pylist() == [16] * 3
    alone = embed(model, targets[:1])
    np.testing.assert_allclose(
        alone["structure_embedding"][0].as_py(), table["structure_embedding"][0].as_py(), atol=1e-5
    )


def test_command_line_uses_the_defaults_of_the_head(folder, tmp_path):
    arguments = ["generate", "co-generation", "--model", folder, "--out", tmp_path / "out", "--device", "cpu"]
    assert main([str(a) for a in [*arguments, "--set", "lengths=[6]", "samples=2", "steps=3"]]) == 0
    sampling = DPLM2.from_pretrained(folder).network.head.sampling
    note = json.loads((tmp_path / "out/run.json").read_text())["settings"]
    defaults = (sampling.strategy, sampling.unmasking, sampling.nucleus)
    assert (note["strategy"], note["unmasking"], note["nucleus"]) == defaults
    for row in read_samples(tmp_path / "out").to_pylist():
        assert json.loads(row["settings"])["strategy"] == sampling.strategy


def with_sampling(folder, recommended, copy):
    shutil.copytree(folder, copy)
    config = json.loads((folder / "config.json").read_text())
    config["dplm2"]["sampling"] = recommended
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def test_a_model_recommends_how_to_sample_from_it(folder, tmp_path):
    """For design tasks; given settings take precedence, and a copy of the model keeps the recommendation."""
    recommended = {"strategy": "temperature@0.5", "unmasking": "stochastic@10"}
    recommending = with_sampling(folder, recommended, tmp_path / "own")
    model = DPLM2.from_pretrained(recommending)
    (designed,) = model.generate("co-generation", lengths=[6], samples=1, steps=2)
    assert (designed.settings["strategy"], designed.settings["unmasking"]) == ("temperature@0.5", "stochastic@10")
    (other,) = model.generate("co-generation", lengths=[6], samples=1, steps=2, unmasking="stochastic@2.0")
    assert (other.settings["strategy"], other.settings["unmasking"]) == ("temperature@0.5", "stochastic@2.0")
    assert model.fold("ACDEFG", steps=2).settings["strategy"] == "argmax"
    model.network.save_pretrained(tmp_path / "copy")
    assert MultimodalEsm.from_pretrained(tmp_path / "copy").head.sampling == model.network.head.sampling


@pytest.mark.parametrize(
    ("recommended", "said"),
    [
        ({"strategy": "warm"}, "sampling: strategy: 'warm': must be argmax"),
        ({"steps": 3}, "sampling: steps is unknown; available: strategy, unmasking, nucleus"),
        ([1], "not the configuration of a model"),
    ],
)
def test_wrong_recommendations_are_refused(folder, tmp_path, recommended, said):
    with pytest.raises(DPLM2Error, match=f"config.json: {said}"):
        DPLM2.from_pretrained(with_sampling(folder, recommended, tmp_path / "wrong"))


def test_likelihood_of_a_zero_head_is_uniform(folder, tmp_path):
    """``dplm2 evaluate likelihood``: log 16 nats for 16 codes, log 33 for the amino-acid track's ids."""
    network = MultimodalEsm.from_pretrained(folder)
    with torch.no_grad():
        for layer in (network.head.leave, network.model.lm_head):
            layer.decoder.weight.zero_()
            layer.bias.zero_()
    network.save_pretrained(tmp_path / "model")
    random = np.random.default_rng(0)
    rows = [
        {"chain_id": f"c{i}", "sequence": "".join(random.choice(list("ACDE"), 40)), "length": 40, "split": "train",
         "structure_tokens": random.integers(0, 16, 40).tolist(), "observed": [True] * 40}
        for i in range(4)
    ]  # fmt: skip
    metadata = {"tokenizer_fingerprint": network.tokenizer_fingerprint, "codebook_size": "16"}
    (tmp_path / "tokens").mkdir()
    table = pa.Table.from_pylist(rows, tokens.SCHEMA).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "tokens" / "part-00000.parquet")
    words = ["--model", tmp_path / "model", "--tokens", tmp_path / "tokens", "--out", tmp_path / "out"]
    assert main(["evaluate", "likelihood", *map(str, words)]) == 0
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("metric")["value"]
    for track, count in (("structure", 16), ("sequence", 33)):
        assert summary[f"{track}_cross_entropy_trained"] == pytest.approx(np.log(count), rel=1e-4)

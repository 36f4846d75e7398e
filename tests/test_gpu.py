"""Results that must be the same on a GPU; skipped without one."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from dplm2.cli import main
from dplm2.cpu import attention
from dplm2.generation.model import DPLM2
from dplm2.geometry.tm_score import tm_score
from dplm2.language import diffusion, heads, layout
from dplm2.language.conditioning import Conditioning
from dplm2.language.denoising import Denoiser
from dplm2.language.esm import Esm2, Esm2Config
from dplm2.language.network import MultimodalEsm
from dplm2.language.randomness import Words, class_uniforms
from dplm2.language.schedule import SamplerSettings
from dplm2.language.vocabulary import TRACKS, Vocabulary
from dplm2.settings.model import DiffusionSettings
from dplm2.structures.store import backbones
from dplm2.tokenizer.model import StructureTokenizer
from dplm2.training.devices import compiled
from tests.tokenizer.test_training import SIZES, table_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SMALL_TOKENIZER = "dplm2/assets/small_tokenizer"


def tokenizers():
    return [StructureTokenizer.from_pretrained(SMALL_TOKENIZER, device) for device in ("cpu", "cuda")]


def chains():
    """With noise, since in regular chains several residues are equally distant, and any may be the nearest."""
    rng = np.random.default_rng(0)
    return [chain + rng.normal(0, 0.1, chain.shape) for chain in backbones(table_of((18, 25, 60, 41, 140)))]


def network_of(device, width=64, head=heads.DEFAULT):
    torch.manual_seed(0)
    vocabulary = Vocabulary()
    made = heads.make(head, vocabulary, width, (5, 4, 4))
    model = Esm2(Esm2Config(made.table_rows, width, 3, 2, 2 * width))
    return MultimodalEsm(model, vocabulary, tokenizer=SMALL_TOKENIZER, head=made).eval().to(device)


def batch_of(vocabulary):
    rng = np.random.default_rng(0)
    structures = [rng.integers(36, 200, length) for length in (30, 12, 25, 30)]
    sequences = [rng.integers(4, 24, len(row)) for row in structures]
    return layout.join(vocabulary, structures, sequences), torch.tensor([False, True, False, True])


def test_tokens_and_structures_equal_those_on_the_cpu():
    there, here = tokenizers()
    expected, found = there.encode(chains()), here.encode(chains())
    assert (np.concatenate(expected) == np.concatenate(found)).mean() > 0.99
    for one, other in zip(there.decode(expected), here.decode(expected), strict=True):
        assert np.abs(one.backbone - other.backbone).max() < 0.02
        assert np.abs(one.plddt - other.plddt).max() < 0.1


def test_lower_precision_is_close():
    _, here = tokenizers()
    tokens = here.encode(chains())
    lower = here.decode(tokens, precision="bfloat16")
    for one, other in zip(here.decode(tokens), lower, strict=True):
        assert np.abs(one.backbone - other.backbone).max() < 1.0


@pytest.mark.parametrize("head", heads.HEADS)
@torch.no_grad()
def test_network_equals_that_on_the_cpu(head):
    there, here = network_of("cpu", head=head), network_of("cuda", head=head)
    ids_BT, single_B = batch_of(there.vocabulary)
    expected, found = there(ids_BT, single_B), here(ids_BT.cuda(), single_B.cuda()).cpu()
    structure_BT = there.is_scored(ids_BT, "structure")
    for track, chosen_BT in (("structure", structure_BT), ("sequence", there.is_scored(ids_BT, "sequence"))):
        classes, chosen_BT = there.classes(track), chosen_BT & (ids_BT != there.vocabulary.pad)
        one, other = (logits[chosen_BT][:, classes.start : classes.stop] for logits in (expected, found))
        assert torch.allclose(one, other, atol=1e-4 * float(one.abs().max()))
    hidden_ND, ids_N = there.hidden(ids_BT)[structure_BT], ids_BT[structure_BT]
    nll_N = here.nll(hidden_ND.cuda(), ids_N.cuda(), "structure").cpu()
    assert torch.allclose(there.nll(hidden_ND, ids_N, "structure"), nll_N, rtol=1e-4)


@pytest.mark.parametrize("head", heads.HEADS)
@pytest.mark.parametrize("is_compiled", [False, True])
def test_segment_attention_equals_masked_attention(is_compiled, head):
    """Losses and gradients in bfloat16 with the kernel for segments and with a mask."""
    if not attention.takes_bounds(torch.device("cuda"), torch.bfloat16):
        pytest.skip("this version of torch has no such kernel")
    network = network_of("cuda", head=head)
    objective = diffusion.DiffusionObjective(network, DiffusionSettings.make())
    ids_BT, _ = batch_of(network.vocabulary)
    generator, tasks_B = torch.Generator().manual_seed(0), torch.tensor([0, 1, 2, 3])
    times = diffusion.draw_times(tasks_B, 500, generator)
    noised = diffusion.add_noise(network.vocabulary, ids_BT, tasks_B, times, DiffusionSettings.make(), generator)
    batch = {name: value.cuda() for name, value in noised.batch().items()}
    found = []
    for packing in (False, None):
        network.packing = packing
        if packing is None and is_compiled:
            compiled(objective, network.device)
        network.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            assert network.packs == (packing is None)
            loss, _ = objective(batch)
        loss.backward()
        loss = loss.detach()
        gradient = network.model.esm.encoder.layer[0].attention.self.query.weight.grad
        found.append((float(loss), gradient.clone()))
    (masked_loss, masked_gradient), (loss, gradient) = found
    assert loss == pytest.approx(masked_loss, rel=5e-3)
    assert float((gradient - masked_gradient).norm() / masked_gradient.norm()) < 0.05


def test_training_resumes(tmp_path, capfd):
    """Six steps, and the same with an interruption: equal weights within rounding (atomic additions vary)."""
    (tmp_path / "chains").mkdir()
    pq.write_table(table_of(), tmp_path / "chains" / "part-00000.parquet")

    def train(name, **limits):
        training = {**SIZES["training"], "steps": 6, "optimizer": "muon", **limits}
        whole = {
            "tokenizers": {"t": {**SIZES, "training": training, "datasets": ["d"]}},
            "datasets": {"d": {"files": "x"}},
            "device": "cuda",
        }
        folders = ["--chains", tmp_path / "chains", "--out", tmp_path / name, "--state", tmp_path / f"{name}-state"]
        return main([str(word) for word in ["tokenizer", "train", *folders, "--config", json.dumps(whole)]])

    assert train("straight") == 0
    assert train("stopped", time_limit_minutes=1e-6) == 75
    assert train("stopped") == 0
    assert "resumes after step 1 of 6" in "".join(capfd.readouterr())
    straight, stopped = (load_file(tmp_path / name / "model.safetensors") for name in ("straight", "stopped"))
    for name, value in straight.items():
        assert torch.allclose(value, stopped[name], atol=1e-4), name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("task", ["co-generation", "folding", "inverse-folding"])
def test_generation_runs(task, precision):
    model = DPLM2(network_of("cuda"), StructureTokenizer.from_pretrained(SMALL_TOKENIZER, "cuda"))
    given = {"co-generation": {"lengths": [20, 30], "samples": 1}}.get(task, {})
    if task == "folding":
        given["sequences"] = ["ACDEFGHIKLMNPQRSTVWY", "MKTAYIAKQRQISFV"]
    if task == "inverse-folding":
        given["backbones"] = chains()[:2]
    samples = model.generate(task, seed=0, steps=4, precision=precision, **given)
    assert len(samples) == 2
    for sample in samples:
        assert len(sample.sequence) == len(sample.structure_tokens)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("remasking", ["fresh", "never"])
@pytest.mark.parametrize("head", heads.HEADS)
def test_a_sampling_step_does_not_wait_for_the_device(head, remasking, precision):
    network = network_of("cuda", head=head).to(precision)
    tokens = {track: np.full(20, network.vocabulary.mask(track)) for track in TRACKS}
    free = {track: np.zeros(20, bool) for track in TRACKS}
    samples = [Conditioning(name, tokens, free, steps=8) for name in ("a", "b")]
    settings = SamplerSettings.of("annealing@2.0:0.1", "stochastic@1.0", remasking=remasking, guidance=1.5)
    denoiser = Denoiser(network, samples, [1, 2], settings)
    denoiser.advance()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            denoiser.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all((ids != network.vocabulary.mask(track)).all() for r in denoiser.run() for track, ids in r.tokens.items())


def test_random_numbers_are_those_of_the_cpu():
    steps = torch.arange(40) * 13
    seeds = [2654435761 * number % 2**63 for number in range(40)]
    there, here = (
        Words(seeds, torch.device(device)).of_step(steps.to(device), 500).cpu() for device in ("cpu", "cuda")
    )
    assert torch.equal(there, here)
    uniforms = [class_uniforms(words[:2, :50, 0].flatten().to(device), 8192).cpu()
                for words, device in ((there, "cpu"), (here, "cuda"))]  # fmt: skip
    assert torch.equal(*uniforms)


def test_tm_scores_equal_those_on_the_cpu():
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(5, 80, 3, generator=generator).cumsum(1) * 2
    moved = true + torch.randn(5, 80, 3, generator=generator)
    assert torch.allclose(tm_score(moved.cuda(), true.cuda()).cpu(), tm_score(moved, true), atol=1e-4)

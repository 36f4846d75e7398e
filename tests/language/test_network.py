"""The network against recorded values of the authors' implementation, and its invariances."""

import json

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForMaskedLM, AutoTokenizer

from dplm2.core.errors import DPLM2Error
from dplm2.cpu import attention
from dplm2.language import layout
from dplm2.language.esm import Esm2, Esm2Config
from dplm2.language.network import MultimodalEsm
from dplm2.training.devices import compiled

TOLERANCE = 1e-4
INPUTS = ["cogen", "padded", "single_modality", "aa_only", "struct_only", "all_masked", "folding", "inverse_folding"]
UNSCALED = ["cogen_no_token_dropout", "padded_no_token_dropout"]


def plain_varlen_attention(query, key, value, starts, _, longest, __, scale):
    """The result of the GPU kernel, computed with a mask."""
    segment_N = torch.bucketize(torch.arange(len(query)), starts[1:], right=True)
    assert int(torch.bincount(segment_N).max()) <= longest
    tracks = (t.transpose(0, 1) for t in (query, key, value))
    mask_NN = segment_N[:, None] == segment_N
    return torch.nn.functional.scaled_dot_product_attention(*tracks, attn_mask=mask_NN, scale=scale).transpose(0, 1)


@pytest.fixture(params=["packed", "masked", "lined up"])
def packing(request, monkeypatch):
    """Each way to separate the samples of a batch, including that of GPUs."""
    if request.param == "lined up":
        monkeypatch.setattr(attention, "takes_bounds", lambda *_: True)
        monkeypatch.setattr(attention, "varlen_attn", plain_varlen_attention)
    return request.param != "masked"


def largest_relative(ours, recorded, where):
    return float((ours - recorded)[where].abs().max() / recorded[where].abs().max())


@pytest.mark.parametrize("name", INPUTS + UNSCALED)
@torch.no_grad()
def test_network_reproduces_the_recorded_values(recorded_tensors, released_network, name, packing):
    values = recorded_tensors(f"lm_tiny/forward_{name}")
    network, ids_BT = released_network, values["input_ids"]
    network.packing = packing
    network.embedding_scaling = "none" if name in UNSCALED else "released"
    single_B = values.get("single_modality")
    hidden_BTD = network.hidden(ids_BT, single_B)
    real_BT = ids_BT != network.vocabulary.pad
    assert largest_relative(network.embeddings(ids_BT), values["embeddings_twice"], real_BT) < TOLERANCE
    assert largest_relative(hidden_BTD, values["last_hidden_state"], real_BT) < TOLERANCE
    columns = values.get("logit_columns", torch.arange(len(network.vocabulary)))
    logits = network(ids_BT, single_B)[..., columns]
    assert largest_relative(logits, values["logits"], real_BT) < TOLERANCE
    for track in ("structure", "sequence"):
        classes = network.vocabulary.classes(track)
        own = (columns >= classes.start) & (columns < classes.stop)
        of_track = network.track_logits(hidden_BTD[real_BT], track)[:, columns[own] - classes.start]
        expected = values["logits"][real_BT][:, own]
        assert torch.allclose(of_track, expected, atol=TOLERANCE * float(expected.abs().max()))


@torch.no_grad()
def test_scaling_once_reproduces_the_recorded_embeddings(recorded_tensors, released_network):
    values = recorded_tensors("lm_tiny/forward_padded")
    released_network.embedding_scaling = "once"
    real_BT = values["input_ids"] != 1
    ours = released_network.embeddings(values["input_ids"])
    assert largest_relative(ours, values["embeddings_once"], real_BT) < TOLERANCE


def ids_of(network, rng, length):
    vocabulary = network.vocabulary
    return rng.integers(36, vocabulary.mask_structure, length), rng.integers(4, 24, length)


@torch.no_grad()
def test_sample_does_not_depend_on_its_batch(small_network, packing):
    """Samples of both tracks, of one track, and of single modality have the same output in a batch and alone."""
    network, rng = small_network, np.random.default_rng(0)
    network.packing = packing
    (s0, a0), (s1, _), (_, a2), (s3, a3) = (ids_of(network, rng, length) for length in (7, 4, 9, 5))
    tracks = [(s0, a0), (s1, None), (None, a2), (s3, a3)]
    single_B = torch.tensor([False, False, False, True])
    ids_BT = layout.join(network.vocabulary, [s for s, _ in tracks], [a for _, a in tracks])
    together = network(ids_BT, single_B)
    for row, (structure, sequence) in enumerate(tracks):
        alone_1T = layout.join(network.vocabulary, [structure], [sequence])
        alone = network(alone_1T, single_B[row : row + 1])
        assert torch.allclose(together[row][ids_BT[row] != 1], alone[0], atol=1e-5)


@torch.no_grad()
def test_tracks_of_a_single_modality_sample_are_independent(small_network):
    network, rng = small_network, np.random.default_rng(1)
    structure, sequence = ids_of(network, rng, 6)
    both = layout.join(network.vocabulary, [structure], [sequence])
    alone = [layout.join(network.vocabulary, *pair) for pair in (([structure], [None]), ([None], [sequence]))]
    apart = network(both, torch.tensor([True]))
    assert torch.allclose(apart, torch.cat([network(ids) for ids in alone], 1), atol=1e-5)
    assert not torch.allclose(apart, network(both), atol=1e-3)


@torch.no_grad()
def test_both_tracks_share_residue_positions(small_network):
    """With equal tokens on both tracks, exchanging the halves exchanges the outputs."""
    network, rng = small_network, np.random.default_rng(2)
    structure, sequence = ids_of(network, rng, 6)
    half = layout.join(network.vocabulary, [structure], [None])[0]
    other = layout.join(network.vocabulary, [None], [sequence])[0]
    positions = network.positions(torch.cat([half, other])[None])
    assert positions.tolist() == [[*range(8), *range(8)]]


def test_saved_model_opens_here_and_with_transformers(small_network, tmp_path):
    small_network.tokenizer, small_network.tokenizer_fingerprint = "../tokenizer", "abc"
    small_network.embedding_scaling = "once"
    small_network.save_pretrained(tmp_path)
    again = MultimodalEsm.from_pretrained(tmp_path)
    assert again.description == small_network.description
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path)
    for name, value in small_network.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
        assert torch.equal(value, theirs.state_dict()[name])
    assert (tmp_path / "vocab.txt").read_text().splitlines() == list(small_network.vocabulary.tokens)


@torch.no_grad()
@pytest.mark.parametrize("codes", [0, 20])
def test_transformers_reproduces_ids_and_logits(small_network, tmp_path, codes):
    """``AutoTokenizer`` has the ids of our vocabulary, all within the rows of ``AutoModelForMaskedLM``."""
    network = small_network
    if not codes:
        network = MultimodalEsm(Esm2(Esm2Config(33, 32, 2, 4, 64)), network.vocabulary).eval()
    network.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    vocabulary, rows = network.vocabulary, network.model.config.vocab_size
    ids = tokenizer("MKTAX<mask_aa>")["input_ids"]
    assert ids == [0, *vocabulary.encode_sequence("MKTAX"), 32, 2]
    assert len(tokenizer) == rows and tokenizer.vocab_size == rows
    texts = vocabulary.tokens[:rows]
    assert tokenizer.convert_tokens_to_ids(list(texts)) == list(range(rows))
    assert tokenizer("".join(texts), add_special_tokens=False)["input_ids"] == list(range(rows))
    assert max(tokenizer("MJ*<mask>9999")["input_ids"]) < rows
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    ids_BT = torch.tensor([ids])
    assert torch.allclose(theirs(ids_BT).logits, network(ids_BT), atol=1e-5)
    assert ModelCard.load(tmp_path / "README.md").data.library_name == "dplm2"


def test_folders_without_a_model_are_refused(small_network, tmp_path):
    with pytest.raises(DPLM2Error, match="no such folder"):
        MultimodalEsm.from_pretrained(tmp_path / "nothing" / "at" / "all")
    with pytest.raises(DPLM2Error, match="config.json"):
        MultimodalEsm.from_pretrained(tmp_path)
    small_network.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["dplm2"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DPLM2Error, match="no entry 'dplm2'"):
        MultimodalEsm.from_pretrained(tmp_path)


def test_impossible_width_is_refused():
    with pytest.raises(DPLM2Error, match="heads of even width"):
        Esm2Config(57, 30, 1, 4, 64)


def test_bfloat16_agrees_with_float32(small_network):
    ids_BT = layout.join(small_network.vocabulary, [np.arange(36, 44), None], [np.arange(4, 12), np.arange(4, 9)])
    single_B = torch.tensor([True, True])
    for packing in (True, False):
        small_network.packing = packing
        with torch.no_grad():
            full = small_network(ids_BT, single_B)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                half = small_network(ids_BT, single_B)
        real_BT = ids_BT != 1
        assert torch.isfinite(half[real_BT]).all()
        assert torch.allclose(full[real_BT], half[real_BT].float(), atol=0.05)


def test_network_is_compiled_once_for_all_lengths(small_network):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(small_network.positions, backend=counter, dynamic=True)
    rng = np.random.default_rng(0)
    for length in (9, 14, 20, 31, 47):
        structure, sequence = ids_of(small_network, rng, length)
        ids = layout.join(small_network.vocabulary, [structure], [sequence])
        assert torch.equal(compiled(ids), small_network.positions(ids))
    assert counter.frame_count == 1


def test_layers_are_compiled_once_on_a_gpu(small_network, monkeypatch):
    """The results are those of the uncompiled network."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter, compile_module = CompileCounter(), torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda part, **how: compile_module(part, backend=counter, **how))
    small_network.packing = False
    rng = np.random.default_rng(0)
    batches = []
    for length in (9, 14, 20, 31):
        structure, sequence = ids_of(small_network, rng, length)
        batches.append(layout.join(small_network.vocabulary, [structure], [sequence]))
    with torch.no_grad():
        expected = [small_network(ids) for ids in batches]
        assert compiled(small_network, torch.device("cuda")) is small_network
        for ids, logits in zip(batches, expected, strict=True):
            assert torch.allclose(small_network(ids), logits, atol=1e-6)
    assert 1 <= counter.frame_count <= 2
